"""compresskit.inner: layers written out, equal to their own calls."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compresskit.inner import form, points

NORMALIZED, PICTURE, SIGNAL = (4, 3, 5), (8, 8, 3), (9, 3)

# Of a normalization with both parameters.
SHOWN = "mean", "squared", "variance", "shifted", "inverse", "centred", "normalized", "scaled"

# A layer of each kind and with each setting, and the shape of what it takes.
CASES = {
    **{
        f"normalization over {axis}": (layers.LayerNormalization, {"axis": axis}, NORMALIZED)
        for axis in (-1, 1, 3, [1, 2], (-2, -1), [1, 2, 3])
    },
    **{
        f"normalization, scale {scale}, center {center}": (
            layers.LayerNormalization,
            {"scale": scale, "center": center},
            NORMALIZED,
        )
        for scale in (True, False)
        for center in (True, False)
    },
    "normalization, epsilon": (layers.LayerNormalization, {"epsilon": 0.1}, NORMALIZED),
    "normalization, small epsilon": (layers.LayerNormalization, {"epsilon": 1e-12}, NORMALIZED),
    "separable": (layers.SeparableConv2D, {"padding": "same"}, PICTURE),
    "separable, stride": (
        layers.SeparableConv2D,
        {"strides": 2, "depth_multiplier": 2, "activation": "relu"},
        PICTURE,
    ),
    "separable, dilation": (
        layers.SeparableConv2D,
        {"padding": "same", "dilation_rate": 2, "use_bias": False},
        PICTURE,
    ),
    "separable 1D": (layers.SeparableConv1D, {"padding": "same"}, SIGNAL),
    "separable 1D, stride": (
        layers.SeparableConv1D,
        {"strides": 2, "activation": "tanh"},
        SIGNAL,
    ),
}


def made(name, dtype="float32"):
    """The layer of a case with random parameters, and inputs."""
    kind, settings, shape = CASES[name]
    separable = kind is not layers.LayerNormalization
    layer = kind(*((5, 3) if separable else ()), **settings, dtype=dtype)
    layer.build((None, *shape))
    random = np.random.default_rng(0)
    for variable in layer.weights:
        variable.assign(random.normal(size=variable.shape))
    return layer, random.normal(2.0, 3.0, size=(6, *shape)).astype(np.float32)


def written(layer, x, show):
    """What a layer gives in its form."""
    layer.call = form(layer, show)
    try:
        return layer(x)
    finally:
        del layer.call


def unchanged(name, values):
    return values


class TestForm:
    @pytest.mark.parametrize("name", CASES)
    def test_equals_keras(self, name):
        layer, x = made(name)
        np.testing.assert_allclose(written(layer, x, unchanged), layer(x), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("given", ["float32", "half"])
    @pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
    @pytest.mark.parametrize("name", ["normalization over -1", "separable", "separable 1D"])
    def test_half_precision(self, name, dtype, given):
        layer, x = made(name, dtype)
        x = tf.cast(x, given if given == "float32" else layer.compute_dtype)
        expected, outputs = layer(x), written(layer, x, unchanged)
        assert outputs.dtype == expected.dtype == layer.compute_dtype
        np.testing.assert_allclose(
            tf.cast(outputs, tf.float32), tf.cast(expected, tf.float32), rtol=2**-6, atol=2**-6
        )

    @pytest.mark.parametrize("name", CASES)
    def test_shows_each_of_its_points_once(self, name):
        layer, x = made(name)
        shown = []
        written(layer, x, lambda point, values: shown.append(point) or values)
        assert sorted(shown) == sorted(points(layer))
        assert len(set(shown)) == len(shown) > 0

    @pytest.mark.parametrize(
        ("name", "point"),
        [
            *(("normalization over -1", point) for point in SHOWN),
            ("normalization, scale False, center True", "normalized"),
            ("separable", "depthwise"),
            ("separable 1D", "depthwise"),
        ],
    )
    def test_goes_on_with_what_is_returned(self, name, point):
        layer, x = made(name)
        expected = np.asarray(layer(x))
        given = written(layer, x, lambda each, values: 2 * values if each == point else values)
        assert np.abs(given - expected).max() > 1e-2

    @pytest.mark.parametrize("value", [0.0, 2.0, -1e4])
    def test_a_row_of_equal_values_gives_beta(self, value):
        # Keras itself gives 0.359375 for a beta of 0.3616 here: it folds the mean into an
        # offset of a million times gamma. This form subtracts first.
        layer, _ = made("normalization, small epsilon")
        given = written(layer, np.full((1, *NORMALIZED), value, np.float32), unchanged)
        beta = layer.beta.numpy()
        np.testing.assert_allclose(given, np.broadcast_to(beta, given.shape), atol=1e-6)

    def test_what_the_depthwise_half_gives_is_shown(self):
        layer, x = made("separable, stride")
        shown = []
        written(layer, x, lambda point, values: shown.append(values) or values)
        assert shown[0].shape == (6, 3, 3, 3 * 2)

    def test_what_a_normalization_shows(self):
        layer, x = made("normalization over -1")
        shown = {}
        written(layer, x, lambda point, values: shown.setdefault(point, np.asarray(values)))
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        normalized = (x - mean) / np.sqrt(variance + layer.epsilon)
        for point, expected in {
            "mean": mean,
            "squared": (x - mean) ** 2,
            "variance": variance,
            "shifted": variance + layer.epsilon,
            "inverse": 1 / np.sqrt(variance + layer.epsilon),
            "centred": x - mean,
            "normalized": normalized,
            "scaled": normalized * layer.gamma.numpy(),
        }.items():
            np.testing.assert_allclose(shown.pop(point), expected, rtol=1e-4, atol=1e-5)
        assert shown == {}


def by_root_mean_square():
    with pytest.warns(UserWarning, match="deprecated"):
        return layers.LayerNormalization(rms_scaling=True)


def relu():
    """An operation of a functional graph, which is no layer."""
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.ops.relu(inputs)).operations[-1]


class OwnNormalization(layers.LayerNormalization):
    """May compute anything."""


class OwnSeparable(layers.SeparableConv2D):
    """May compute anything."""


class TestPoints:
    @pytest.mark.parametrize(
        "make",
        [
            by_root_mean_square,
            OwnNormalization,
            lambda: OwnSeparable(4, 3),
            layers.BatchNormalization,
            layers.UnitNormalization,
            lambda: layers.Conv2D(4, 3),
            lambda: layers.DepthwiseConv2D(3),
            lambda: layers.Dense(4),
            relu,
        ],
        ids=[
            "root mean square",
            "subclass of normalization",
            "subclass of separable",
            "batch normalization",
            "unit normalization",
            "convolution",
            "depthwise",
            "dense",
            "function",
        ],
    )
    def test_others_have_none(self, make):
        assert points(make()) == ()

    @pytest.mark.parametrize(
        ("scale", "center", "last"),
        [
            (True, True, ("normalized", "scaled")),
            (True, False, ("centred", "normalized")),
            (False, True, ("centred", "normalized")),
            (False, False, ("inverse", "centred")),
        ],
    )
    def test_what_is_the_output_itself_is_none(self, scale, center, last):
        assert points(layers.LayerNormalization(scale=scale, center=center))[-2:] == last
