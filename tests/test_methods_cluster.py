"""compresskit.methods.cluster: weights that share values, and values that learn."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from compresskit.methods.cluster import Clustering
from compresskit.methods.grids import scales_of
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
    @pytest.mark.parametrize("assignment", ["learned", "fixed"])
    @pytest.mark.parametrize("name", ["cnn_bn", "lstm", "subclassed"])
    def test_alone(self, name, assignment):
        x = inputs_of(name)
        model = compiled(ALL[name]())
        stage = Cluster(clusters=CLUSTERS, assignment=assignment)
        attached = attach(Clustering(stage), model, x)
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
    @pytest.mark.parametrize("assignment", ["learned", "fixed"])
    def test_channels(self, assignment):
        x = inputs_of("cnn")
        model = compiled(cnn())
        stage = Cluster(clusters=3, granularity="channel", assignment=assignment)
        attached = attach(Clustering(stage), model, x)
        fit(model, x, attached)
        attached.detach()
        for weight in weights_of(model):
            rows = weight.matrix(weight.variable.numpy())
            assert max(distinct(row) for row in rows) <= 3
            assert distinct(rows) > 3

    @pytest.mark.parametrize("assignment", ["learned", "fixed"])
    def test_gates(self, assignment):
        x = inputs_of("lstm")
        model = compiled(lstm())
        stage = Cluster(clusters=4, granularity="gate", assignment=assignment)
        attached = attach(Clustering(stage), model, x)
        fit(model, x, attached)
        attached.detach()
        assert len(attached.touched) == 2
        assert {skip.reason for skip in attached.skipped} == {"only an LSTM has gates"}
        for weight in weights_of(model)[:2]:
            gates = np.split(weight.variable.numpy(), 4, axis=1)
            assert max(distinct(gate) for gate in gates) <= 4

    @pytest.mark.parametrize("assignment", ["learned", "fixed"])
    def test_one_scale_for_a_dense_kernel(self, assignment):
        x = inputs_of("mlp")
        model = compiled(MODELS["mlp"]())
        grid = Grid(per_channel_dense=False)
        attached = attach(Clustering(Cluster(clusters=5, assignment=assignment)), model, x, grid)
        fit(model, x, attached)
        attached.detach()
        for weight in weights_of(model):
            assert distinct(weight.variable.numpy()) <= 5


def test_the_model_is_plain_again():
    x = inputs_of("cnn")
    model = compiled(cnn())
    attached = attach(Clustering(Cluster(clusters=4)), model, x)
    answers = np.asarray(model(x))
    attached.detach()
    np.testing.assert_allclose(model(x), answers, atol=1e-6)
    assert all("call" not in vars(layer) for layer in model._flatten_layers())
    assert all(variable.constraint is None for variable in model.trainable_variables)


@pytest.mark.parametrize("assignment", ["learned", "fixed"])
def test_an_optimizer_that_averages_weights(assignment):
    x = inputs_of("mlp")
    model = compiled(MODELS["mlp"](), keras.optimizers.SGD(0.1, use_ema=True))
    stage = Cluster(clusters=4, assignment=assignment)
    attached = attach(Clustering(stage), model, x)
    fit(model, x, attached)
    averages = [weight.variable.numpy() for weight in weights_of(model)]
    attached.detach()
    for weight, average in zip(weights_of(model), averages, strict=True):
        assert distinct(scaled(weight)) <= 4
        # What is left are the averages, each as the value that it shares.
        assert np.corrcoef(average.ravel(), weight.variable.numpy().ravel())[0, 1] > 0.9


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
