"""compresskit.methods.codebooks: a few values for a tensor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compresskit.methods import codebooks
from compresskit.methods.codebooks import INITS, assign, codebook

quick = settings(max_examples=40, deadline=None)
VALUES = arrays(
    np.float32, st.integers(1, 60), elements=st.floats(-4, 4, width=32, allow_subnormal=False)
)


def error(values, centroids):
    return float(np.sum((values - centroids[assign(values, centroids)]) ** 2))


@pytest.mark.parametrize("init", INITS)
class TestEveryStart:
    @quick
    @given(values=VALUES, count=st.integers(2, 20))
    def test_at_most_so_many_in_ascending_order(self, init, values, count):
        centroids = codebook(values, count, init)
        assert 1 <= centroids.size <= count
        assert (np.diff(centroids) > 0).all()
        assert centroids.min() >= values.min() - 1e-6
        assert centroids.max() <= values.max() + 1e-6

    @quick
    @given(values=VALUES, count=st.integers(4, 20))
    def test_pinned_values_are_there(self, init, values, count):
        pinned = (-1.0, 0.0, 1.0)
        centroids = codebook(values, count, init, pinned)
        assert set(pinned) <= set(centroids.tolist())
        assert centroids.size <= count

    @quick
    @given(values=VALUES)
    def test_few_values_are_kept_as_they_are(self, init, values):
        np.testing.assert_array_equal(codebook(values, 60, init), np.unique(values))

    def test_twice_the_same(self, init):
        values = np.random.default_rng(0).normal(size=500).astype(np.float32)
        np.testing.assert_array_equal(codebook(values, 9, init), codebook(values, 9, init))

    def test_all_values_are_pinned(self, init):
        assert codebook(np.zeros(5), 4, init, (0.0,)).tolist() == [0.0]


class TestKmeans:
    @quick
    @given(values=arrays(np.float32, 8, elements=st.floats(-4, 4, width=32)), count=st.just(2))
    def test_no_two_clusters_are_better(self, values, count):
        """Against every way to cut the sorted values in two."""
        values = np.sort(values.astype(np.float64))
        best = min(
            sum(((part - part.mean()) ** 2).sum() for part in np.split(values, [cut]))
            for cut in range(1, len(values))
        )
        assert error(values, codebook(values, count, "kmeans")) <= best + 1e-6

    @pytest.mark.parametrize("init", sorted(set(INITS) - {"kmeans"}))
    def test_none_is_better_than_the_exact_one(self, init):
        values = np.random.default_rng(1).normal(size=2000)
        exact = error(values, codebook(values, 16, "kmeans"))
        assert exact <= error(values, codebook(values, 16, init)) + 1e-9

    @pytest.mark.parametrize("init", INITS)
    def test_many_values_are_seen_through_quantiles(self, init, monkeypatch):
        values = np.random.default_rng(2).normal(size=8000).astype(np.float32)
        all_of_them = codebook(values, 8, init)
        monkeypatch.setattr(codebooks, "MOST_VALUES", 1000)
        assert error(values, codebook(values, 8, init)) <= 1.05 * error(values, all_of_them)


class TestAssign:
    @quick
    @given(values=VALUES, centroids=arrays(np.float64, 5, elements=st.floats(-4, 4), unique=True))
    def test_is_the_nearest(self, values, centroids):
        centroids = np.sort(centroids)
        chosen = centroids[assign(values, centroids)]
        nearest = np.abs(values[:, None] - centroids).min(axis=1)
        np.testing.assert_allclose(np.abs(values - chosen), nearest, atol=1e-9)

    def test_shape_and_type(self):
        made = assign(np.zeros((3, 4, 5)), np.array([-1.0, 1.0]))
        assert made.shape == (3, 4, 5)
        assert made.dtype == np.int32
