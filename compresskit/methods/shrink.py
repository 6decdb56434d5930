"""Shrinking: the least important units are held at zero, and removed when the stage ends."""

from __future__ import annotations

from typing import Any, final

import keras
import numpy as np

from compresskit import catalog
from compresskit.holds import MaskHold, enforce, hold, release
from compresskit.method import Attached, Examples, Length, Method, Smaller, State
from compresskit.methods.importance import Evidence
from compresskit.methods.schedules import Schedule
from compresskit.methods.updates import Updates
from compresskit.selection import Selection, select
from compresskit.stages import Shrink
from compresskit.structure.choice import candidates, how_many, order, without
from compresskit.structure.follow import follow
from compresskit.structure.rebuild import rebuild
from compresskit.structure.structure import Structure
from compresskit.target import Grid
from compresskit.weights import Weight, weights_of


@final
class Shrinking(Method):
    """Chooses units by a criterion, on a schedule, and takes them out of the model.

    While the stage trains, all that a chosen unit is made of and read by is held at zero. So the
    smaller model answers as the trained one does, but where a normalization takes the mean over the
    units that are gone.
    """

    def __init__(self, stage: Shrink):
        self.stage = stage
        self.criterion = catalog.unit_criteria.get(stage.method)

    def select(self, model: keras.Model, where: str) -> Selection:
        return self._select(follow(model, where), where)

    def _select(self, structure: Structure, where: str) -> Selection:
        sources = {
            maker: source for source in structure.sources.values() for maker in source.makers
        }
        measured = {
            int(root) for labels in structure.measured for root in structure.units.find(labels)
        }

        def unfit(weight: Weight, named: bool) -> str | None:
            source = sources.get(id(weight.variable))
            if source is None:
                return "has no units of its own"
            label = int(source.labels[0])
            reason = structure.units.reason(label)
            if reason is not None:
                return reason
            if int(structure.units.find(source.labels[:1])[0]) in measured and not named:
                return "is normalized over its units: they go only when targets names them"
            return None

        stage = self.stage
        return select(structure.model, stage.targets, stage.ignore, where=where, unfit=unfit)

    def attach(
        self,
        model: keras.Model,
        sample: Any,
        grid: Grid,
        length: Length,
        examples: Examples | None = None,
    ) -> Attached:
        structure = follow(model, self.stage.name)
        selection = self._select(structure, self.stage.name)
        taken = {id(weight.variable) for weight in selection.taken}
        left = {skip.path for skip in selection.skipped if skip.reason == "named in ignore"}
        ignored = {id(weight.variable) for weight in weights_of(model) if weight.path in left}
        free = candidates(structure, taken, ignored, taken if self.stage.targets else ())
        choice = _Choice(self, structure, free, examples or Examples())
        held = [
            (variable, MaskHold(variable))
            for variable in structure.units.variables
            if variable.trainable
        ]
        for variable, invariant in held:
            hold(variable, invariant)

        def mask() -> None:
            for variable, invariant in held:
                invariant.mask.assign(structure.mask(variable, choice.kept))

        def update(progress: float) -> None:
            choice.update(progress)
            mask()
            for variable, _ in held:
                enforce(variable)

        def detach() -> dict[str, Any]:
            for variable, invariant in held:
                release(variable, invariant)
            return {}

        stage, total = self.stage, (length.steps_per_epoch, length.epochs)
        schedule = Schedule(
            initial=0.0,
            final=1.0,
            constant=stage.schedule == "constant",
            begin=stage.begin.steps(*total),
            end=stage.end.steps(*total),
            frequency=max(1, stage.frequency.steps(*total)),
        )
        updates = Updates(
            schedule, update, [variable for variable, _ in held], length.steps_per_epoch
        )

        def state() -> State:
            last = -1 if updates.updated is None else updates.updated
            most = -1 if choice.most is None else choice.most
            return {"updated": np.array(last), "kept": choice.kept, "most": np.array(most)}

        def restore(state: State) -> None:
            last, most = int(state["updated"]), int(state["most"])
            updates.updated = None if last < 0 else last
            choice.most = None if most < 0 else most
            choice.kept = state["kept"]
            mask()

        return Attached(
            touched=tuple(weight.path for weight in selection.taken),
            skipped=selection.skipped,
            callbacks=(updates,),
            detach=detach,
            smaller=choice.smaller,
            state=state,
            restore=restore,
        )


@final
class _Choice:
    """What stays, as the stage goes on. What has gone does not come back.

    Attributes:
        kept: of each label of the units, whether it stays.
        most: how many units are to go for the latency that is asked for, once that was measured.
    """

    def __init__(self, method: Shrinking, structure: Structure, free: Any, examples: Examples):
        self.stage = method.stage
        self.criterion = method.criterion
        self.structure = structure
        self.free = free
        self.latency = examples.latency
        self.evidence = Evidence(
            structure=structure, x=examples.x, y=examples.y, loss=examples.loss
        )
        self.kept = structure.all_kept()
        self.most: int | None = None

    def update(self, progress: float) -> None:
        """Chooses anew: this share of what is to go in the end."""
        scores = self.criterion(self.evidence)
        scores = np.where(self.kept, scores, -np.inf)
        ordered, shares = order(
            self.structure, self.free, scores, everywhere=self.stage.scope == "global"
        )
        number = round(self._number(ordered, shares) * progress)
        self.kept = without(self.structure, ordered[:number])

    def smaller(self) -> Smaller:
        """The model without what has gone."""
        structure = self.structure
        units = {
            source.layer.path: (
                len(source.labels),
                int(structure.left(self.kept, source.labels).sum()),
            )
            for source in structure.sources.values()
        }
        return Smaller(
            model=rebuild(structure, self.kept),
            exact=all(structure.left(self.kept, labels).all() for labels in structure.measured),
            units={path: (had, has) for path, (had, has) in units.items() if has < had},
            multiply_adds=(
                structure.multiply_adds(structure.all_kept()),
                structure.multiply_adds(self.kept),
            ),
        )

    def _number(self, ordered: np.ndarray, shares: np.ndarray) -> int:
        """How many units are to go in the end."""
        amount = self.stage.amount
        if amount.of == "units":
            return int((shares <= amount.share + 1e-9).sum())
        if amount.of == "latency":
            # Measured once: a file is made and run for each trial.
            if self.most is None:
                self.most = self._until_fast_enough(ordered)
            return self.most
        cost = self.structure.multiply_adds if amount.of == "flops" else self.structure.parameters
        limit = (1.0 - amount.share) * cost(self.structure.all_kept())
        return how_many(ordered, lambda gone: cost(without(self.structure, gone)) <= limit)

    def _until_fast_enough(self, ordered: np.ndarray) -> int:
        assert self.latency is not None
        latency = self.latency(self.structure.model)
        limit = 1.0 - self.stage.amount.share
        return how_many(
            ordered,
            lambda gone: (
                len(gone) > 0
                and latency(rebuild(self.structure, without(self.structure, gone))) <= limit
            ),
        )
