"""Scanned digits, 8x8: small enough to train on in seconds.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI
Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49; the 1,797 samples
that scikit-learn brings along.
"""

from __future__ import annotations

import numpy as np

from compresskit.data import Dataset
from compresskit.errors import DataError, Problem


def load() -> Dataset:
    """1,437 training and 360 test pictures.

    The split is fixed and keeps the proportions of the classes: sorted by class, the
    order of the file kept within each, every fifth sample is a test sample. No random
    number takes part, so it is the same under every release of scikit-learn and NumPy.

    Returns:
        x: float32 in 0..1, shape (n, 8, 8, 1); y: int64, shape (n,); classes `0` to `9`.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as cause:
        raise DataError(
            Problem(
                where="dataset 'digits'",
                found="scikit-learn is not installed",
                expected="scikit-learn, which brings the pictures along",
                fix="pip install 'compresskit[datasets]'",
            )
        ) from cause
    digits = load_digits()
    # Pixels are counts of 0 to 16.
    x = (digits.images / 16).astype(np.float32)[..., np.newaxis]
    y = digits.target.astype(np.int64)
    test = _every_fifth(y)
    return Dataset(
        name="digits",
        x_train=x[~test],
        y_train=y[~test],
        x_test=x[test],
        y_test=y[test],
        classes=tuple("0123456789"),
    )


def _every_fifth(y: np.ndarray) -> np.ndarray:
    """True for the test samples."""
    by_class = np.argsort(y, kind="stable")
    test = np.zeros(len(y), dtype=bool)
    test[by_class[::5]] = True
    return test
