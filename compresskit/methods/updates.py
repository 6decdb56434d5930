"""The callback that changes masks on a schedule while a stage trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import keras

from compresskit.holds import enforce
from compresskit.methods.schedules import Schedule


@final
class Updates(keras.callbacks.Callback):
    """Updates at the schedule's steps, between one batch and the next.

    Several batches may pass between two calls (`steps_per_execution`): an update that
    fell due in the meantime is made at the first chance.

    Steps are batches, counted from the first epoch of the stage: an optimizer that accumulates
    gradients, or skips those that overflow, counts its updates otherwise.

    Args:
        update: given what the schedule says of the step.
        held: the variables whose holds it changes.
        steps_per_epoch: batches of an epoch.

    Attributes:
        updated: the step whose update was the last one, or None.
    """

    def __init__(
        self,
        schedule: Schedule,
        update: Callable[[float], None],
        held: Sequence[Any],
        steps_per_epoch: int,
    ):
        super().__init__()
        self.schedule = schedule
        self.update = update
        self.held = held
        self.steps_per_epoch = steps_per_epoch
        self.before = 0
        self.updated: int | None = None

    def _update_if_due(self, step: int) -> None:
        due = self.schedule.latest(step)
        if due is not None and due != self.updated:
            self.update(self.schedule.sparsity(due))
            self.updated = due

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.before = epoch * self.steps_per_epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._update_if_due(self.before + batch)

    def on_train_end(self, logs: Any = None) -> None:
        # An end at 100 % falls after the last batch: what is promised is reached.
        self._update_if_due(self.schedule.end)
        # Optimizers that average weights (`use_ema`) overwrite them after the last constraint.
        for variable in self.held:
            enforce(variable)
