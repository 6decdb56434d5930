"""compresskit.tflite.culprit: which layer a conversion fails on."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compresskit.child import Child
from compresskit.errors import ConversionError
from compresskit.graph import recording
from compresskit.tflite import convert as module
from compresskit.tflite.convert import convert
from compresskit.tflite.culprit import culprit
from compresskit.tflite.lower import frozen
from tests.files import PRECISIONS
from tests.models import MODELS
from tests.training import inputs_of, trained


class Determinant(layers.Layer):
    """Something that no edge runtime has."""

    def call(self, inputs):
        return inputs * tf.linalg.det(inputs)[:, None, None]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.first, self.strange = layers.Dense(3), Determinant(name="strange")
        self.last = layers.Dense(2)

    def call(self, inputs):
        return self.last(self.strange(self.first(inputs)))


def branched():
    inputs = keras.Input((3, 3))
    x = layers.Dense(3, name="before")(inputs)
    strange = Determinant(name="strange")(x)
    other = layers.Dense(3, activation="relu", name="beside")(x)
    x = layers.Add(name="sum")([other, strange])
    return keras.Model(inputs, layers.Dense(2, name="after")(x), name="branched")


def nested():
    inner = keras.Sequential([keras.Input((3, 3)), layers.Dense(3), Determinant(name="strange")])
    return keras.Sequential([keras.Input((3, 3)), layers.Dense(3), inner, layers.Dense(2)])


SQUARES = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)


class TestCulprit:
    @pytest.mark.parametrize("name", MODELS)
    def test_any_call_of_any_model_is_found(self, name):
        model, sample = trained(name), inputs_of(name, 1)
        with recording(model) as calls:
            model(sample, training=False)
        for number, call in enumerate(calls, start=1):
            found = culprit(model, sample, lambda upto, number=number: upto >= number)
            kind, path = type(call.operation).__name__, call.operation.path
            assert found == f"{kind} {path!r}"

    def test_nothing_fails(self):
        model = branched()
        assert culprit(model, SQUARES[:1], lambda upto: False) is None

    def test_takes_as_many_steps_as_the_number_has_digits(self):
        model = keras.Sequential([keras.Input((3,)), *(layers.Dense(3) for _ in range(32))])
        asked = []

        def fails(upto):
            asked.append(upto)
            return upto >= 20

        assert culprit(model, SQUARES[0], fails) == f"Dense {model.layers[19].path!r}"
        assert len(asked) == 6

    @pytest.mark.parametrize("name", MODELS)
    def test_a_model_has_as_many_calls_when_it_is_lowered(self, name):
        model, sample = trained(name), inputs_of(name, 1)
        with recording(model) as calls:
            model(sample, training=False)
        whole = frozen(model, sample, upto=len(calls))
        shorter = frozen(model, sample, upto=len(calls) - 1)
        np.testing.assert_allclose(
            tf.nest.flatten(whole(**_tensors(whole, sample)))[-1],
            np.asarray(model(sample, training=False)),
            atol=1e-4,
        )
        assert len(shorter.graph.get_operations()) == len(whole.graph.get_operations())


def _tensors(function, sample):
    names = [spec.name for spec in function.structured_input_signature[0]]
    flat = [tf.constant(value) for value in keras.tree.flatten(sample)]
    return dict(zip(names, flat, strict=True))


class TestConversion:
    @pytest.mark.parametrize("build", [branched, nested, Subclassed])
    def test_names_the_layer(self, build):
        model = build()
        model(SQUARES)
        with pytest.raises(ConversionError, match="MatrixDeterminant") as raised:
            convert(model, PRECISIONS["float32"], sample=SQUARES[:1])
        (problem,) = raised.value.problems
        assert "it begins with Determinant '" in problem.found
        assert problem.found.endswith("strange'")
        assert problem.fix == "write this layer with other operations, or choose another precision"

    def test_names_the_layer_whose_answers_are_no_numbers(self):
        inputs = keras.Input((3,))
        small = layers.Dense(4, use_bias=False, kernel_initializer="ones")(inputs)
        shares = small / keras.ops.sum(small, axis=-1, keepdims=True)
        model = keras.Model(inputs, layers.Dense(2)(shares))
        # In float16 this is zero, and so are all the sums.
        model.layers[1].kernel.assign(np.full((3, 4), 1e-9))
        sample = np.ones((1, 3), np.float32)
        assert convert(model, PRECISIONS["float32"], sample=sample)
        with pytest.raises(ConversionError, match="NaN or infinity") as raised:
            convert(model, PRECISIONS["float16"], sample=sample)
        (problem,) = raised.value.problems
        assert problem.found.endswith("Divide 'true_divide'")

    def test_a_model_that_is_broken_itself(self):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
        model.layers[0].kernel.assign(np.full((3, 2), np.nan))
        with pytest.raises(ConversionError, match="as the Keras model does") as raised:
            convert(model, PRECISIONS["float32"], sample=SQUARES[0, :1])
        assert raised.value.problems[0].fix == "look for the layer whose weights are no numbers"

    def test_memory_has_a_limit(self, monkeypatch):
        monkeypatch.setattr(
            module, "_worker", made := Child("compresskit.tflite.worker", "the converter")
        )
        monkeypatch.setattr(module, "MEMORY_BYTES", 1_000_000)
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
        try:
            with pytest.raises(ConversionError, match=r"memory|died|alloc"):
                convert(model, PRECISIONS["float32"], sample=SQUARES[0, :1])
        finally:
            made.stop()
