"""compresskit.attention: attention written out computes what Keras computes."""

from __future__ import annotations

from contextlib import ExitStack

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compresskit.attention import attentions, hide_at, hide_below, hide_far, written_out
from tests.models import mask_of, mlp, tiny_bert
from tests.training import answers

BATCH, QUERIES, KEYS, WIDTH = 3, 5, 6, 8


def attention(**settings):
    """A layer with random parameters, biases among them."""
    layer = layers.MultiHeadAttention(2, **{"key_dim": 4, **settings})
    layer.build((None, QUERIES, WIDTH), (None, KEYS, WIDTH))
    random = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        variable.assign(random.normal(size=variable.shape))
    return layer


def inputs(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


QUERY, VALUE = inputs(BATCH, QUERIES, WIDTH), inputs(BATCH, KEYS, WIDTH, seed=2)

MASKS = {
    "no mask": None,
    "of each query": mask_of(BATCH, QUERIES, KEYS),
    "of all queries": mask_of(BATCH, 1, KEYS),
    "of each head": mask_of(BATCH, 2, QUERIES, KEYS),
    "of numbers": mask_of(BATCH, QUERIES, KEYS).astype(np.int32),
}


def own(layer):
    """Whether a layer computes attention as nothing but its class says."""
    return "_compute_attention" not in vars(layer)


class TestWrittenOut:
    @pytest.mark.parametrize("mask", MASKS)
    @pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
    @pytest.mark.parametrize("weights", [False, True], ids=["", "weights"])
    @pytest.mark.parametrize("dropout", [0.0, 0.3])
    def test_equals_keras(self, mask, causal, weights, dropout):
        layer = attention(dropout=dropout, value_dim=7)

        def called():
            return layer(
                QUERY,
                VALUE,
                attention_mask=MASKS[mask],
                use_causal_mask=causal,
                return_attention_scores=weights,
            )

        expected = called()
        with written_out({layer: hide_far}):
            given = called()
        keras.tree.assert_same_structure(expected, given)
        for one, other in zip(keras.tree.flatten(given), keras.tree.flatten(expected), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-6)

    def test_a_causal_mask_beside_another(self):
        """As the layer's call hands them on where it does not join them itself."""
        layer, mask = attention(), MASKS["of each query"]
        given = layer.query_dense(QUERY), layer.key_dense(VALUE), layer.value_dense(VALUE)
        expected, _ = layer._compute_attention(*given, mask & np.tri(QUERIES, KEYS, dtype=bool))
        with written_out({layer: hide_far}):
            outputs, _ = layer._compute_attention(*given, mask, use_causal_mask=True)
        np.testing.assert_allclose(outputs, expected, atol=1e-6)

    @pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)], ids=str)
    @pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
    def test_over_other_axes(self, axes, masked):
        layer = layers.MultiHeadAttention(2, 4, attention_axes=axes)
        x = inputs(2, 3, 4, WIDTH)
        around = [2, *(size for axis, size in ((1, 3), (2, 4)) if axis not in axes)]
        sizes = [(3, 4)[axis - 1] for axis in axes]
        mask = None
        if masked:
            mask = np.random.default_rng(0).random((*around, *sizes, *sizes)) < 0.7
            mask[(..., *[0] * len(sizes))] = True
        expected = layer(x, x, attention_mask=mask)
        with written_out({layer: hide_far}):
            np.testing.assert_allclose(layer(x, x, attention_mask=mask), expected, atol=1e-6)

    def test_masks_that_keras_hands_on(self):
        tokens = keras.Input((KEYS,), dtype="int32")
        x = layers.Embedding(9, WIDTH, mask_zero=True)(tokens)
        layer = layers.MultiHeadAttention(2, 4)
        model = keras.Model(tokens, layers.GlobalAveragePooling1D()(layer(x, x)))
        ids = np.array([[3, 1, 4, 0, 0, 0], [5, 0, 0, 0, 0, 0]], np.int32)
        expected = answers(model, ids)
        with written_out({layer: hide_far}):
            np.testing.assert_allclose(answers(model, ids), expected, atol=1e-6)

    @pytest.mark.parametrize("hide", [hide_far, hide_below, hide_at(-20.0)])
    def test_a_query_that_may_attend_to_nothing(self, hide):
        layer, mask = attention(), MASKS["of each query"].copy()
        expected = layer(QUERY, VALUE, attention_mask=mask)
        mask[1, 2] = False
        with written_out({layer: hide}):
            given = np.asarray(layer(QUERY, VALUE, attention_mask=mask))
        assert np.isfinite(given).all()
        others = np.ones((BATCH, QUERIES), bool)
        others[1, 2] = False
        np.testing.assert_allclose(given[others], expected[others], atol=0.02)

    @pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
    @pytest.mark.parametrize("hide", [hide_far, hide_below, hide_at(-20.0)])
    def test_half_precision_stays_half(self, dtype, hide):
        layer = attention(dtype=dtype)
        expected = layer(QUERY, VALUE, attention_mask=MASKS["of each query"])
        with written_out({layer: hide}):
            given = layer(QUERY, VALUE, attention_mask=MASKS["of each query"])
        assert given.dtype == expected.dtype == layer.compute_dtype
        given, expected = (np.asarray(tf.cast(each, tf.float32)) for each in (given, expected))
        assert np.abs(given - expected).max() < 0.02 * np.abs(expected).max()

    def test_the_same_weights_are_dropped_in_training(self):
        layer = attention(dropout=0.5)
        state = layer._dropout_layer.seed_generator.state
        start = state.numpy()
        expected = layer(QUERY, VALUE, training=True)
        state.assign(start)
        with written_out({layer: hide_far}):
            np.testing.assert_allclose(layer(QUERY, VALUE, training=True), expected, atol=1e-5)
        assert np.abs(expected - layer(QUERY, VALUE)).max() > 0.1

    def test_a_function_of_the_scaled_query(self):
        layer = attention()
        expected = np.asarray(layer.query_dense(QUERY)) / np.sqrt(4)
        plain = layer(QUERY, VALUE)
        seen = []
        with written_out({layer: hide_far}, {layer: lambda query: seen.append(query) or 0 * query}):
            given = layer(QUERY, VALUE)
        np.testing.assert_allclose(seen[0], expected, rtol=1e-6)
        # Without a query, the attention is the same for every key.
        mean = np.mean(layer.value_dense(VALUE), axis=1, keepdims=True)
        even = layer.output_dense(np.repeat(mean, QUERIES, axis=1))
        np.testing.assert_allclose(given, even, atol=1e-5)
        assert np.abs(given - plain).max() > 0.1

    def test_other_layers_are_left_alone(self):
        one, other = attention(), attention()
        with written_out({one: hide_far}):
            assert not own(one)
            assert own(other)


