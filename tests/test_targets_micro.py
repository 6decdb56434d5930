"""compresskit.targets.micro: from a recipe to a file that TensorFlow Lite Micro runs."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

import compresskit as ck
from compresskit.errors import TargetError
from compresskit.evaluation import evaluate
from compresskit.exporting import export
from compresskit.tflite.audit import audit
from compresskit.tflite.decode import DECODE
from tests.models import mlp
from tests.runs import digits, finished, recipe_file, report_in, start

pytestmark = pytest.mark.skipif(
    find_spec("tflite_micro") is None, reason="tflite-micro is not installed"
)
CLUSTERS = 8
PCQAT = [
    {"type": "prune", "sparsity": 0.5, "frequency": "2st", "epochs": 1},
    {"type": "cluster", "clusters": CLUSTERS, "epochs": 1},
    {"type": "qat", "epochs": 1},
]
EXPORTS = [
    {"target": "micro", "compress": "lut", "parity": {"min_agreement": 0.95}},
    {"target": "micro", "name": "plain", "parity": {"min_agreement": 0.95}},
]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn"])
def test_tables_in_flash_prove_what_the_stages_made(tmp_path, model):
    builder = {"builder": "tests.runs:untrained", "args": {"model": model}}
    path = recipe_file(tmp_path, model=builder, stages=PCQAT, export=EXPORTS)
    status, _, err = finished(start("apply", path, "--out", tmp_path / "out"))
    assert status == 0, err
    tables, plain = report_in(tmp_path / "out")["artifacts"]
    assert tables["ops"][DECODE] >= 1
    assert tables["weight_bytes"] < plain["weight_bytes"]
    assert tables["metrics"] == plain["metrics"]
    assert tables["parity"] == plain["parity"]
    assert tables["claim"].startswith("runs in TensorFlow Lite Micro")
    assert "decoded from look-up tables" in tables["notes"][-1]
    for one, other in zip(tables["tensors"], plain["tensors"], strict=True):
        assert one["distinct"] == other["distinct"] <= CLUSTERS
        assert one["sparsity"] == other["sparsity"] >= 0.49
    file = tmp_path / "out" / tables["path"]
    assert evaluate(file, digits())["accuracy"] == tables["metrics"]["accuracy"]


def test_export_as_it_is(tmp_path):
    model = mlp()
    for weight in model.trainable_variables:
        if len(weight.shape) == 2:
            weight.assign(np.sign(weight))
    path = tmp_path / "m.tflite"
    data = digits().x_train[:20]
    export(model, target="micro", path=path, representative_data=data, compress="lut")
    assert DECODE in audit(path.read_bytes()).counts


def test_other_targets_decode_nothing(tmp_path):
    with pytest.raises(TargetError) as raised:
        ck.export(mlp(), target="edge-cpu", path=tmp_path / "m.tflite", compress="lut")
    (problem,) = raised.value.problems
    assert problem.found == "lut for target 'edge-cpu'"
    assert not list(tmp_path.iterdir())
