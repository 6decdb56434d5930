"""compresskit.loop: compression inside a loop that the user wrote."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import compresskit as ck
from compresskit.errors import ModelError, RecipeError, TrainingError
from compresskit.holds import holds_of
from tests.models import mlp
from tests.training import BATCH, STEPS, calls, compiled, inputs_of, labels

STAGES = [
    {"type": "prune", "sparsity": 0.5, "frequency": "1st"},
    {"type": "qat", "distill": {"teacher": "baseline"}},
]
X = inputs_of("mlp")
Y = labels()


def batches(epochs):
    for step in range(epochs * STEPS):
        start = step % STEPS * BATCH
        yield tf.constant(X[start : start + BATCH]), tf.constant(Y[start : start + BATCH])


def step_of(model, optimizer):
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    return step


def test_a_loop_goes_through_the_stages(tmp_path):
    model = compiled(mlp())
    with ck.compressing(
        model, STAGES, steps_per_epoch=STEPS, target="edge-cpu", precision="int8", sample=X
    ) as run:
        step = run.function(step_of(model, model.optimizer))
        with pytest.raises(ModelError, match="a model that is not trained to its end"):
            run.result()
        for x, y in batches(3):
            run.step(step(x, y))
    assert run.figures["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert 0.0 < run.figures["quantization_error"] < 0.1
    assert run.result().broken == ()
    assert [stage.name for stage in run.result().stages] == ["prune", "qat"]
    assert calls(model) == []
    assert not any(holds_of(each) for each in model.variables)
    assert float(np.mean(model.get_layer("fc1").kernel.numpy() == 0)) >= 0.499
    assert run.export(path=tmp_path / "m.tflite").ops["FULLY_CONNECTED"] == 2


def test_a_loop_is_fit():
    """The same stages on the same batches give the same weights."""
    stages = [{**STAGES[0], "epochs": 2}]
    one = compiled(mlp(), keras.optimizers.SGD(0.1))
    other = compiled(mlp(), keras.optimizers.SGD(0.1))
    other.set_weights(one.get_weights())
    with ck.compressing(one, stages, steps_per_epoch=STEPS) as run:
        step = run.function(step_of(one, one.optimizer))
        for x, y in batches(2):
            step(x, y)
            run.step()
    callback = ck.CompressionCallback(stages)
    other.fit(X, Y, epochs=2, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[callback])
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_a_step_that_was_traced_before():
    model = compiled(mlp(), keras.optimizers.Adam(0.1))
    step = tf.function(step_of(model, model.optimizer))

    def loop():
        for x, y in batches(1):
            step(x, y)  # traced here, before there is a stage
        stages = [{**STAGES[0], "end": "1st"}]
        with ck.compressing(model, stages, steps_per_epoch=STEPS) as run:
            for x, y in batches(1):
                step(x, y)
                run.step()

    with pytest.raises(TrainingError) as caught:
        loop()
    (problem,) = caught.value.problems
    assert problem.found == "fc1/kernel without what prune holds"
    assert "`run.function`" in problem.fix
    assert calls(model) == []


def test_a_loss_that_is_no_number():
    model = mlp()
    before = model.get_weights()
    with (
        pytest.raises(TrainingError, match="a loss of nan in epoch 1"),
        ck.compressing(model, STAGES[:1], steps_per_epoch=2) as run,
    ):
        run.step(float("nan"))
    for was, value in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(value, was * (value != 0))


def test_problems_come_before_the_first_step():
    with (
        pytest.raises(RecipeError) as caught,
        ck.compressing(mlp(), STAGES, steps_per_epoch=STEPS),
    ):
        pass
    (problem,) = caught.value.problems
    assert problem.found == "no loss, in which a teacher could be"