class TestUndone:
    def weights(self, layer):
        _, made = layer(
            QUERY, VALUE, attention_mask=MASKS["of each query"], return_attention_scores=True
        )
        return np.asarray(made)

    def test_afterwards(self):
        layer = attention()
        before = self.weights(layer)
        with written_out({layer: hide_at(50.0)}):
            assert np.abs(self.weights(layer) - before).max() > 0.5
        assert own(layer)
        np.testing.assert_array_equal(self.weights(layer), before)

    def test_after_an_error(self):
        layer = attention()
        with pytest.raises(ZeroDivisionError), written_out({layer: hide_far}):
            raise ZeroDivisionError
        assert own(layer)

    def test_the_outer_of_two(self):
        layer = attention()
        with written_out({layer: hide_at(50.0)}):
            outer = self.weights(layer)
            with written_out({layer: hide_far}):
                assert np.abs(self.weights(layer) - outer).max() > 0.5
            np.testing.assert_array_equal(self.weights(layer), outer)
        assert own(layer)

    @pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1)])
    def test_in_any_order(self, order):
        layer = attention()
        before = self.weights(layer)
        # As methods stand on a model: each until it is detached.
        stacks = [ExitStack() for _ in order]
        expected = []
        for stack, score in zip(stacks, (-3.0, 0.0, 50.0), strict=True):
            stack.enter_context(written_out({layer: hide_at(score)}))
            expected.append(self.weights(layer))
        standing = [0, 1, 2]
        for index in order:
            stacks[index].close()
            standing.remove(index)
            now = expected[standing[-1]] if standing else before
            np.testing.assert_array_equal(self.weights(layer), now)
        assert own(layer)

    def test_what_a_user_put_there(self):
        layer = attention()
        theirs = layer._compute_attention
        layer._compute_attention = theirs
        with written_out({layer: hide_far}):
            assert layer._compute_attention is not theirs
        assert layer._compute_attention is theirs


class Own(layers.MultiHeadAttention):
    """An attention that computes something else."""

    def _compute_attention(self, query, key, value, *args, **kwargs):
        return value, None


class Named(layers.MultiHeadAttention):
    """An attention by another name."""


class Holder(keras.Model):
    """Has two attentions and calls one."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = (layers.MultiHeadAttention(2, 4) for _ in range(2))

    def build(self, shape):
        self.used.build(shape, shape)
        self.built = True

    def call(self, x):
        return self.used(x, x)


class TestAttentions:
    def test_those_that_are_computed_as_keras_does(self):
        x = keras.Input((KEYS, WIDTH))
        made = [kind(2, 4) for kind in (layers.MultiHeadAttention, Own, Named)]
        outputs = [layer(x, x) for layer in made]
        assert attentions(keras.Model(x, outputs)) == [made[0], made[2]]

    def test_inside_other_models(self):
        inner = tiny_bert()
        tokens = keras.Input((12,), dtype="int32")
        outer = keras.Model(tokens, inner(tokens))
        assert attentions(outer) == [inner.get_layer("block1_attention")]

    def test_not_one_that_is_never_called(self):
        model = Holder()
        model(QUERY)
        assert attentions(model) == [model.used]

    def test_none(self):
        assert attentions(mlp()) == []
