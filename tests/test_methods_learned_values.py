"""compresskit.methods.learned_values: who shares a value is learned, too."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from compresskit.methods import learned_values
from compresskit.methods.codebooks import assign, codebook
from compresskit.methods.grids import Scales
from compresskit.methods.learned_values import LearnedValues


def learned(values, *books, pinned=(), units=Scales(), scales=None):  # noqa: B008 - frozen
    values = np.asarray(values, np.float32)
    return LearnedValues(values, [np.asarray(book, float) for book in books], pinned, units, scales)


def seen(hold, values):
    """What layers see after an update has made these values."""
    kept = hold.apply(tf.constant(values, tf.float32))
    return np.asarray(hold.settled(kept))


class TestBooks:
    @pytest.fixture(autouse=True)
    def means_at_every_update(self, monkeypatch):
        monkeypatch.setattr(learned_values, "MEANS_EVERY", 1)

    def test_each_is_the_value_nearest_to_it_and_each_value_the_mean_of_its_members(self):
        hold = learned([0.0, 0.9, 4.0, 5.0], [1.0, 4.0], pinned=(0.0,))
        np.testing.assert_allclose(seen(hold, [0.0, 1.0, 4.0, 6.0]), [0.5, 0.5, 5.0, 5.0])

    def test_a_weight_may_change_its_value(self):
        hold = learned([1.0, 2.0, 5.0], [1.5, 5.0])
        seen(hold, [1.0, 2.0, 5.0])
        np.testing.assert_allclose(seen(hold, [1.0, 4.0, 5.0]), [1.0, 4.5, 4.5])

    def test_a_value_without_members_stays(self):
        hold = learned([1.0, 2.0], [1.0, 2.0])
        seen(hold, [1.9, 2.0])
        np.testing.assert_allclose(hold.books.numpy(), [[1.0, 1.95]])

    def test_zeros_stay_and_others_may_join_them(self):
        hold = learned([0.0, 0.5, 2.0], [0.0, 1.0, 2.0], pinned=(0.0,))
        np.testing.assert_array_equal(seen(hold, [0.7, 0.1, 2.0]), [0.0, 0.0, 2.0])
        np.testing.assert_allclose(seen(hold, [0.7, 1.1, 2.0]), [0.0, 1.1, 2.0])

    def test_units_have_books_of_their_own(self):
        """Of other lengths, too: the shorter one is filled up with what no weight is near."""
        values = [[1.0, 10.0], [2.0, 20.0], [2.0, 30.0]]
        hold = learned(values, [1.0, 2.0], [10.0, 20.0, 30.0], units=Scales(channels=(1,)))
        np.testing.assert_array_equal(seen(hold, values), values)

    def test_gates(self):
        values = np.arange(16.0).reshape(2, 8)
        books = [[1.0 + 2 * gate, 9.0 + 2 * gate] for gate in range(4)]
        made = seen(learned(values, *books, units=Scales(gates=4)), values)
        assert [np.unique(gate).size for gate in np.split(made, 4, axis=1)] == [2] * 4
        np.testing.assert_allclose(made[:, :2], [[0.5, 0.5], [8.5, 8.5]])

    def test_scales(self):
        values = [[1.0, -4.0], [0.5, 3.0], [-1.0, 2.0]]
        hold = learned(values, [-1.0, 0.5, 1.0], pinned=(-1.0, 1.0), scales=Scales(channels=(1,)))
        made = seen(hold, values)
        np.testing.assert_allclose(made[0], [1.0, -4.0])
        ratios = made / np.abs(made).max(axis=0)
        assert np.unique(np.round(ratios, 5)).size == 3

    def test_what_is_not_a_number_does_not_spoil_a_book(self):
        hold = learned([1.0, 2.0], [1.0, 2.0])
        seen(hold, [np.nan, 2.0])
        assert np.isfinite(hold.books.numpy()).all()

    @given(
        st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=40),
        st.integers(1, 9),
    )
    @settings(deadline=None)
    def test_never_more_values_than_clusters_and_k_means_gets_no_worse(self, values, count):
        values = np.asarray(values, np.float32)
        book = codebook(values, count, "linear")
        hold = learned(values, book)
        errors = [np.sum((values - book[assign(values, book)]) ** 2)]
        for _ in range(4):
            made = seen(hold, values)
            assert np.unique(made).size <= count
            errors.append(np.sum((values.astype(float) - made) ** 2))
        assert all(after <= before + 1e-4 for before, after in pairwise(errors))


def test_means_move_at_every_fourth_update_and_weights_at_every_one():
    hold = learned([1.0, 2.0, 5.0], [1.5, 5.0])
    found = [seen(hold, [1.0, moved, 5.0]).tolist() for moved in (2.0, 3.0, 4.0, 4.5, 4.0)]
    assert found == [[1.5, 1.5, 5.0]] * 2 + [[1.5, 5.0, 5.0]] * 2 + [[1.0, 4.5, 4.5]]


class TestRead:
    def test_the_gradient_passes(self):
        values = tf.Variable([1.0, 2.0, 5.0])
        hold = learned(values, [1.5, 5.0])
        hold.apply(values)
        with tf.GradientTape() as tape:
            made = hold.read(values)
            loss = tf.reduce_sum(made * [3.0, 5.0, 7.0])
        np.testing.assert_allclose(made, [1.5, 1.5, 5.0])
        np.testing.assert_allclose(tape.gradient(loss, values), [3.0, 5.0, 7.0])

    def test_a_sparse_gradient(self):
        table = tf.Variable([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0]])
        hold = learned(table, [1.0, 2.0])
        hold.apply(table)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(hold.read(table), [0, 2, 2]))
        gradient = tf.convert_to_tensor(tape.gradient(loss, table))
        np.testing.assert_allclose(gradient, [[1, 1], [0, 0], [2, 2]])


class TestDistance:
    """Whether the training loop asks the hold after its updates."""

    @pytest.mark.parametrize("scales", [None, Scales(channels=(1,))])
    def test_none_after_an_update_and_some_without(self, scales):
        values = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
        hold = learned(values, np.linspace(-1, 1, 5), scales=scales)
        hold.apply(tf.constant(values))
        assert hold.distance(tf.constant(values)) < 1e-5
        # A loop that does not ask: the weights move, and the values that they share do not.
        noise = np.random.default_rng(1).normal(size=(20, 3), scale=0.3)
        assert hold.distance(tf.constant(values + noise.astype(np.float32))) > 1e-3

    def test_none_of_weights_that_are_all_zero(self):
        zeros = np.zeros((4, 2), np.float32)
        assert learned(zeros, [0.0, 1.0], pinned=(0.0,)).distance(tf.constant(zeros)) == 0


def test_state_comes_back():
    values = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    first = learned(values, [-1.0, 0.0, 1.0], pinned=(0.0,))
    first.apply(tf.constant(values))
    other = learned(np.zeros_like(values), [0.0, 1.0, 2.0], pinned=(0.0,))
    other.restore(first.state())
    np.testing.assert_array_equal(seen(other, values), seen(first, values))
