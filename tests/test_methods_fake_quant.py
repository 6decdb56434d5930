"""compresskit.methods.fake_quant: rounding to the grid of the kernels."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from compresskit.methods.fake_quant import (
    ActivationRange,
    fake_quant_activation,
    fake_quant_weight,
    weight_transform,
)
from compresskit.methods.grids import Scales

quick = settings(max_examples=60, deadline=None)
ALL_BITS = range(2, 9)
# A scale is rounded to 8 binary digits.
COARSE = 2.0**-8


@st.composite
def kernels(draw):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(size=shape).astype(np.float32)
    values[rng.random(shape) < 0.3] = 0.0
    return values * np.float32(10.0 ** draw(st.integers(-20, 20)))


def rounded(values, channels=(2,), bits=8):
    return weight_transform(Scales(channels=channels), bits)(tf.constant(values)).numpy()


def integers(quantized, channels):
    """The int8 values, from the float values, in double precision."""
    others = tuple(axis for axis in range(quantized.ndim) if axis not in channels)
    largest = np.abs(quantized.astype(np.float64)).max(axis=others, keepdims=True)
    return quantized * (127.0 / np.where(largest > 0, largest, 1.0))


class TestWeight:
    @quick
    @given(values=kernels(), bits=st.sampled_from(ALL_BITS))
    def test_lies_on_the_int8_grid_with_few_levels(self, values, bits):
        quantized = rounded(values, bits=bits)
        for channel in range(values.shape[2]):
            of = quantized[:, :, channel : channel + 1]
            assert np.unique(of).size <= 2**bits - 1
            grid = integers(of, ())
            np.testing.assert_allclose(grid, np.round(grid), atol=1e-4)
            assert np.abs(grid).max() == pytest.approx(127 if of.any() else 0)

    @quick
    @given(values=kernels(), bits=st.sampled_from(ALL_BITS))
    def test_scales_have_eight_digits_and_come_back_exactly(self, values, bits):
        quantized = rounded(values, bits=bits)
        scale = np.abs(quantized).max(axis=(0, 1)) / np.float32(127)
        assert not (scale.view(np.uint32) & 0xFFFF).any()

    @quick
    @given(values=kernels(), bits=st.sampled_from(ALL_BITS))
    def test_zeros_stay_zero_and_signs_stay(self, values, bits):
        quantized = rounded(values, bits=bits)
        assert not quantized[values == 0].any()
        assert (quantized * np.sign(values) >= 0).all()

    @quick
    @given(values=kernels(), bits=st.sampled_from(ALL_BITS))
    def test_moves_a_value_by_half_a_level_at_most(self, values, bits):
        quantized = rounded(values, bits=bits)
        largest = np.abs(values).max(axis=(0, 1), keepdims=True)
        level = largest / (2 ** (bits - 1) - 1)
        # Below 8 bits the level itself is a rounded point of the int8 grid.
        slack = largest * COARSE + (0.0 if bits == 8 else largest / 254)
        assert (np.abs(quantized - values) <= level * 0.5001 + slack * 1.0001).all()

    @quick
    @given(values=kernels(), bits=st.sampled_from(ALL_BITS))
    def test_twice_is_once(self, values, bits):
        once = rounded(values, bits=bits)
        np.testing.assert_allclose(rounded(once, bits=bits), once, rtol=1e-6)

    @quick
    @given(values=kernels(), bits=st.sampled_from(ALL_BITS))
    def test_the_gradient_is_that_of_the_identity(self, values, bits):
        variable = tf.Variable(values)
        upstream = np.arange(values.size, dtype=np.float32).reshape(values.shape)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(fake_quant_weight(variable, (0, 1), bits) * upstream)
        np.testing.assert_array_equal(tape.gradient(loss, variable), upstream)

    def test_two_bits_are_three_values(self):
        values = np.array([[-1.0, -0.6, -0.4, 0.0, 0.3, 0.51, 0.9]], np.float32).T
        np.testing.assert_allclose(
            rounded(values, (1,), 2)[:, 0], [-1, -1, 0, 0, 0, 1, 1], rtol=COARSE
        )

    def test_levels_of_four_bits_are_integers_of_int8(self):
        values = np.linspace(-1, 1, 15, dtype=np.float32)[:, None]
        expected = np.round(np.arange(-7, 8) * 127 / 7)
        found = integers(rounded(values, (1,), 4), (1,))[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_a_channel_of_zeros(self):
        values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
        values[:, 1] = 0.0
        quantized = rounded(values, (1,))
        assert np.isfinite(quantized).all()
        assert not quantized[:, 1].any()
        assert quantized[:, 0].any()

    @pytest.mark.parametrize("size", [1e-30, 1e-36, 1e-37, 3e-38])
    def test_a_channel_that_has_almost_died(self, size):
        quantized = rounded(np.array([[size], [0.0], [-size / 3]], np.float32), (1,))
        assert np.isfinite(quantized).all()
        assert quantized[1, 0] == 0.0
        assert abs(quantized[0, 0]) <= size * (1 + COARSE)

    def test_channels_have_scales_of_their_own(self):
        values = np.array([[1.0, 100.0], [0.5, 50.0]], np.float32)
        np.testing.assert_allclose(
            rounded(values, (1,)), [[1, 100], [64 / 127, 6400 / 127]], rtol=COARSE
        )

    def test_one_scale_for_the_whole_tensor(self):
        values = np.array([[1.0, 100.0], [0.1, 50.0]], np.float32)
        np.testing.assert_allclose(
            rounded(values, ()), np.array([[1, 127], [0, 64]]) * 100 / 127, rtol=COARSE
        )

    def test_scales_over_two_axes(self):
        values = np.random.default_rng(0).normal(size=(3, 3, 4, 2)).astype(np.float32)
        quantized = rounded(values, (2, 3))
        np.testing.assert_allclose(
            np.abs(quantized).max(axis=(0, 1)), np.abs(values).max(axis=(0, 1)), rtol=COARSE
        )

    @pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
    def test_the_type_stays(self, dtype):
        values = tf.cast(tf.linspace(-1.0, 1.0, 7), dtype)
        assert fake_quant_weight(values, (), 8).dtype == dtype

    def test_as_a_parametrization(self):
        values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
        np.testing.assert_array_equal(
            weight_transform(Scales(channels=(1,)), 4)(tf.constant(values)),
            rounded(values, (1,), 4),
        )


class TestActivation:
    @quick
    @given(
        low=st.floats(-10, 0, width=32),
        span=st.floats(2**-10, 20, width=32),
        bits=st.sampled_from([4, 8]),
    )
    def test_values_lie_on_the_grid_and_zero_is_a_point(self, low, span, bits):
        high = max(low + span, 2**-10)
        values = np.linspace(low - 1, high + 1, 50, dtype=np.float32)
        quantized = fake_quant_activation(tf.constant(values), low, high, bits).numpy()
        step = (high - low) / (2**bits - 1)
        np.testing.assert_allclose(quantized / step, np.round(quantized / step), atol=1e-2)
        assert np.unique(quantized).size <= 2**bits
        assert fake_quant_activation(tf.zeros(1), low, high, bits).numpy() == 0.0

    def test_a_range_without_width(self):
        quantized = fake_quant_activation(tf.zeros(3), 0.0, 0.0).numpy()
        np.testing.assert_array_equal(quantized, np.zeros(3))

    def test_the_gradient_stops_outside(self):
        values = tf.Variable([-2.0, 0.5, 2.0])
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(fake_quant_activation(values, -1.0, 1.0))
        np.testing.assert_array_equal(tape.gradient(loss, values), [0.0, 1.0, 0.0])

    def test_the_type_stays(self):
        assert fake_quant_activation(tf.ones(2, tf.float16), -1.0, 1.0).dtype == tf.float16


class TestActivationRange:
    def made(self, observing=True, **kwargs):
        return ActivationRange("r", observing=tf.Variable(observing, trainable=False), **kwargs)

    def test_the_first_batch_sets_it(self):
        each = self.made()
        each(tf.constant([-2.0, 0.5, 3.0]))
        assert each.range == (-2.0, 3.0)

    def test_later_ones_move_it(self):
        each = self.made(decay=0.9)
        each(tf.constant([-2.0, 3.0]))
        each(tf.constant([-1.0, 4.0]))
        assert each.range == pytest.approx((-1.9, 3.1))

    def test_zero_is_always_inside(self):
        each = self.made()
        each(tf.constant([2.0, 3.0]))
        assert each.range == (0.0, 3.0)
        other = self.made()
        other(tf.constant([-2.0, -1.0]))
        assert other.range == (-2.0, 0.0)

    def test_it_moves_only_while_it_observes(self):
        each = self.made()
        each(tf.constant([-1.0, 1.0]))
        each.observing.assign(False)
        each(tf.constant([-9.0, 9.0]))
        assert each.range == (-1.0, 1.0)
        each.observing.assign(True)
        each(tf.constant([-9.0, 9.0]))
        assert each.range[1] > 1.0

    def test_inside_a_compiled_function(self):
        each = self.made(decay=0.5)
        function = tf.function(each)
        function(tf.constant([-1.0, 1.0]))
        function(tf.constant([-3.0, 1.0]))
        each.observing.assign(False)
        quantized = function(tf.constant([-100.0, 100.0]))
        assert each.range == (-2.0, 1.0)
        np.testing.assert_allclose(quantized, [-2.0, 1.0], atol=0.01)

    def test_fixed(self):
        each = self.made(fixed=(0.0, 255 / 256))
        quantized = each(tf.constant([-5.0, 0.3, 5.0])).numpy()
        assert each.range == (0.0, 255 / 256)
        np.testing.assert_allclose(quantized, [0.0, round(0.3 * 256) / 256, 255 / 256], rtol=1e-6)

    def test_bits(self):
        quantized = self.made(bits=4)(tf.linspace(-1.0, 1.0, 200)).numpy()
        assert np.unique(quantized).size == 16

    def test_half_precision(self):
        each = self.made()
        assert each(tf.constant([-1.0, 1.0], tf.float16)).dtype == tf.float16
        assert each.range == (-1.0, 1.0)
