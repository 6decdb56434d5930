"""A split into training and test samples that no random number takes part in."""

from __future__ import annotations

import numpy as np


def stratified(labels: np.ndarray, every: int) -> np.ndarray:
    """True for the test samples: every `every`-th one after sorting by label.

    Samples of one label keep their order, so the split is the same under every release
    of NumPy, and each label has its share of test samples, give or take one.

    Args:
        labels: integers, shape (n,).

    Returns:
        bool, shape (n,).
    """
    test = np.zeros(len(labels), dtype=bool)
    test[np.argsort(labels, kind="stable")[::every]] = True
    return test
