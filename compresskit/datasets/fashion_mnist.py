"""Fashion-MNIST: 70,000 pictures of clothes, 28x28 grey, ten classes.

Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for
Benchmarking Machine Learning Algorithms", 2017, https://arxiv.org/abs/1708.07747. The
files are those of the Debian package `dataset-fashion-mnist`; the idx format is
described at http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from compresskit.builders import describe
from compresskit.data import Dataset
from compresskit.datasets.split import stratified
from compresskit.errors import DataError, Problem

VARIABLE = "COMPRESSKIT_FASHION_MNIST"
FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_WHERE = "dataset 'fashion-mnist'"
_FILES = {
    "x_train": ("train-images-idx3-ubyte.gz", (60_000, 28, 28)),
    "y_train": ("train-labels-idx1-ubyte.gz", (60_000,)),
    "x_test": ("t10k-images-idx3-ubyte.gz", (10_000, 28, 28)),
    "y_test": ("t10k-labels-idx1-ubyte.gz", (10_000,)),
}


def load() -> Dataset:
    """60,000 training and 10,000 test pictures.

    The files are looked for in the folder of the Debian package, or in the one that
    the environment variable COMPRESSKIT_FASHION_MNIST names.

    Returns:
        x: float32 in 0..1, shape (n, 28, 28, 1); y: int64, shape (n,).

    Raises:
        DataError: files are missing or damaged; every one of them at once.
    """
    return Dataset(name="fashion-mnist", classes=CLASSES, **_arrays())


def labelled(every: int = 10) -> Dataset:
    """The data set as if only every `every`-th training picture of each class had a label.

    Returns:
        as `load`, with those pictures alone for training and all test pictures.
    """
    arrays = _arrays()
    kept = stratified(arrays["y_train"], every)
    arrays["x_train"], arrays["y_train"] = arrays["x_train"][kept], arrays["y_train"][kept]
    return Dataset(name="fashion-mnist", classes=CLASSES, **arrays)


def unlabelled(every: int = 10) -> np.ndarray:
    """The training pictures that `labelled` leaves out: samples that have no label.

    Returns:
        float32 in 0..1, shape (n, 28, 28, 1).
    """
    arrays = _arrays()
    return arrays["x_train"][~stratified(arrays["y_train"], every)]


def _arrays() -> dict[str, Any]:
    """The fields of `load` that are arrays."""
    folder = Path(os.environ.get(VARIABLE) or FOLDER)
    missing = [name for name, _ in _FILES.values() if not (folder / name).is_file()]
    if missing:
        raise DataError(
            Problem(
                where=_WHERE,
                found=f"{folder} lacks {', '.join(missing)}",
                expected="the four idx files of Fashion-MNIST, gzipped",
                fix="apt-get install dataset-fashion-mnist, "
                f"or set {VARIABLE} to a folder with the four files",
            )
        )
    arrays: dict[str, Any] = {}
    problems = []
    for key, (name, shape) in _FILES.items():
        try:
            arrays[key] = _read_idx(folder / name, shape)
        except (OSError, EOFError, zlib.error, ValueError) as cause:
            problems.append(_damaged(folder / name, cause))
    if problems:
        raise DataError(problems)
    for key, array in arrays.items():
        if key.startswith("x"):
            arrays[key] = array.astype(np.float32)[..., np.newaxis] / np.float32(255)
        else:
            arrays[key] = array.astype(np.int64)
    return arrays


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of an idx file of unsigned 8-bit numbers.

    Raises:
        ValueError: another magic number, shape or length than `shape` asks for.
    """
    content = gzip.decompress(path.read_bytes())
    # Two zero bytes, 8 for unsigned bytes, the number of axes; then each length, big-endian.
    magic = bytes([0, 0, 8, len(shape)])
    if content[:4] != magic:
        raise ValueError(f"magic number {content[:4].hex()}, not {magic.hex()}")
    start = 4 + 4 * len(shape)
    stored = tuple(int(length) for length in np.frombuffer(content[4:start], dtype=">u4"))
    if stored != shape:
        raise ValueError(f"shape {stored}, not {shape}")
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if values.size != np.prod(shape):
        raise ValueError(f"{values.size} values, not {np.prod(shape)}")
    return values.reshape(shape)


def _damaged(path: Path, cause: Exception) -> Problem:
    return Problem(
        where=_WHERE,
        found=f"{path} is damaged: {describe(cause)}",
        expected="the file as it was published",
        fix="apt-get install --reinstall dataset-fashion-mnist, or copy the file again",
    )
