"""When training ends before its epochs are over: it has learned enough, or it has failed."""

from __future__ import annotations

import math
from typing import Any, final

import keras
import numpy as np

from compresskit.errors import Problem
from compresskit.labels import Labels, are_classes
from compresskit.method import Length
from compresskit.stages import Prune, Shrink, Stage


def early_stopping(stage: Stage, length: Length) -> list[keras.callbacks.Callback]:
    """What ends a stage that no longer improves: nothing, or Keras's EarlyStopping.

    Weights are not taken back to the best epoch: clusters and ranges have gone on since.
    """
    settings = stage.early_stopping
    if settings is None:
        return []
    return [
        keras.callbacks.EarlyStopping(
            settings.monitor,
            min_delta=settings.min_delta,
            patience=settings.patience,
            mode="max" if settings.monitor == "accuracy" else "min",
            start_from_epoch=_first_epoch(stage, length),
        )
    ]


def _first_epoch(stage: Stage, length: Length) -> int:
    """The first whole epoch after a stage's schedule: what it promises is reached by then."""
    if not isinstance(stage, Prune | Shrink):
        return 0
    end = stage.end.steps(length.steps_per_epoch, length.epochs)
    return math.ceil(end / length.steps_per_epoch)


def stopping_problems(stage: Stage, labels: Labels, where: str) -> list[Problem]:
    """That the figure is one that the training has."""
    settings = stage.early_stopping
    if settings is None or settings.monitor == "loss" or are_classes(labels):
        return []
    return [
        Problem(
            where=where,
            found=f"monitor: {settings.monitor} of labels that are no classes",
            expected="a figure that training has",
            fix="write `monitor: loss`",
        )
    ]


@final
class LastGood(keras.callbacks.Callback):
    """Ends training at a loss that is not a number, and keeps the weights from before.

    As Keras's TerminateOnNaN, but silent.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        self._weights = self.model.get_weights()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        weights = self.model.get_weights()
        if not self.model.stop_training and all(np.isfinite(each).all() for each in weights):
            self._weights = weights

    def restore(self) -> None:
        """Brings back the weights of the last whole epoch in which all was well, or the first."""
        self.model.set_weights(self._weights)
