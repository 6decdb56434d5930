"""Placement and quantization of attention, of normalization by layer, and of tables."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from keras import layers

from compresskit.attention import attentions, hide_below, written_out
from compresskit.graph import operations, trace
from compresskit.inner import points
from compresskit.methods.placement import is_table, placements
from compresskit.methods.quantize import Quantization
from compresskit.ranges import applied
from compresskit.stages import QAT
from compresskit.target import Grid
from compresskit.tflite.lower import predictions
from compresskit.weights import weights_of
from tests.models import bidirectional, sequences, tiny_bert
from tests.training import answers, calls, compiled, fit, length

X = sequences("tiny_bert")


def attach(model, **settings):
    return Quantization(QAT(**settings)).attach(model, X[:2], Grid(), length())


def layers_of(model, kind):
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]


@pytest.fixture(scope="module", params=[0.0, 0.1], ids=["no dropout", "dropout"])
def found(request):
    """A model with attention, traced as training traces it, and its placements."""
    model = tiny_bert(dropout=request.param)
    with written_out(dict.fromkeys(attentions(model), hide_below)):
        graph = trace(model, X[:2])
        return model, graph, placements(model, graph, set())


class TestPlacements:
    def at(self, found, operation):
        return [
            (each.place, each.inner, each.fixed) for each in found[2] if each.operation is operation
        ]

    def test_no_place_twice(self, found):
        keys = [(id(each.operation), each.place, each.inner) for each in found[2]]
        assert len(set(keys)) == len(keys)

    def test_the_softmax_of_attention(self, found):
        (layer,) = attentions(found[0])
        assert self.at(found, layer._softmax) == [
            ("input", "", None),
            ("output", "", (0.0, 255 / 256)),
        ]

    def test_what_attention_gathers(self, found):
        (layer,) = attentions(found[0])
        assert self.at(found, layer.output_dense) == [("input", "", None), ("output", "", None)]

    @pytest.mark.parametrize("name", ["query_dense", "key_dense", "value_dense"])
    def test_what_attention_projects(self, found, name):
        (layer,) = attentions(found[0])
        assert self.at(found, getattr(layer, name)) == [("output", "", None)]

    def test_every_tensor_inside_a_normalization(self, found):
        made = layers_of(found[0], layers.LayerNormalization)
        assert len(made) == 3
        for layer in made:
            inside = [("inside", name, None) for name in points(layer)]
            assert len(inside) == 8
            assert self.at(found, layer) == [*inside, ("output", "", None)]

    def test_none_for_tables(self, found):
        tables = layers_of(found[0], layers.Embedding)
        assert len(tables) == 3
        for layer in tables:
            assert is_table(layer)
            assert self.at(found, layer) == []

    def test_every_sum_by_itself(self, found):
        model = found[0]
        for name in ("position_add", "segment_add", "block1_attention_add", "block1_add"):
            assert self.at(found, model.get_layer(name)) == [("output", "", None)]

    def test_names_inside_stand_for_operations_that_show_them(self, found):
        assert {each.operation for each in found[2] if each.inner} == {
            *layers_of(found[0], layers.LayerNormalization)
        }

    def test_the_model_is_as_it_was(self, found):
        assert calls(found[0]) == []
        assert all("_compute_attention" not in vars(layer) for layer in attentions(found[0]))


@functools.cache
def quantized(dropout):
    """A model after QAT, what it answered in training, and its ranges."""
    keras.utils.set_random_seed(0)
    model = compiled(tiny_bert(dropout=dropout), keras.optimizers.Adam(1e-2))
    attached = attach(model)
    fit(model, X, attached, epochs=2)
    trained = answers(model, X)
    return model, trained, attached.detach()["ranges"]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
class TestQuantized:
    def test_trained_is_detached(self, dropout):
        model, trained, ranges = quantized(dropout)
        np.testing.assert_allclose(predictions(model, X, ranges), trained, atol=1e-6)
        assert np.abs(predictions(model, X) - trained).max() > 1e-4

    def test_it_is_plain(self, dropout):
        model, _, _ = quantized(dropout)
        assert calls(model) == []
        assert all("_compute_attention" not in vars(layer) for layer in attentions(model))

    def test_every_placement_has_a_range(self, dropout):
        model, _, ranges = quantized(dropout)
        with written_out(dict.fromkeys(attentions(model), hide_below)):
            expected = placements(model, trace(model, X[:2]), set())
        known = list(operations(model))
        made = [(known[each.operation], each.place, each.inner) for each in ranges]
        # The model's own input, and what functions but GELU give, are token ids and the like.
        assert [place for place in made if not is_table(place[0])] == [
            (each.operation, each.place, each.inner)
            for each in expected[1:]
            if isinstance(each.operation, keras.Layer) or each.operation.name.startswith("gelu")
        ]

    def test_scores_have_a_range_of_scores(self, dropout):
        """The score of what is hidden is among them, and none that is far away."""
        _, _, ranges = quantized(dropout)
        (scores,) = [each for each in ranges if (each.name, each.place) == ("softmax", "input")]
        assert -100 < scores.low <= -7
        assert 0 < scores.high < 100


def tables_of(model, ranges):
    """Each table with its ranges."""
    known = list(operations(model))
    return [
        (weight, [each for each in ranges if known[each.operation] is weight.layer])
        for weight in weights_of(model)
        if weight.layout.table
    ]


def check_grid(weight, ranges):
    (made,) = ranges
    step = np.abs(weight.variable.numpy()).max() / 127
    assert (made.name, made.place, made.inner) == (weight.layer.name, "output", "")
    assert (made.low, made.high) == pytest.approx((-128 * step, 127 * step), rel=1e-6)
    assert made.bits == 8


class TestTables:
    def test_a_trained_one_has_its_own_grid(self):
        model, _, ranges = quantized(0.0)
        found = tables_of(model, ranges)
        assert len(found) == 3
        for weight, made in found:
            check_grid(weight, made)

    @pytest.mark.parametrize("settings", [{}, {"activation_bits": 4}, {"weight_bits": 4}], ids=str)
    @pytest.mark.parametrize("make", [tiny_bert, bidirectional])
    def test_its_rows_stay_what_they_are(self, make, settings):
        model = make()
        ranges = attach(model, **settings).detach()["ranges"]
        for weight, made in tables_of(model, ranges):
            check_grid(weight, made)
            ids = np.arange(weight.shape[0])
            rows = np.asarray(weight.layer(ids))
            with applied(model, made):
                np.testing.assert_allclose(weight.layer(ids), rows, rtol=1e-6)

    def test_one_that_is_ignored_has_none(self):
        model = tiny_bert()
        ranges = attach(model, ignore=["position_embedding"]).detach()["ranges"]
        counts = {weight.layer.name: len(made) for weight, made in tables_of(model, ranges)}
        assert counts == {"token_embedding": 1, "position_embedding": 0, "segment_embedding": 1}

    def test_one_of_zeros_has_none(self):
        model = bidirectional()
        table = layers_of(model, layers.Embedding)[0]
        table.embeddings.assign(np.zeros(table.embeddings.shape))
        ((_, made),) = tables_of(model, attach(model).detach()["ranges"])
        assert made == []


class TestDetach:
    @pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
    def test_two_in_any_order(self, order):
        model = tiny_bert()
        attached = [attach(model), attach(model)]
        for index in order:
            attached[index].detach()
        assert calls(model) == []
        assert all("_compute_attention" not in vars(layer) for layer in attentions(model))
