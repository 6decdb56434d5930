"""Clustering: the weights of a tensor share a few values, and the values go on learning.

Source: S. Han et al., "Deep Compression", 2015, https://arxiv.org/abs/1510.00149.

An integer kernel divides each channel (or gate) by its own scale. Values that are shared in
floats are shared no more behind that division, and the file has gained nothing. So a codebook
for a whole tensor is one of scaled weights: every weight is `scale * centroid`, the largest
weight of each scale belongs to the centroid 1 or -1, and therefore the integers, `centroid *
127` rounded, are shared by the whole tensor, whatever the scales are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import keras
import numpy as np
import tensorflow as tf

from compresskit.holds import Hold, enforce, hold, release
from compresskit.method import Attached, Examples, Length, Method, State
from compresskit.methods.codebooks import assign, codebook
from compresskit.methods.grids import Scales, scales_of
from compresskit.methods.learned_values import LearnedValues
from compresskit.methods.shared_values import SharedValues
from compresskit.parametrize import hook, settle
from compresskit.selection import Selection, select
from compresskit.stages import Cluster
from compresskit.target import Grid
from compresskit.weights import Weight


@final
class Clustering(Method):
    """A codebook for each weight, its assignment kept by a hold."""

    def __init__(self, stage: Cluster):
        self.stage = stage

    def select(self, model: keras.Model, where: str) -> Selection:
        return select(model, self.stage.targets, self.stage.ignore, where=where, unfit=self._unfit)

    def _unfit(self, weight: Weight, named: bool) -> str | None:
        if weight.layout is None and not named:
            kind = type(weight.layer).__name__
            return f"layers of type {kind} are clustered only when targets names them"
        if self.stage.granularity == "gate" and not (weight.layout and weight.layout.gates):
            return "only an LSTM has gates"
        return None

    def attach(
        self,
        model: keras.Model,
        sample: Any,
        grid: Grid,
        length: Length,
        examples: Examples | None = None,
    ) -> Attached:
        selection = self.select(model, self.stage.name)
        held = [(weight, self._find(weight, grid)) for weight in selection.taken]
        for weight, shared in held:
            hook(weight.layer).parameters.append((weight.variable, shared.read))
            hold(weight.variable, shared)

        def detach() -> dict[str, Any]:
            for weight, shared in held:
                release(weight.variable, shared)
                hook(weight.layer).parameters.remove((weight.variable, shared.read))
                settle(weight.layer)
            return {}

        def state() -> State:
            return {
                f"{index}/{name}": values
                for index, (_, shared) in enumerate(held)
                for name, values in shared.state().items()
            }

        def restore(state: State) -> None:
            for index, (_, shared) in enumerate(held):
                shared.restore({name: state[f"{index}/{name}"] for name in shared.state()})

        return Attached(
            touched=tuple(weight.path for weight in selection.taken),
            skipped=selection.skipped,
            callbacks=(_LastWord(held),),
            detach=detach,
            state=state,
            restore=restore,
        )

    def _find(self, weight: Weight, grid: Grid) -> LearnedValues | SharedValues:
        """The values of a weight as it is now, and which of them each element has."""
        values = weight.variable.numpy()
        scales = scales_of(weight, grid) if self.stage.granularity == "tensor" else None
        learned = self.stage.assignment == "learned"
        if learned and scales is not None and scales.units(values.shape).max() == 0:
            scales = None  # with one scale for all, whatever values are shared, integers are, too
        pinned: tuple[float, ...] = (0.0,)
        compared = values
        if scales is not None:
            compared = np.asarray(scales.divide(tf.constant(values))[0])
            # While weights may change their value, the largest may change its sign.
            pinned = tuple(end for end in (-1.0, 0.0, 1.0) if learned or np.any(compared == end))
        units = self._units(weight)
        numbers = units.units(values.shape)
        clusters = np.zeros(values.shape, np.int32)
        books: list[np.ndarray] = []
        for unit in range(numbers.max() + 1):
            part = compared[numbers == unit]
            ends = tuple(end for end in pinned if end or np.any(part == 0))
            book = codebook(part, self.stage.clusters, self.stage.init, ends)
            clusters[numbers == unit] = assign(part, book) + sum(map(len, books))
            books.append(book)
        if learned:
            return LearnedValues(values, books, pinned, units, scales)
        rows = None if scales is None else scales.units(values.shape)
        return SharedValues(clusters, np.concatenate(books), pinned, rows)

    def _units(self, weight: Weight) -> Scales:
        """Which parts of a weight share values."""
        if self.stage.granularity == "tensor":
            return Scales()
        if self.stage.granularity == "channel":
            return Scales(channels=weight.axes()[0])
        assert weight.layout is not None  # `_unfit` leaves the others out
        return Scales(gates=weight.layout.gates)


@final
class _LastWord(keras.callbacks.Callback):
    """Optimizers that average weights (`use_ema`) overwrite them after the last constraint."""

    def __init__(self, held: Sequence[tuple[Weight, Hold]]):
        super().__init__()
        self.held = held

    def on_train_end(self, logs: Any = None) -> None:
        for weight, _ in self.held:
            enforce(weight.variable)
