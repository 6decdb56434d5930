"""The batches of a distillation, and the teacher's answers kept on disk."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, final

import keras
import numpy as np
import tensorflow as tf

from compresskit.distillation.distiller import SAMPLES, SHOWN, Distiller
from compresskit.errors import Problem, TrainingError
from compresskit.labels import Labels
from compresskit.progress import Update
from compresskit.samples import Samples, count, each, take

_BATCH = 64


@final
class Feed(keras.utils.PyDataset):
    """Samples, labels and what the teacher showed of them, in a new order every epoch.

    Args:
        x: samples, the labelled ones first.
        y: labels, shape (n,) or more; a dict of them for several outputs.
        shown: arrays of as many rows as there are samples, of which a batch's are read; None if
            the teacher is asked at every step.
        seed: of the orders.
        epoch: the first that will be asked for; the orders of those before are gone through.
    """

    def __init__(
        self,
        x: Samples,
        y: Labels,
        *,
        shown: dict[str, Any] | None,
        batch_size: int,
        seed: int,
        epoch: int = 0,
    ):
        super().__init__()
        self._x = x
        self._y = y
        self._shown = shown
        self._batch_size = batch_size
        self._labels = count(y)
        self._random = np.random.default_rng(seed)
        for _ in range(epoch + 1):
            self.on_epoch_end()

    def __len__(self) -> int:
        return math.ceil(count(self._x) / self._batch_size)

    def on_epoch_end(self) -> None:
        self._order = self._random.permutation(count(self._x))

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        start = index * self._batch_size
        # In the order of the file: an array on disk is read forwards.
        rows = np.sort(self._order[start : start + self._batch_size])
        inputs = {SAMPLES: take(self._x, rows)}
        if self._shown is not None:
            inputs[SHOWN] = {
                name: np.asarray(rows_of[rows]) for name, rows_of in self._shown.items()
            }
        # What has no label takes any, of weight zero.
        labelled = rows < self._labels
        some = np.where(labelled, rows, 0)
        labels = take(self._y, some)
        if self._labels == count(self._x):
            return inputs, labels
        return inputs, labels, labelled.astype(np.float32)


def remember(
    distiller: Distiller, x: Samples, folder: Path, where: str, update: Update
) -> dict[str, np.ndarray]:
    """Asks the teacher about every sample once, and writes what it shows to a folder.

    Returns:
        arrays on disk, float32, by the names of `Distiller.ask`.

    Raises:
        TrainingError: the disk is too small.
    """
    spec = each(x, lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype))
    ask = tf.function(distiller.ask, autograph=False).get_concrete_function(spec)
    total = count(x)
    needed = (
        4
        * total
        * sum(math.prod(shape) for shape in _shapes(ask(each(take(x, slice(1)), tf.constant))))
    )
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            Problem(
                where=where,
                found=f"{needed / 1e9:.1f} GB of what the teacher shows, and {free / 1e9:.1f} GB "
                f"free at {folder}",
                expected="room for it while the stage trains",
                fix="write `cache: false`, compare fewer layers, or set TMPDIR to a larger disk",
            )
        )
    kept: dict[str, np.ndarray] = {}
    for start in range(0, total, _BATCH):
        batch = each(take(x, slice(start, start + _BATCH)), tf.constant)
        for index, (name, values) in enumerate(ask(batch).items()):
            if name not in kept:
                kept[name] = np.lib.format.open_memmap(
                    folder / f"{index}.npy", "w+", np.float32, (total, *values.shape[1:])
                )
            kept[name][start : start + _BATCH] = values.numpy()
        update(done=min(start + _BATCH, total))
    return kept


def _shapes(shown: dict[str, Any]) -> list[tuple[int, ...]]:
    return [tuple(values.shape[1:]) for values in shown.values()]
