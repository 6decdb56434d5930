"""compresskit.tflite.lower: the model with batch 1 and every value a constant."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compresskit.ranges import Range
from compresskit.tflite.lower import frozen, lower, predictions
from tests.models import MODELS, cnn, mlp
from tests.training import answers, calls, compressed, inputs_of, trained


def outputs_of(function, *x):
    return [np.asarray(value) for value in function(*map(tf.constant, x)).values()]


class TestFrozen:
    @pytest.mark.parametrize("name", MODELS)
    def test_answers_as_the_model_without_its_variables(self, name):
        model, x = trained(name), inputs_of(name, 2)
        function = frozen(model, x)
        assert function.variables == ()
        assert all(shape.shape[0] == 1 for shape in function.inputs)
        for index in range(2):
            (given,) = outputs_of(function, x[index : index + 1])
            np.testing.assert_allclose(given, answers(model, x[index : index + 1]), atol=1e-5)
        assert calls(model) == []

    def test_values_are_those_of_the_moment(self):
        model, x = mlp(), inputs_of("mlp", 1)
        function = frozen(model, x)
        before = outputs_of(function, x)[0]
        for variable in model.variables:
            variable.assign(variable.value * 0.0)
        np.testing.assert_array_equal(outputs_of(function, x)[0], before)

    def test_the_model_s_own_variables_are_left_alone(self):
        model, x = MODELS["cnn_bn"](), inputs_of("cnn_bn", 1)
        before = [variable.numpy() for variable in model.variables]
        frozen(model, x)
        for variable, old in zip(model.variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), old)

    @pytest.mark.parametrize("name", MODELS)
    def test_ranges_are_fake_quant_ops(self, name):
        done = compressed(name)
        function = frozen(done.model, done.x[:1], done.ranges)
        kinds = [op.type for op in function.graph.get_operations()]
        assert kinds.count("FakeQuantWithMinMaxVars") == len(done.ranges)
        (given,) = outputs_of(function, done.x[:1])
        np.testing.assert_allclose(given, done.trained[:1], atol=1e-6)

    def test_dropout_is_gone(self):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.5)(inputs)))
        function = frozen(model, np.zeros((1, 4), np.float32))
        assert not [op for op in function.graph.get_operations() if "andom" in op.type]
        assert function.variables == ()

    def test_inputs_by_name(self):
        left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
        x = layers.Concatenate()([left, right])
        model = keras.Model({"left": left, "right": right}, {"a": layers.Dense(2)(x), "b": x})
        sample = {
            "left": np.ones((5, 4), np.float32),
            "right": np.zeros((5, 3), np.float32),
        }
        function = frozen(model, sample)
        assert {each.name.split(":")[0] for each in function.inputs} == {"left", "right"}
        given = function(left=tf.ones((1, 4)), right=tf.zeros((1, 3)))
        expected = keras.tree.flatten(model(sample))
        for value, whole in zip(given.values(), expected, strict=True):
            np.testing.assert_allclose(value[0], whole[0], atol=1e-6)

    def test_integers_stay_integers(self):
        inputs = keras.Input((3,), dtype="int32")
        model = keras.Model(inputs, layers.Embedding(5, 2)(inputs))
        function = frozen(model, np.zeros((1, 3), np.int64))
        assert function.inputs[0].dtype == tf.int32


class TestLower:
    def test_writes_a_saved_model_without_variables(self, tmp_path):
        model, x = trained("cnn"), inputs_of("cnn", 1)
        lower(model, x, tmp_path / "saved")
        loaded = tf.saved_model.load(str(tmp_path / "saved"))
        signature = loaded.signatures["serving_default"]
        assert signature.structured_input_signature[1]["image"].shape == (1, 8, 8, 1)
        assert not signature.variables
        (given,) = signature(tf.constant(x)).values()
        np.testing.assert_allclose(given, answers(model, x), atol=1e-5)


class TestPredictions:
    @pytest.mark.parametrize("batch_size", [1, 3, 64, 256])
    def test_do_not_depend_on_the_batch(self, batch_size):
        model, x = trained("cnn"), inputs_of("cnn", 7)
        given = predictions(model, x, batch_size=batch_size)
        np.testing.assert_allclose(given, answers(model, x), atol=1e-6)

    def test_are_rounded_over_the_ranges(self):
        model, x = cnn(), inputs_of("cnn", 4)
        each = Range(operation=None, name="cnn", place="input", low=-0.1, high=0.1, bits=4)
        given = predictions(model, x, [each])
        rounded = tf.quantization.fake_quant_with_min_max_args(x, -0.1, 0.1, 4)
        np.testing.assert_allclose(given, answers(model, rounded), atol=1e-6)
        assert calls(model) == []
