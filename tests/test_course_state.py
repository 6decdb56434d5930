"""compresskit.course.state: a killed training goes on where it was."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest

import compresskit as ck
from compresskit import checkpoint
from compresskit.course import state
from compresskit.errors import TrainingError
from tests.models import mlp
from tests.runs import names_in
from tests.training import BATCH, compiled, inputs_of, labels

STAGES = [
    {"type": "prune", "sparsity": {"final": 0.6}, "frequency": "3st", "epochs": 2},
    {"type": "cluster", "clusters": 6, "distill": {"teacher": "baseline"}, "epochs": 2},
    {"type": "qat", "distill": {"teacher": "previous"}, "epochs": 2},
]
X = inputs_of("mlp")
Y = labels()


class Kill(keras.callbacks.Callback):
    """The process ends here, so far as files are concerned."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def train(folder, *callbacks, first=True):
    """The weights and ranges after all stages; BackupAndRestore comes first, or last."""
    keras.utils.set_random_seed(3)
    model = compiled(mlp(), keras.optimizers.Adam(3e-3))
    callback = ck.CompressionCallback(
        STAGES, target="edge-cpu", precision="int8", backup_dir=folder / "stages"
    )
    backup = keras.callbacks.BackupAndRestore(folder / "model")
    every = [backup, callback] if first else [callback, backup]
    model.fit(
        X, Y, epochs=6, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[*every, *callbacks]
    )
    assert callback.result().broken == ()
    return model.get_weights(), callback.ranges


def test_a_killed_fit_ends_with_the_same_weights(tmp_path):
    uninterrupted = train(tmp_path / "whole")
    # At the end of a stage and within one, whichever of the two callbacks comes first.
    for epoch, first in ((2, True), (5, False)):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, Kill(epoch), first=first)
        assert checkpoint.saved(tmp_path / "stages")[-1] == epoch
    weights, ranges = train(tmp_path)
    for mine, theirs in zip(weights, uninterrupted[0], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert ranges == uninterrupted[1]
    assert list((tmp_path / "stages").iterdir()) == []


def test_weights_without_a_state(tmp_path):
    backup = {"backup_dir": tmp_path / "model"}

    def go(*callbacks):
        model = compiled(mlp())
        callback = ck.CompressionCallback([{"type": "prune", "sparsity": 0.5, "epochs": 2}])
        every = [keras.callbacks.BackupAndRestore(**backup), callback, *callbacks]
        model.fit(X, Y, epochs=2, batch_size=BATCH, verbose=0, callbacks=every)

    with pytest.raises(KeyboardInterrupt):
        go(Kill(1))
    with pytest.raises(TrainingError) as caught:
        go()
    (problem,) = caught.value.problems
    assert problem.found == (
        "weights of epoch 1, which BackupAndRestore has brought back, and no state"
    )


def test_files_of_others_stay(tmp_path):
    checkpoint.save(tmp_path, 1, {"mask": np.ones(3)})
    state.kept_copy(mlp(), tmp_path, "baseline")
    (tmp_path / "mine.txt").write_text("x")
    state.clear(tmp_path)
    assert names_in(tmp_path) == ["mine.txt"]


def test_a_checkpoint_loads_without_compresskit(tmp_path):
    """Saved while all stages stand on the model, and after."""
    model = compiled(mlp(), run_eagerly=True)
    stages = [
        {"type": "prune", "sparsity": 0.5},
        {"type": "cluster", "clusters": 4},
        {"type": "qat"},
    ]
    callback = ck.CompressionCallback(stages, target="edge-cpu", precision="int8")
    during, after = tmp_path / "during.keras", tmp_path / "after.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(during)
    model.fit(X, Y, epochs=3, batch_size=BATCH, verbose=0, callbacks=[callback, checkpoint])
    model.save(after)
    code = f"""
import sys
sys.modules["compresskit"] = None
import keras, numpy as np
for file in ({str(during)!r}, {str(after)!r}):
    model = keras.saving.load_model(file)
    print(np.mean(model.get_layer("fc1").kernel.numpy() == 0).round(1), model.optimizer.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["0.5", "adam", "0.5", "adam"]
