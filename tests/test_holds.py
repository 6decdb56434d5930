"""compresskit.holds: what stays true of a variable while it trains."""

from __future__ import annotations

import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compresskit.holds import Hold, MaskHold, enforce, hold, holds_of, release
from tests.models import mlp
from tests.training import compiled, inputs_of, labels

X = inputs_of("mlp")
Y = labels()


def masked(variable):
    """A mask of half the weights, held."""
    invariant = MaskHold(variable)
    mask = np.indices(variable.shape).sum(axis=0) % 2
    invariant.mask.assign(mask)
    hold(variable, invariant)
    return invariant, mask == 0


class Clip(Hold):
    def __init__(self, limit):
        self.limit = limit

    def apply(self, values):
        return keras.ops.clip(values, -self.limit, self.limit)


class Shift(Hold):
    def apply(self, values):
        return values + 1.0


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


def step(model, optimizer):
    """One step of a training loop that the user wrote."""
    with tf.GradientTape() as tape:
        loss = keras.ops.mean(
            keras.losses.sparse_categorical_crossentropy(Y, model(X, training=True))
        )
        loss = optimizer.scale_loss(loss)
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply(gradients, model.trainable_variables)


class TestTraining:
    @pytest.mark.parametrize("optimizer", ["adamw", "accumulation"])
    def test_a_mask_survives_fit(self, optimizer):
        model = compiled(mlp(), OPTIMIZERS[optimizer]())
        kernel = model.get_layer("fc1").kernel
        _, zero = masked(kernel)
        before = kernel.numpy()
        model.fit(X, Y, batch_size=16, epochs=2, verbose=0)
        assert not kernel.numpy()[zero].any()
        assert np.mean(kernel.numpy()[~zero] != before[~zero]) > 0.9

    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_a_mask_survives_a_loop_of_one_s_own(self, optimizer):
        model = mlp()
        kernel = model.get_layer("fc1").kernel
        made = OPTIMIZERS[optimizer]()
        # Moments that were gathered before the mask came must not move it either.
        for _ in range(2):
            step(model, made)
        _, zero = masked(kernel)
        before = kernel.numpy()
        for _ in range(4):
            step(model, made)
            assert not kernel.numpy()[zero].any()
        assert np.mean(kernel.numpy()[~zero] != before[~zero]) > 0.9

    def test_a_new_mask_needs_no_new_trace(self):
        model = compiled(mlp())
        kernel = model.get_layer("fc1").kernel
        invariant, zero = masked(kernel)
        model.fit(X, Y, batch_size=16, verbose=0)
        function = model.train_function
        invariant.mask.assign(1.0 - invariant.mask.numpy())
        model.fit(X, Y, batch_size=16, verbose=0)
        assert model.train_function is function
        assert not kernel.numpy()[~zero].any()
        assert kernel.numpy()[zero].any()


class TestHold:
    def test_is_true_at_once(self):
        variable = keras.Variable(np.ones((2, 2), np.float32))
        hold(variable, Clip(0.5))
        np.testing.assert_array_equal(variable.numpy(), np.full((2, 2), 0.5))

    def test_all_apply_in_their_order(self):
        variable = keras.Variable(np.zeros((2,), np.float32))
        shift, clip = Shift(), Clip(0.5)
        variable.constraint = None
        hold(variable, shift)
        hold(variable, clip)
        assert holds_of(variable) == (shift, clip)
        variable.assign([0.0, -9.0])
        np.testing.assert_array_equal(variable.constraint(variable), [0.5, -0.5])

    def test_the_user_s_own_constraint_comes_first(self):
        layer = layers.Dense(3, kernel_constraint=keras.constraints.MaxNorm(1.0))
        layer.build((None, 4))
        layer.kernel.assign(np.full((4, 3), 2.0))
        hold(layer.kernel, Shift())
        layer.kernel.assign(np.full((4, 3), 2.0))
        np.testing.assert_allclose(
            layer.kernel.constraint(layer.kernel), np.full((4, 3), 1.5), rtol=1e-5
        )

    def test_both_are_kept_in_training(self):
        model = mlp()
        layer = model.get_layer("fc1")
        layer.kernel.constraint = keras.constraints.MaxNorm(0.2)
        _, zero = masked(layer.kernel)
        compiled(model, keras.optimizers.SGD(0.5)).fit(X, Y, batch_size=16, verbose=0)
        values = layer.kernel.numpy()
        assert not values[zero].any()
        assert np.linalg.norm(values, axis=0).max() <= 0.2 + 1e-5
        assert values[~zero].any()

    def test_release_gives_the_user_s_constraint_back(self):
        mine = keras.constraints.NonNeg()
        variable = keras.Variable(np.ones((2,), np.float32))
        variable.constraint = mine
        first, second = Clip(0.5), Shift()
        hold(variable, first)
        hold(variable, second)
        release(variable, first)
        assert holds_of(variable) == (second,)
        assert variable.constraint is not mine
        release(variable, second)
        assert holds_of(variable) == ()
        assert variable.constraint is mine

    def test_release_leaves_no_constraint_where_there_was_none(self):
        variable = keras.Variable(np.ones((2,), np.float32))
        clip = Clip(0.5)
        hold(variable, clip)
        release(variable, clip)
        assert variable.constraint is None

    def test_enforce_applies_the_holds_now(self):
        variable = keras.Variable(np.ones((2,), np.float32))
        hold(variable, Clip(0.5))
        variable.assign([3.0, 0.1])
        enforce(variable)
        np.testing.assert_allclose(variable.numpy(), [0.5, 0.1])

    def test_a_variable_without_holds(self):
        variable = keras.Variable(np.ones((2,), np.float32))
        variable.constraint = keras.constraints.NonNeg()
        assert holds_of(variable) == ()


class TestSaving:
    def test_a_model_that_is_held_saves_as_a_plain_one(self, tmp_path):
        model = mlp()
        kernel = model.get_layer("fc1").kernel
        _, zero = masked(kernel)
        path = tmp_path / "held.keras"
        model.save(path)
        with zipfile.ZipFile(path) as archive:
            assert "compresskit" not in archive.read("config.json").decode()
        loaded = keras.models.load_model(path)
        again = loaded.get_layer("fc1").kernel
        assert again.constraint is None
        assert not again.numpy()[zero].any()
        np.testing.assert_array_equal(again.numpy(), kernel.numpy())
        assert len(loaded.variables) == len(mlp().variables)

    def test_the_mask_is_no_variable_of_the_model(self):
        model = mlp()
        count = len(model.variables)
        masked(model.get_layer("fc1").kernel)
        assert len(model.variables) == count
