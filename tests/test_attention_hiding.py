"""compresskit.attention: the scores of what is hidden from attention."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compresskit.attention import (
    attentions,
    hidden_scores,
    hide_at,
    hide_below,
    hide_far,
    written_out,
)
from tests.models import CLASSES, mask_of, mlp, sequences, tiny_bert
from tests.training import answers

KEYS, WIDTH = 6, 8


def inputs(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


X = inputs(3, KEYS, WIDTH)


def softmax(scores):
    return np.asarray(tf.nn.softmax(scores))


SCORES = {
    "alike": np.zeros((2, 2, 4, KEYS), np.float32),
    "random": 3 * inputs(2, 2, 4, KEYS),
    "of far queries": 3 * inputs(2, 2, 4, KEYS)
    + np.array([0.0, 40.0, -40.0, 5.0], np.float32)[:, np.newaxis],
    "negative": -100 + 3 * inputs(2, 2, 4, KEYS),
}


@pytest.mark.parametrize("shape", [(2, 1, 4, KEYS), (2, 1, 1, KEYS)], ids=["queries", "keys"])
@pytest.mark.parametrize("name", SCORES)
class TestHideBelow:
    def test_hidden_keys_get_less_than_half_a_step(self, name, shape):
        mask = mask_of(*shape)
        weights = softmax(hide_below(tf.constant(SCORES[name]), mask))
        hidden = np.broadcast_to(~mask, weights.shape)
        assert weights[hidden].max() < 1 / 512

    def test_the_others_get_what_they_get_from_keras(self, name, shape):
        scores, mask = tf.constant(SCORES[name]), mask_of(*shape)
        given = softmax(hide_below(scores, mask))
        expected = softmax(hide_far(scores, mask))
        attended = np.broadcast_to(mask, given.shape)
        assert np.abs(given - expected)[attended].max() < 1e-3

    def test_it_is_no_farther_than_it_has_to_be(self, name, shape):
        scores, mask = SCORES[name], mask_of(*shape)
        hidden = np.asarray(hide_below(tf.constant(scores), mask))
        best = np.where(mask, scores, -np.inf).max(axis=-1)
        attended = np.broadcast_to(mask, scores.shape)
        np.testing.assert_array_equal(hidden[attended], scores[attended])
        np.testing.assert_allclose(hidden[~attended], best.min() - 7 - np.log(KEYS), rtol=1e-6)

    @pytest.mark.parametrize("whole", [False, True], ids=["a row", "the batch"])
    def test_what_is_masked_as_a_whole(self, name, shape, whole):
        scores, mask = tf.constant(SCORES[name]), mask_of(*shape)
        mask[slice(None) if whole else 0] = False
        hidden = np.asarray(hide_below(scores, mask))
        others = hidden[np.broadcast_to(mask, hidden.shape)]
        assert np.isfinite(hidden).all()
        # On one scale with the others, or what is rounded with them is lost.
        assert np.abs(hidden).max() <= 9 + np.abs(others).max(initial=0.0)
        np.testing.assert_allclose(softmax(hidden).sum(axis=-1), 1.0, rtol=1e-5)

    def test_the_gradient_is_finite(self, name, shape):
        scores, mask = tf.constant(SCORES[name]), mask_of(*shape)
        mask[0, 0, 0] = False
        with tf.GradientTape() as tape:
            tape.watch(scores)
            weights = tf.nn.softmax(hide_below(scores, mask))
            value = tf.reduce_sum(weights * tf.range(KEYS, dtype=tf.float32))
        gradient = np.asarray(tape.gradient(value, scores))
        assert np.isfinite(gradient).all()
        assert not gradient[np.broadcast_to(~mask, gradient.shape)].any()


def test_no_gradient_from_one_sample_to_another():
    """The score to hide by comes from the whole batch, and is taken as it is."""
    # The lowest of the best scores is in the second sample, of which nothing is read.
    scores = tf.constant(SCORES["alike"] - np.reshape([0.0, 1.0], (2, 1, 1, 1)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        weights = tf.nn.softmax(hide_below(scores, mask_of(2, 1, 4, KEYS)))
        value = tf.reduce_sum(weights[0] * tf.range(KEYS, dtype=tf.float32))
    gradient = np.asarray(tape.gradient(value, scores))
    assert gradient[0].any()
    assert not gradient[1].any()


class TestHideAt:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_is_the_score_of_what_is_hidden(self, dtype):
        scores, mask = tf.cast(SCORES["random"], dtype), mask_of(2, 1, 4, KEYS)
        given = hide_at(-9.5)(scores, mask)
        assert given.dtype == scores.dtype
        expected = np.where(mask, np.asarray(tf.cast(scores, tf.float32)), -9.5)
        np.testing.assert_array_equal(tf.cast(given, tf.float32), expected)


def best_scores(model, x):
    """The best score of each query that may attend to something, of the one attention."""
    (layer,) = attentions(model)
    found = []

    def look(scores, mask):
        mask = np.broadcast_to(mask, scores.shape)
        found.append(np.where(mask, scores, -np.inf).max(axis=-1)[mask.any(axis=-1)])
        return hide_far(scores, mask)

    with written_out({layer: look}):
        answers(model, x)
    return np.concatenate(found)


# Of the twelve tokens that tiny_bert takes.
MARGIN = 7 + np.log(12)


class TestHiddenScores:
    def test_lie_below_the_best_of_every_query(self):
        model, x = tiny_bert(), sequences("tiny_bert", 70)
        made = hidden_scores(model, x)
        best = best_scores(model, x)
        assert list(made) == [id(layer) for layer in attentions(model)]
        (score,) = made.values()
        assert score <= best.min() - MARGIN + 1e-5
        assert score >= best.min() - MARGIN - 1e-3

    @pytest.mark.parametrize("count", [1, 32, 33])
    def test_samples_of_padding_alone_do_not_count(self, count):
        model, x = tiny_bert(), sequences("tiny_bert", 32)
        padded = np.concatenate([x, np.zeros((count, *x.shape[1:]), x.dtype)])
        (score,) = hidden_scores(model, padded).values()
        assert score == pytest.approx(min(best_scores(model, x).min(), 0.0) - MARGIN, abs=1e-4)

    @pytest.mark.parametrize("dropout", [0.0, 0.3])
    def test_of_a_causal_mask(self, dropout):
        x = keras.Input((KEYS, WIDTH))
        layer = layers.MultiHeadAttention(2, 4, dropout=dropout)
        model = keras.Model(x, layer(x, x, use_causal_mask=True))
        assert np.isfinite(hidden_scores(model, X)[id(layer)])

    def test_of_two_inputs(self):
        x, mask = keras.Input((KEYS, WIDTH), name="x"), keras.Input((1, KEYS), name="mask")
        layer = layers.MultiHeadAttention(2, 4)
        model = keras.Model({"x": x, "mask": mask}, layer(x, x, attention_mask=mask))
        samples = {"x": X, "mask": mask_of(3, 1, KEYS).astype(np.float32)}
        assert list(hidden_scores(model, samples)) == [id(layer)]

    def test_none_without_a_mask(self):
        x = keras.Input((KEYS, WIDTH))
        model = keras.Model(x, layers.Dense(CLASSES)(layers.MultiHeadAttention(2, 4)(x, x)))
        assert hidden_scores(model, X) == {}

    def test_none_without_an_attention(self):
        assert hidden_scores(mlp(), np.zeros((2, 8, 8, 1), np.float32)) == {}

    def test_the_model_is_as_it_was(self):
        model, x = tiny_bert(), sequences("tiny_bert", 8)
        before = answers(model, x)
        hidden_scores(model, x)
        assert all("_compute_attention" not in vars(layer) for layer in attentions(model))
        np.testing.assert_array_equal(answers(model, x), before)
