"""Pruning: the least important weights become zero and stay zero."""

from __future__ import annotations

from typing import Any, final

import keras
import numpy as np

from compresskit import catalog
from compresskit.granularity import NM
from compresskit.holds import MaskHold, enforce, hold, release
from compresskit.method import Attached, Examples, Length, Method, State
from compresskit.methods.masks import masks
from compresskit.methods.schedules import Schedule
from compresskit.methods.updates import Updates
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

        updates = Updates(
            self.schedule(length),
            lambda sparsity: self.update(held, sparsity),
            [weight.variable for weight, _ in held],
            length.steps_per_epoch,
        )

        def state() -> State:
            last = -1 if updates.updated is None else updates.updated
            masks = {f"mask{i}": invariant.mask.numpy() for i, (_, invariant) in enumerate(held)}
            return {"updated": np.array(last), **masks}

        def restore(state: State) -> None:
            last = int(state["updated"])
            updates.updated = None if last < 0 else last
            for index, (_, invariant) in enumerate(held):
                invariant.mask.assign(state[f"mask{index}"])

        def detach() -> dict[str, Any]:
            for weight, invariant in held:
                release(weight.variable, invariant)
            return {}

        return Attached(
            touched=tuple(weight.path for weight in selection.taken),
            skipped=selection.skipped,
            callbacks=(updates,),
            detach=detach,
            state=state,
            restore=restore,
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
