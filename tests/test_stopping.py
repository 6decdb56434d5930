"""compresskit.stopping: stages that end early, and trainings that fail."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import compresskit as ck
from compresskit.errors import RecipeError, TrainingError
from compresskit.method import Length
from compresskit.recipe import Recipe
from compresskit.stage_base import EarlyStopping
from compresskit.stages import QAT, Cluster, Prune
from compresskit.stopping import LastGood, early_stopping
from tests.models import mlp
from tests.recipes import stage_problem
from tests.runs import PRUNE, digits, one_stage
from tests.training import compiled, inputs_of, labels

LENGTH = Length(epochs=8, steps_per_epoch=10)
# No epoch is better than the one before by that much.
NEVER = {"early_stopping": {"min_delta": 100.0}}


def first_epoch(stage):
    (callback,) = early_stopping(stage, LENGTH)
    return callback.start_from_epoch


def test_a_schedule_comes_to_its_end():
    stop = EarlyStopping()
    assert first_epoch(Prune(sparsity=0.5, early_stopping=stop)) == 6
    assert first_epoch(Prune(sparsity=0.5, end="15st", early_stopping=stop)) == 2
    assert first_epoch(Prune(sparsity=0.5, end="100%", early_stopping=stop)) == 8
    assert first_epoch(Cluster(clusters=4, early_stopping=stop)) == 0
    assert early_stopping(QAT(), LENGTH) == []


def test_stages_end_early_and_keep_their_promises():
    sparsity = {"initial": 0.1, "final": 0.6}
    prune = {**PRUNE, "sparsity": sparsity, "epochs": 5, "end": "1ep", **NEVER}
    stages = [prune, {"type": "cluster", "clusters": 8, "epochs": 5, **NEVER}]
    result = ck.compress(mlp(), Recipe.from_dict(one_stage(stages=stages)), data=digits())
    trained = [len(stage.history["loss"]) for stage in result.report.stages]
    # That of the schedule, one to compare with, one that is no better.
    assert trained == [3, 2]
    assert result.report.broken == ()
    assert result.report.stages[0].sparsity == pytest.approx(0.6, abs=0.01)


def test_a_figure_that_training_has():
    problem = stage_problem("{type: qat, early_stopping: {monitor: val_loss}}")
    assert problem.expected == "one of: loss, accuracy"
    data = digits()
    numbers = data.y_train[:, None].astype("float32"), data.y_test[:, None].astype("float32")
    stage = {**PRUNE, "early_stopping": {"monitor": "accuracy"}}
    changes = {"stages": [stage], "evaluate": {"metric": "mean_squared_error", "mode": "min"}}
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    with pytest.raises(RecipeError) as caught:
        ck.compress(
            model,
            Recipe.from_dict(one_stage(**changes)),
            data=((data.x_train, numbers[0]), (data.x_test, numbers[1])),
        )
    (problem,) = caught.value.problems
    assert problem.where == "stages[0].early_stopping"
    assert problem.fix == "write `monitor: loss`"


class _Break(keras.callbacks.Callback):
    """Lets the second epoch fail."""

    def on_epoch_end(self, epoch, logs=None):
        self.weights = self.model.get_weights()
        self.model.optimizer.learning_rate = 1e38


def test_the_last_good_epoch_comes_back():
    model, last_good, broken = compiled(mlp()), LastGood(), _Break()
    callbacks = [last_good, broken]
    model.fit(inputs_of("mlp"), labels(), epochs=3, batch_size=16, verbose=0, callbacks=callbacks)
    assert len(model.history.history["loss"]) == 2
    assert not all(np.isfinite(each).all() for each in model.get_weights())
    last_good.restore()
    assert all(np.isfinite(each).all() for each in model.get_weights())


@pytest.mark.parametrize(
    ("failing", "rate", "words"),
    [
        ({**PRUNE, "name": "b"}, 1e39, "weights that are infinite or not a number"),
        ({"type": "qat", "name": "b"}, 1e38, "answers that are infinite or not a number"),
    ],
    ids=["prune", "qat"],
)
def test_a_stage_that_fails_leaves_the_weights_of_before(failing, rate, words):
    model = mlp()
    before = model.get_weights()
    stage = {**failing, "learning_rate": rate, "batch_size": 256}
    with pytest.raises(TrainingError, match=words):
        ck.compress(model, Recipe.from_dict(one_stage(stages=[stage])), data=digits())
    assert all(map(np.array_equal, model.get_weights(), before))
