"""compresskit.targets.micro: from a recipe to a file that TensorFlow Lite Micro runs."""

from __future__ import annotations

import re
from importlib.util import find_spec

import numpy as np
import pytest

import compresskit as ck
from compresskit.errors import ModelError, TargetError
from compresskit.evaluation import evaluate
from compresskit.exporting import export
from compresskit.resolution import resolve
from compresskit.tflite import micro
from compresskit.tflite.audit import audit
from compresskit.tflite.decode import DECODE
from compresskit.tflite.micro import arena_bytes
from tests.files import int8_file
from tests.models import mlp
from tests.runs import command, digits, recipe, recipe_file, report_in

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
    {"target": "micro", "name": "plain", "parity": {"min_agreement": 0.95}, "c_array": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn"])
def test_tables_in_flash_prove_what_the_stages_made(tmp_path, model):
    builder = {"builder": "tests.runs:untrained", "args": {"model": model}}
    path = recipe_file(tmp_path, model=builder, stages=PCQAT, export=EXPORTS)
    done = command("apply", path, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
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
    assert plain["flash_bytes"] == plain["bytes"] > tables["flash_bytes"]
    # Decoded weights take memory while their op runs.
    assert tables["arena_bytes"] > plain["arena_bytes"] > 0
    assert tables["c_array"] == []
    assert plain["c_array"] == ["plain.h", "plain.c"]
    header = (tmp_path / "out" / "plain.h").read_text(encoding="ascii")
    assert f"#define G_PLAIN_ARENA_SIZE {plain['arena_bytes']}\n" in header
    assert "plain.tflite: " in done.stdout.replace("\n", " ")
    assert f"an arena of {plain['arena_bytes']:,} bytes" in done.stdout
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


class TestCArray:
    def test_beside_the_file(self, tmp_path):
        path = tmp_path / "m.tflite"
        data = digits().x_train[:20]
        ck.export(mlp(), target="micro", path=path, representative_data=data, c_array=True)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["m.c", "m.h", "m.tflite"]
        content = path.read_bytes()
        assert f"g_m_model_len = {len(content)};" in (tmp_path / "m.c").read_text()
        assert f"G_M_ARENA_SIZE {arena_bytes(content, 'm')}\n" in (tmp_path / "m.h").read_text()

    def test_other_targets_have_none(self, tmp_path):
        with pytest.raises(TargetError) as raised:
            ck.export(mlp(), target="edge-cpu", path=tmp_path / "m.tflite", c_array=True)
        (problem,) = raised.value.problems
        assert problem.found == "a C array for target 'edge-cpu'"
        assert not list(tmp_path.iterdir())

    def test_in_a_recipe(self):
        wrong = recipe(stages=[], export=[{"target": "edge-cpu", "c_array": True}])
        _, (problem,) = resolve(wrong)
        assert problem.where == "export[0].c_array"
        assert problem.fix == "remove `c_array`, or write `target: micro`"


class TestArena:
    @pytest.mark.parametrize("name", ["mlp", "cnn_bn", "lstm"])
    def test_is_the_least_that_runs(self, name):
        content = int8_file(name, False)
        least = arena_bytes(content, name)
        assert least % 16 == 0
        assert micro._runs(content, least)
        assert not micro._runs(content, least - 16)

    def test_a_process_that_cannot_tell(self, monkeypatch):
        monkeypatch.setattr(micro, "_PROBE", "import no_such_module")
        with pytest.raises(ModelError, match="No module named 'no_such_module'"):
            arena_bytes(int8_file("mlp", False), "m.tflite")

    def test_the_package_says_nothing(self, monkeypatch):
        monkeypatch.setattr(micro, "_USED", re.compile("no such words"))
        with pytest.raises(ModelError) as raised:
            arena_bytes(int8_file("mlp", False), "m.tflite")
        assert "does not tell how much memory it used" in raised.value.problems[0].found
