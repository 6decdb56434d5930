"""compresskit.methods.shared_values: who shares a value stays, and the values learn."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from compresskit.methods.grids import Scales
from compresskit.methods.shared_values import SharedValues


def shared(clusters, centroids, pinned=(), scales=None):
    clusters = np.asarray(clusters)
    units = None if scales is None else scales.units(clusters.shape)
    return SharedValues(clusters, np.asarray(centroids, float), pinned, units)


class TestSharedValues:
    @pytest.mark.parametrize("bits", range(2, 9))
    def test_no_value_lies_between_two_levels(self, bits):
        levels = 2 ** (bits - 1) - 1
        middles = (np.arange(levels) + 0.5) / levels
        clusters = np.arange(levels + 1)[None]
        hold = shared(clusters, [*middles, 1.0], (1.0,), Scales(channels=(0,)))
        made = np.asarray(hold.apply(tf.constant([[*middles, 1.0]], tf.float32)))[0]
        rest = np.mod(made[:-1] * levels, 1.0)
        assert np.abs(rest - 0.5).min() > 1e-4

    def test_a_cluster_is_the_mean_of_its_members(self):
        made = shared([[0, 1], [1, 0]], [-1.0, 2.0]).apply(tf.constant([[-1.0, 3.0], [1.0, -2.0]]))
        np.testing.assert_allclose(made, [[-1.5, 2.0], [2.0, -1.5]])

    def test_pinned_values_stay(self):
        made = shared([0, 1], [0.0, 2.0], (0.0,)).apply(tf.constant([0.7, 3.0]))
        np.testing.assert_allclose(made, [0.0, 3.0])

    def test_the_gradient_of_a_cluster_is_the_sum_over_its_members(self):
        values = tf.Variable([1.0, 2.0, 1.0])
        hold = shared([0, 1, 0], [1.0, 2.0])
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(hold.read(values) * [3.0, 5.0, 7.0])
        np.testing.assert_allclose(tape.gradient(loss, values), [10.0, 5.0, 10.0])

    def test_a_sparse_gradient_that_does_not_know_its_shape(self):
        values = tf.Variable([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]])
        hold = shared([[0, 1], [1, 0], [0, 0]], [1.0, 2.0])
        rows = tf.TensorSpec([None, 2], tf.float32), tf.TensorSpec([None], tf.int64)

        @tf.function(input_signature=[*rows, tf.TensorSpec([2], tf.int64)])
        def gradient(given, indices, shape):
            upstream = tf.IndexedSlices(given, indices, shape)
            with tf.GradientTape() as tape:
                made = hold.read(values)
            return tape.gradient(made, values, output_gradients=upstream)

        made = gradient([[3.0, 5.0], [7.0, 11.0]], [0, 2], [3, 2])
        np.testing.assert_allclose(made, [[21.0, 5.0], [5.0, 21.0], [21.0, 21.0]])

    def test_gradients_of_scales_and_centroids_are_the_true_ones(self):
        """Against differentiating `scale * centroid` by both."""
        clusters = np.array([[0, 2], [1, 1], [2, 0]])
        centroids = np.array([-1.0, 0.25, 1.0])
        scale = tf.Variable([[0.5, 2.0]])
        learned = tf.Variable(centroids, dtype=tf.float32)
        upstream = tf.constant([[1.0, -2.0], [3.0, 4.0], [-5.0, 6.0]])
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(scale * tf.gather(learned, clusters) * upstream)
        of_scale, of_centroids = map(tf.convert_to_tensor, tape.gradient(loss, [scale, learned]))
        values = tf.Variable(scale * tf.gather(learned, clusters))
        hold = shared(clusters, centroids, (-1.0, 1.0), Scales(channels=(1,)))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(hold.read(values) * upstream)
        made = np.asarray(tape.gradient(loss, values))
        ends = np.array([[-1, 1], [0, 0], [1, -1]])
        expected = ends * np.asarray(of_scale)
        expected[1] = np.asarray(of_centroids)[1] * np.asarray(scale)[0]
        np.testing.assert_allclose(made, expected, rtol=1e-5)

    def test_scales_follow_the_largest_weights(self):
        hold = shared([[0, 1], [2, 2]], [-1.0, 0.5, 1.0], (-1.0, 1.0), Scales(channels=(0,)))
        made = hold.apply(tf.constant([[-2.0, 1.2], [3.0, 5.0]]))
        np.testing.assert_allclose(made, [[-2.0, 1.2], [4.0, 4.0]])

    def test_a_scale_of_zeros(self):
        hold = shared([[0, 0], [1, 1]], [0.0, 1.0], (0.0, 1.0), Scales(channels=(0,)))
        made = hold.apply(tf.constant([[0.3, 0.1], [2.0, 2.0]]))
        np.testing.assert_allclose(made, [[0.0, 0.0], [2.0, 2.0]])

    def test_a_million_members_do_not_drift(self):
        hold = shared(np.zeros(1_000_000, int), [0.1])
        values = tf.fill([1_000_000], tf.constant(0.1))
        for _ in range(3):
            values = hold.apply(values)
        np.testing.assert_allclose(values[0], 0.1, rtol=1e-6)

    def test_nothing_but_the_cluster_comes_back_twice(self):
        hold = shared([0, 1, 1], [1.0, 2.0])
        once = hold.apply(tf.constant([4.0, 5.0, 7.0]))
        np.testing.assert_array_equal(hold.apply(once), once)
