"""What makes a weight important: criteria, each a function of the weight alone.

A criterion takes the values of a weight and gives a score of the same shape; weights
with the lowest scores are pruned first. A new one is a function like these and one
line of registration; it inherits the tests of every registered criterion.
"""

from __future__ import annotations

import numpy as np


def magnitude(values: np.ndarray) -> np.ndarray:
    """The absolute value (Han et al., 2015, https://arxiv.org/abs/1506.02626)."""
    return np.abs(values)
