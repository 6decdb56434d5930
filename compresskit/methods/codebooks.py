"""Codebooks: a few values that stand for all weights of a tensor.

Sources: S. Han et al., "Deep Compression", 2015, https://arxiv.org/abs/1510.00149 (weight
sharing; linear and density-based starts); D. Arthur and S. Vassilvitskii, "k-means++", 2007;
exact k-means in one dimension: A. Grønlund et al., 2017, https://arxiv.org/abs/1701.07204.
"""

from __future__ import annotations

from collections.abc import Callable

import kmeans1d
import numpy as np

# Of more values than these, codebooks are made of as many quantiles: seconds, not minutes.
MOST_VALUES = 65_536
_LLOYD_ITERATIONS = 50


def codebook(
    values: np.ndarray, count: int, init: str, pinned: tuple[float, ...] = ()
) -> np.ndarray:
    """At most `count` values for a tensor, in ascending order.

    Args:
        values: the tensor, any shape.
        count: how many values, the pinned ones among them.
        init: a key of `INITS`.
        pinned: values that the codebook has whatever the tensor is; what equals them
            does not move the others.
    """
    given = values.ravel()
    for value in pinned:
        given = given[given != value]
    given = np.sort(given)
    left = count - len(pinned)
    distinct = given[np.concatenate([[True], given[1:] != given[:-1]])] if given.size else given
    if left <= 0 or distinct.size == 0:
        found = np.zeros(0)
    elif distinct.size <= left:
        found = distinct.astype(np.float64)
    else:
        if given.size > MOST_VALUES:
            picked = (np.arange(MOST_VALUES) + 0.5) / MOST_VALUES * given.size
            given = given[picked.astype(np.int64)]
        found = INITS[init](given.astype(np.float64), left)
    return np.unique(np.concatenate([found, pinned]))


def assign(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The index of the nearest centroid, int32, the shape of `values`.

    Args:
        centroids: in ascending order.
    """
    middles = (centroids[1:] + centroids[:-1]) / 2
    return np.searchsorted(middles, values).astype(np.int32)


def _linear(values: np.ndarray, count: int) -> np.ndarray:
    return np.linspace(values[0], values[-1], count)


def _density(values: np.ndarray, count: int) -> np.ndarray:
    # As TFMOT: shares of the values below each, evenly spaced from 1 % to all.
    return np.quantile(values, np.linspace(0.01, 1.0, count))


def _kmeans_plus_plus(values: np.ndarray, count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    centroids = np.array([random.choice(values)])
    while centroids.size < count:
        distances = (values - centroids[assign(values, centroids)]) ** 2
        total = distances.sum()
        if total == 0:
            break
        centroids = np.sort(np.append(centroids, random.choice(values, p=distances / total)))
    for _ in range(_LLOYD_ITERATIONS):
        members = assign(values, centroids)
        sizes = np.bincount(members, minlength=centroids.size)
        sums = np.bincount(members, weights=values, minlength=centroids.size)
        moved = np.where(sizes > 0, sums / np.maximum(sizes, 1), centroids)
        if np.allclose(moved, centroids, rtol=0, atol=1e-12):
            break
        centroids = np.sort(moved)
    return centroids


def _kmeans(values: np.ndarray, count: int) -> np.ndarray:
    return np.asarray(kmeans1d.cluster(values, count).centroids)


INITS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "kmeans": _kmeans,
    "kmeans++": _kmeans_plus_plus,
    "density": _density,
    "linear": _linear,
}
