"""Pruning: the least important weights become zero and stay zero."""

from __future__ import annotations

from typing import Any, final

import keras

from compresskit import catalog
from compresskit.granularity import NM
from compresskit.holds import MaskHold, enforce, hold, release
from compresskit.method import Attached, Examples, Length, Method
from compresskit.methods.masks import masks
from compresskit.methods.schedules import Schedule
from compresskit.selection import Selection, select
from compresskit.stages import Prune
from compresskit.target import Grid
from compresskit.weights import Weight


@final
class Pruning(Method):
    """Masks by criterion and pattern, on a schedule, kept by a hold."""

    def __init__(self, stage: Prune):
        self.stage = stage
        self.pattern = stage.mask_shape
        self.criterion = catalog.criteria.get(stage.method)

    def select(self, model: keras.Model, where: str) -> Selection:
        return select(model, self.stage.targets, self.stage.ignore, where=where, unfit=self._unfit)

    def _unfit(self, weight: Weight, named: bool) -> str | None:
        if isinstance(self.pattern, NM) and weight.input_channels <= self.pattern.n:
            return (
                f"{weight.input_channels} input channels hold no group of "
                f"{self.pattern.n}:{self.pattern.m}"
            )
        if named:
            return None
        if weight.layout is None:
            kind = type(weight.layer).__name__
            return f"layers of type {kind} are pruned only when targets names them"
        if not weight.layout.pruned:
            return "depthwise kernels are pruned only when targets names them"
        return None

    def schedule(self, length: Length) -> Schedule:
        """The stage's schedule in steps."""
        stage = self.stage
        total = (length.steps_per_epoch, length.epochs)
        return Schedule(
            initial=stage.sparsity.initial if stage.sparsity else 0.0,
            final=stage.sparsity.final if stage.sparsity else 0.0,
            power=stage.sparsity.power if stage.sparsity else 1.0,
            constant=stage.sparsity is None or stage.sparsity.schedule == "constant",
            begin=stage.begin.steps(*total),
            end=stage.end.steps(*total),
            frequency=max(1, stage.frequency.steps(*total)),
        )

    def attach(
        self,
        model: keras.Model,
        sample: Any,
        grid: Grid,
        length: Length,
        examples: Examples | None = None,
    ) -> Attached:
        selection = self.select(model, self.stage.name)
        held = [(weight, MaskHold(weight.variable)) for weight in selection.taken]
        for weight, invariant in held:
            hold(weight.variable, invariant)

        def detach() -> dict[str, Any]:
            for weight, invariant in held:
                enforce(weight.variable)
                release(weight.variable, invariant)
            return {}

        return Attached(
            touched=tuple(weight.path for weight in selection.taken),
            skipped=selection.skipped,
            callbacks=(_MaskUpdates(self, held, self.schedule(length)),),
            detach=detach,
        )

    def update(self, held: list[tuple[Weight, MaskHold]], sparsity: float) -> None:
        """Makes the masks anew from the weights as they are, and applies them."""
        scores = [weight.matrix(self.criterion(weight.variable.numpy())) for weight, _ in held]
        runs = [weight.input_channels for weight, _ in held]
        if self.stage.scope == "global":
            made = masks(scores, self.pattern, sparsity, runs)
        else:
            made = [
                masks([score], self.pattern, sparsity, [run])[0]
                for score, run in zip(scores, runs, strict=True)
            ]
        for (weight, invariant), mask in zip(held, made, strict=True):
            invariant.mask.assign(weight.from_matrix(mask).astype(weight.variable.dtype))
            enforce(weight.variable)


@final
class _MaskUpdates(keras.callbacks.Callback):
    """Makes new masks at the schedule's steps, between one batch and the next.

    Several batches may pass between two calls (`steps_per_execution`): an update that
    fell due in the meantime is made at the first chance.
    """

    def __init__(self, method: Pruning, held: list[tuple[Weight, MaskHold]], schedule: Schedule):
        super().__init__()
        self.method = method
        self.held = held
        self.schedule = schedule
        self.start = 0
        self.updated: int | None = None

    def _update_if_due(self, step: int) -> None:
        due = self.schedule.latest(step)
        if due is not None and due != self.updated:
            self.method.update(self.held, self.schedule.sparsity(due))
            self.updated = due

    def on_train_begin(self, logs: Any = None) -> None:
        self.start = int(self.model.optimizer.iterations)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._update_if_due(int(self.model.optimizer.iterations) - self.start)

    def on_train_end(self, logs: Any = None) -> None:
        # An end at 100 % falls after the last batch: the promised sparsity is reached.
        self._update_if_due(self.schedule.end)
        # Optimizers that average weights (`use_ema`) overwrite them after the last constraint.
        for weight, _ in self.held:
            enforce(weight.variable)
