"""compresskit.methods.cluster: weights that share values, and values that learn."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from compresskit.methods.cluster import Clustering, SharedValues
from compresskit.methods.grids import Scales, scales_of
from compresskit.methods.prune import Pruning
from compresskit.methods.quantize import Quantization
from compresskit.stages import QAT, Cluster, Prune
from compresskit.target import Grid
from compresskit.weights import weights_of
from tests.models import MODELS, SEQUENCE_MODELS, cnn, lstm
from tests.runs import python
from tests.training import compiled, fit, inputs_of, length

SOME = ("cnn_bn", "depthwise", "conv1d", "nested", "subclassed", "lstm", "gru", "tiny_bert")
ALL = {name: {**MODELS, **SEQUENCE_MODELS}[name] for name in SOME}
CLUSTERS = 7


def attach(method, model, x, grid=None):
    return method.attach(model, x[:2], grid or Grid(), length())


def scaled(weight, grid=None):
    """A weight divided by the scales of its kernel."""
    parts, axes = scales_of(weight, grid or Grid()).split(tf.constant(weight.variable.numpy()))
    largest = tf.reduce_max(tf.abs(parts), axis=axes, keepdims=True)
    return np.asarray(tf.math.divide_no_nan(parts, largest)).ravel()


def distinct(values):
    return np.unique(np.round(values, 4)).size


class TestEveryModel:
    @pytest.mark.parametrize("name", ["cnn_bn", "lstm", "subclassed"])
    def test_alone(self, name):
        x = inputs_of(name)
        model = compiled(ALL[name]())
        attached = attach(Clustering(Cluster(clusters=CLUSTERS)), model, x)
        before = {weight.path: scaled(weight) for weight in weights_of(model)}
        fit(model, x, attached)
        attached.detach()
        assert attached.touched
        for weight in weights_of(model):
            assert distinct(scaled(weight)) <= CLUSTERS
        moved = [np.abs(before[w.path] - scaled(w)).max() for w in weights_of(model)]
        assert max(moved) > 1e-4  # the values learn

    @pytest.mark.parametrize("name", ALL)
    def test_after_pruning_and_before_quantization(self, name):
        """Zeros and shared values at once, in integers, by nothing but the order."""
        x = inputs_of(name)
        model = compiled(ALL[name]())
        prune = attach(Pruning(Prune(sparsity=0.5, frequency="1st", end="1st")), model, x)
        fit(model, x, prune, epochs=1)
        zeros = {weight.path: weight.variable.numpy() == 0 for weight in weights_of(model)}
        cluster = attach(Clustering(Cluster(clusters=CLUSTERS)), model, x)
        fit(model, x, cluster, epochs=1)
        quantize = attach(Quantization(QAT()), model, x)
        fit(model, x, quantize, epochs=1)
        for each in (prune, cluster, quantize):
            each.detach()
        for weight in weights_of(model):
            values = weight.variable.numpy()
            assert (values[zeros[weight.path]] == 0).all()
            integers = scaled(weight) * 127
            np.testing.assert_allclose(integers, np.round(integers), atol=1e-3)
            assert np.unique(np.round(integers)).size <= CLUSTERS


class TestGranularity:
    def test_channels(self):
        x = inputs_of("cnn")
        model = compiled(cnn())
        attached = attach(Clustering(Cluster(clusters=3, granularity="channel")), model, x)
        fit(model, x, attached)
        attached.detach()
        for weight in weights_of(model):
            rows = weight.matrix(weight.variable.numpy())
            assert max(distinct(row) for row in rows) <= 3
            assert distinct(rows) > 3

    def test_gates(self):
        x = inputs_of("lstm")
        model = compiled(lstm())
        attached = attach(Clustering(Cluster(clusters=4, granularity="gate")), model, x)
        fit(model, x, attached)
        attached.detach()
        assert len(attached.touched) == 2
        assert {skip.reason for skip in attached.skipped} == {"only an LSTM has gates"}
        for weight in weights_of(model)[:2]:
            gates = np.split(weight.variable.numpy(), 4, axis=1)
            assert max(distinct(gate) for gate in gates) <= 4

    def test_one_scale_for_a_dense_kernel(self):
        x = inputs_of("mlp")
        model = compiled(MODELS["mlp"]())
        grid = Grid(per_channel_dense=False)
        attached = attach(Clustering(Cluster(clusters=5)), model, x, grid)
        fit(model, x, attached)
        attached.detach()
        for weight in weights_of(model):
            assert distinct(weight.variable.numpy()) <= 5


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
            loss = tf.reduce_sum(hold.together(values) * [3.0, 5.0, 7.0])
        np.testing.assert_allclose(tape.gradient(loss, values), [10.0, 5.0, 10.0])

    def test_a_sparse_gradient_that_does_not_know_its_shape(self):
        values = tf.Variable([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]])
        hold = shared([[0, 1], [1, 0], [0, 0]], [1.0, 2.0])
        rows = tf.TensorSpec([None, 2], tf.float32), tf.TensorSpec([None], tf.int64)

        @tf.function(input_signature=[*rows, tf.TensorSpec([2], tf.int64)])
        def gradient(given, indices, shape):
            upstream = tf.IndexedSlices(given, indices, shape)
            with tf.GradientTape() as tape:
                made = hold.together(values)
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
            loss = tf.reduce_sum(hold.together(values) * upstream)
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


def test_the_model_is_plain_again():
    x = inputs_of("cnn")
    model = compiled(cnn())
    attached = attach(Clustering(Cluster(clusters=4)), model, x)
    answers = np.asarray(model(x))
    attached.detach()
    np.testing.assert_allclose(model(x), answers, atol=1e-6)
    assert all("call" not in vars(layer) for layer in model._flatten_layers())
    assert all(variable.constraint is None for variable in model.trainable_variables)


def test_an_optimizer_that_averages_weights():
    x = inputs_of("mlp")
    model = compiled(MODELS["mlp"](), keras.optimizers.SGD(0.1, use_ema=True))
    attached = attach(Clustering(Cluster(clusters=4)), model, x)
    fit(model, x, attached)
    for weight in weights_of(model):
        assert distinct(scaled(weight)) <= 4


LARGE = """
import resource, keras, numpy as np
from compresskit.method import Length
from compresskit.methods.cluster import Clustering
from compresskit.stages import Cluster
from compresskit.target import Grid
model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(40_000, 512)])
table = model.layers[0].embeddings
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
attached = Clustering(Cluster(clusters=16)).attach(
    model, np.zeros((1, 4), "int32"), Grid(), Length(epochs=1, steps_per_epoch=1))
print((peak() - before) / table.numpy().nbytes)
attached.detach()
print(np.unique(table.numpy()).size)
"""


@pytest.mark.slow
def test_twenty_million_weights_in_bounded_memory():
    times, distinct = map(float, python(LARGE).split())
    assert times < 10
    assert distinct <= 16
