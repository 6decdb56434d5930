"""compresskit.ranges: activation ranges as data, put into a model and taken out."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compresskit.graph import operations
from compresskit.ranges import Range, applied, place
from tests.models import cnn_bn, mlp
from tests.training import calls, inputs_of


def over(model, name, where="output", low=-1.0, high=1.0, bits=8):
    position = next(
        (index for index, each in enumerate(operations(model)) if each.name == name), None
    )
    return Range(operation=position, name=name, place=where, low=low, high=high, bits=bits)


def grid(low, high, bits):
    """The points that a fake-quantized tensor can take, with zero among them."""
    step = (high - low) / (2**bits - 1)
    return (np.arange(2**bits) - round(-low / step)) * step


def single(layer, shape=(4,)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)


class TestApplied:
    def test_puts_the_rounding_in_and_takes_it_out(self):
        model = mlp()
        x = inputs_of("mlp", 4)
        before = np.asarray(model(x))
        with applied(model, [over(model, "fc1", low=0.0, high=0.2, bits=4)]):
            inside = np.asarray(model(x))
            assert calls(model) == ["fc1"]
        assert np.abs(inside - before).max() > 1e-4
        np.testing.assert_array_equal(model(x), before)
        assert calls(model) == []

    def test_values_lie_on_the_grid(self):
        model = single(layers.Dense(3, name="fc"))
        with applied(model, [over(model, "fc", low=-0.5, high=1.0, bits=4)]):
            values = np.asarray(model(X))
        points = grid(-0.5, 1.0, 4)
        assert np.abs(values[..., None] - points).min(axis=-1).max() < 1e-6
        assert len(np.unique(values)) > 4

    def test_the_model_s_input(self):
        model = mlp()
        x = inputs_of("mlp", 4)
        both = Range(operation=None, name="mlp", place="input", low=-1.0, high=1.0, bits=8)
        with applied(model, [both]):
            inside = np.asarray(model(x))
        rounded = tf.quantization.fake_quant_with_min_max_args(x, -1.0, 1.0)
        assert np.abs(rounded - x).max() > 0.5
        np.testing.assert_allclose(inside, model(rounded), atol=1e-6)

    def test_what_goes_into_the_activation(self):
        model = single(layers.Dense(3, activation="tanh", name="fc"))
        layer = model.get_layer("fc")
        with applied(model, [over(model, "fc", "activation", low=-1.0, high=1.0, bits=4)]):
            values = np.asarray(model(X))
        sums = X @ layer.kernel.numpy()
        expected = np.tanh(tf.quantization.fake_quant_with_min_max_args(sums, -1.0, 1.0, 4))
        np.testing.assert_allclose(values, expected, atol=1e-6)
        assert layer.activation is keras.activations.tanh

    def test_several_on_one_operation(self):
        model = single(layers.Dense(3, activation="tanh", name="fc"))
        ranges = [over(model, "fc", "activation", bits=4), over(model, "fc", bits=4)]
        with applied(model, ranges):
            assert len(np.unique(model(X))) <= 16
        assert calls(model) == []

    def test_an_error_inside_takes_it_out_too(self):
        model = mlp()
        with pytest.raises(ZeroDivisionError), applied(model, [over(model, "fc1")]):
            raise ZeroDivisionError
        assert calls(model) == []

    def test_the_position_survives_saving(self, tmp_path):
        model = cnn_bn()
        ranges = [
            over(model, "add_relu", low=0.0, high=1.0),
            over(model, "logits", "activation", low=-4.0, high=4.0),
        ]
        model.save(tmp_path / "m.keras")
        again = keras.models.load_model(tmp_path / "m.keras")
        x = inputs_of("cnn_bn", 2)
        with applied(model, ranges), applied(again, ranges):
            np.testing.assert_array_equal(model(x), again(x))

    def test_half_precision_stays_half(self):
        layer = layers.Dense(3, name="fc", dtype="mixed_float16")
        model = single(layer)
        with applied(model, [over(model, "fc")]):
            assert model(X).dtype == tf.float16


class TestInside:
    """Tensors inside a layer, which its written-out form shows."""

    @pytest.mark.parametrize(
        ("layer", "shape", "inner"),
        [
            (layers.SeparableConv2D(5, 3, name="layer"), (8, 8, 3), "depthwise"),
            (layers.SeparableConv1D(5, 3, name="layer"), (9, 3), "depthwise"),
            (layers.LayerNormalization(name="layer"), (4, 3), "normalized"),
        ],
        ids=["separable", "separable 1D", "normalization"],
    )
    def test_is_rounded_and_then_not(self, layer, shape, inner):
        model = single(type(layer).from_config(layer.get_config()), shape)
        layer = model.get_layer("layer")
        x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
        before = np.asarray(model(x))
        coarse = dataclasses.replace(over(model, "layer", "inside", bits=2), inner=inner)
        seen = []
        with applied(model, [coarse]):
            undo = place(layer, "inside", lambda values: seen.append(values) or values, inner)
            assert np.abs(model(x) - before).max() > 1e-3
            undo()
        (values,) = seen
        assert len(np.unique(values)) <= 4
        assert calls(model) == []
        np.testing.assert_array_equal(model(x), before)

    @pytest.mark.parametrize("first", [0, 1])
    def test_two_tensors_in_any_order(self, first):
        layer = layers.LayerNormalization(name="layer")
        model = single(layer)
        before = np.asarray(model(X))
        seen = []
        undo = [
            place(layer, "inside", lambda values, name=name: seen.append(name) or values, name)
            for name in ("mean", "variance")
        ]
        np.testing.assert_allclose(model(X), before, atol=1e-6)
        assert seen == ["mean", "variance"]
        undo[first]()
        model(X)
        assert seen[2:] == ["variance" if first == 0 else "mean"]
        undo[1 - first]()
        assert calls(model) == []
