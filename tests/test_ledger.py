"""compresskit.ledger: what the stages made, and whether it is still true."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from compresskit.ledger import Kept, baked, kept_by, still_true
from compresskit.method import Attached
from compresskit.report.records import LayerReport
from compresskit.stages import QAT, Cluster, Prune
from compresskit.target import Grid
from compresskit.weights import weights_of
from tests.models import mlp


def attached(*paths):
    return Attached(touched=paths, skipped=(), callbacks=(), detach=dict)


def made(stage, model, path="fc1/kernel", sparsity=0.5, grid=None):
    report = LayerReport(path=path, shape=(), sparsity=sparsity, distinct=1, skipped=None)
    return kept_by(stage, attached(path), [report], model, grid or Grid())


def kernel(model, path="fc1/kernel"):
    return next(weight.variable for weight in weights_of(model) if weight.path == path)


def filled(values, path="fc1/kernel"):
    """A model with a kernel of these values, over and over."""
    model = mlp()
    variable = kernel(model, path)
    variable.assign(np.resize(np.asarray(values, np.float32), variable.shape))
    return model


class Twins(keras.Model):
    """Two layers of one name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = (layers.Dense(4, name="same") for _ in range(2))

    def call(self, inputs):
        return self.two(self.one(inputs))


class TestKeptBy:
    def test_pruning_answers_for_zeros(self):
        (one,) = made(Prune(sparsity=0.5, name="sparsify"), filled([0, 1]))
        assert (one.path, one.stage, one.sparsity) == ("fc1/kernel", "sparsify", 0.5)
        assert one.clusters is None
        assert one.bits is None

    def test_clustering_answers_for_values(self):
        (one,) = made(Cluster(clusters=4, granularity="channel"), filled([0, 1]))
        assert (one.clusters, one.unit, one.sparsity) == (4, "channel", None)

    def test_quantization_answers_for_bits(self):
        (one,) = made(QAT(weight_bits=4), filled([0, 1]))
        assert (one.bits, one.sparsity, one.clusters) == (4, None, None)

    def test_layers_of_one_path_answer_one_by_one(self):
        model = Twins(name="twins")
        model(np.zeros((1, 4), np.float32))
        found = made(Prune(sparsity=0.5), model, "twins/same/kernel")
        assert len(found) == 2
        first, second = (weight.variable for weight in weights_of(model))
        first.assign(np.zeros(first.shape))
        second.assign(np.ones(second.shape))
        assert [one.kept for one in still_true(found, model, "later")] == [True, False]
        assert [one.matrix.sum() for one in baked(found, model)] == [0.0, second.numpy().size]


class TestStillTrue:
    @pytest.mark.parametrize(("values", "kept"), [([0, 1], True), ([0, 1, 1, 1], False)])
    def test_sparsity(self, values, kept):
        records = made(Prune(sparsity=0.5), filled([0, 1]))
        (one,) = still_true(records, filled(values), "quantize")
        assert one.what == "sparsity of fc1/kernel after quantize"
        assert one.stage == "quantize"  # it broke what another stage made
        assert one.kept is kept
        assert one.expected == 0.5

    def test_groups(self):
        stage = Prune(granularity="2:4")
        model = mlp()
        variable = kernel(model)
        pattern = np.resize([1.0, 0.0, 2.0, 0.0], (variable.shape[1], variable.shape[0])).T
        variable.assign(pattern)
        records = made(stage, model)
        assert all(one.kept for one in still_true(records, model, "later"))
        variable.assign(np.ones(variable.shape))
        broken = [one for one in still_true(records, model, "later") if not one.kept]
        assert len(broken) == 2
        assert broken[1].what == "groups of fc1/kernel that break 2:4 after later"
        assert broken[1].measured > 0

    def test_values_behind_the_scale_of_each_channel(self):
        model = mlp()
        variable = kernel(model)
        ratios = np.resize([1.0, -0.5, 0.25], (variable.shape[1], variable.shape[0])).T
        variable.assign(ratios * np.arange(1, variable.shape[1] + 1))
        (one,) = still_true(made(Cluster(clusters=3), model), model, "later")
        assert one.kept
        assert one.measured == 3
        (one,) = still_true(made(Cluster(clusters=2), model), model, "later")
        assert not one.kept
        (one,) = still_true(made(Cluster(clusters=3, granularity="channel"), model), model, "x")
        assert one.kept

    def test_values_behind_one_scale_for_all(self):
        model = mlp()
        variable = kernel(model)
        values = np.resize([1.0, 0.7, 0.25], (variable.shape[1], variable.shape[0])).T
        values[:, 0] = np.resize([0.7, 0.25], variable.shape[0])  # the largest is not there
        variable.assign(values)
        for grid, distinct in ((Grid(per_channel_dense=False), 3), (Grid(), 4)):
            (one,) = still_true(made(Cluster(clusters=3), model, grid=grid), model, "later")
            assert one.measured == distinct
            assert one.kept == (distinct == 3)

    def test_bits(self):
        records = made(QAT(weight_bits=2), filled([0, 1]))
        assert still_true(records, filled([-1, 0, 1]), "later")[0].kept
        assert not still_true(records, filled([-1, 0, 1, 2, 3, 5, 7]), "later")[0].kept

    def test_eight_bits_say_nothing(self):
        assert still_true(made(QAT(), filled([0, 1])), mlp(), "later") == []


def test_a_record_is_about_what_was_baked():
    model = filled([0, 1])
    records = made(Prune(sparsity=0.5), model)
    kernel(model).assign(np.full(kernel(model).shape, 3.0))
    (one,) = baked(records, model)
    assert (one.matrix == 3.0).all()
    assert isinstance(one, Kept)
