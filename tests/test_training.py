"""compresskit.training: Keras's own fit, and the loss that a model trains with."""

from __future__ import annotations

import math
from dataclasses import replace

import keras
import numpy as np
import pytest

from compresskit.data import Dataset
from compresskit.errors import TrainingError
from compresskit.progress import Bars
from compresskit.training import fit, loss_for
from tests.models import mlp
from tests.runs import digits


def dense(units, activation=None, inputs=(8, 8, 1)):
    layers = [keras.layers.Flatten(), keras.layers.Dense(units, activation=activation)]
    return keras.Sequential([keras.Input(inputs), *layers])


def train(model, data=None, **changes):
    settings = {
        "optimizer": "adam",
        "learning_rate": 0.01,
        "batch_size": 100,
        "epochs": 2,
        "loss": "sparse_categorical_crossentropy",
        "seed": 0,
        "bars": Bars(),
        "where": "sparsify",
        **changes,
    }
    return fit(model, data or digits(), **settings)


class TestLoss:
    def test_a_name(self):
        assert loss_for("poisson", mlp(), digits()) == "poisson"

    def test_that_of_a_compiled_model(self):
        model = mlp()
        model.compile("sgd", "sparse_categorical_crossentropy")
        assert loss_for("auto", model, digits()) == "sparse_categorical_crossentropy"

    @pytest.mark.parametrize(("activation", "logits"), [("softmax", False), (None, True)])
    def test_classes(self, activation, logits):
        loss = loss_for("auto", dense(10, activation), digits())
        assert isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        assert loss.from_logits is logits

    def test_two_classes_a_step(self):
        inputs = keras.Input((3, 2))
        tags = np.array([[0, 1, 1], [0, 0, 0]])
        x = np.zeros((2, 3, 2), np.float32)
        data = Dataset(name="tags", x_train=x, y_train=tags, x_test=x, y_test=tags)
        outputs = keras.layers.Dense(2, activation="softmax")(inputs)
        loss = loss_for("auto", keras.Model(inputs, outputs), data)
        assert isinstance(loss, keras.losses.SparseCategoricalCrossentropy)

    def test_sigmoids_are_no_probabilities_of_classes(self):
        assert loss_for("auto", dense(10, "sigmoid"), digits()).from_logits

    @pytest.mark.parametrize(("activation", "logits"), [("sigmoid", False), (None, True)])
    def test_yes_or_no(self, activation, logits):
        data = replace(digits(), y_train=digits().y_train % 2)
        loss = loss_for("auto", dense(1, activation), data)
        assert isinstance(loss, keras.losses.BinaryCrossentropy)
        assert loss.from_logits is logits


class TestFit:
    def test_a_value_an_epoch(self):
        history = train(mlp())
        assert set(history) == {"loss", "accuracy"}
        assert all(len(values) == 2 for values in history.values())
        assert all(type(value) is float for value in history["loss"])
        assert history["loss"][1] < history["loss"][0]

    def test_optimizer_and_rate(self):
        model = mlp()
        train(model, optimizer="RMSprop", learning_rate=0.02)
        assert isinstance(model.optimizer, keras.optimizers.RMSprop)
        assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
        assert int(model.optimizer.iterations) == 6  # 256 samples by 100, twice

    def test_the_seed_sets_the_order_of_the_samples(self):
        ends = []
        for seed in (1, 1, 2):
            keras.utils.set_random_seed(0)
            model = mlp()
            np.random.default_rng().random(7)
            keras.random.uniform((3,))  # what was drawn before does not matter
            train(model, seed=seed, epochs=1)
            ends.append(model.get_weights()[0])
        np.testing.assert_array_equal(ends[0], ends[1])
        assert not np.array_equal(ends[0], ends[2])

    def test_callbacks_take_part(self):
        seen = []
        callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(1))
        train(mlp(), callbacks=(callback,))
        assert seen == [1, 1]

    def test_a_loss_that_is_no_number(self, capsys):
        with pytest.raises(TrainingError) as raised:
            train(mlp(), learning_rate=1e30)
        (one,) = raised.value.problems
        assert one.where == "sparsify"
        assert one.found == "a loss of nan in epoch 1"
        assert one.fix == "try a learning_rate below 1e+30"
        assert raised.value.exit_code == 1
        assert capsys.readouterr() == ("", "")

    def test_numbers_instead_of_classes(self):
        x, y = digits().x_train[:64], np.linspace(0, 1, 64, dtype=np.float32)
        data = Dataset(name="d", x_train=x, y_train=y, x_test=x, y_test=y)
        assert loss_for("auto", dense(1), data) == "mean_squared_error"
        history = train(dense(1), data, loss="mean_squared_error")
        assert set(history) == {"loss"}
        assert math.isfinite(history["loss"][-1])

    def test_weights_that_are_no_numbers(self):
        # One step: its loss is that of the weights before it.
        with pytest.raises(TrainingError) as raised:
            train(mlp(), learning_rate=1e39, epochs=1, batch_size=256)
        assert raised.value.problems[0].found == "weights that are infinite or not a number"
