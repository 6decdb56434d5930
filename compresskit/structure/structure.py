"""The units of a model: what makes them, what reads them, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import keras
import numpy as np

from compresskit.structure.flow import Flow
from compresskit.structure.units import Units


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """What brings units into a model.

    Attributes:
        layer: the layer that makes them.
        kind: what they are: `filters`, `units`, `heads`, `width`.
        labels: one for each, shape (units,).
        makers: identities of the variables that make them.
    """

    layer: keras.Layer
    kind: str
    labels: np.ndarray
    makers: set[int] = field(default_factory=set)


@dataclass(frozen=True, eq=False, kw_only=True)
class Work:
    """Multiply-adds of one sample: `times` for each combination of what is left of `along`."""

    times: int
    along: tuple[np.ndarray, ...]


@final
@dataclass(kw_only=True)
class Structure:
    """The units of a model, and what is joined to each.

    Attributes:
        model: the model that was followed.
        units: the labels along the axes of its variables.
        sources: the layers that units come from, in the model's order.
        work: of every layer with a kernel.
        made: the flows that each operation gave, by its identity.
        given: the flows that each nested model was given, by its identity.
        measured: labels that a normalization takes the mean of, so that even a zero counts.
    """

    model: keras.Model
    units: Units = field(default_factory=Units)
    sources: dict[tuple[int, str], Source] = field(default_factory=dict)
    work: list[Work] = field(default_factory=list)
    made: dict[int, list[Flow]] = field(default_factory=dict)
    given: dict[int, list[Flow]] = field(default_factory=dict)
    measured: list[np.ndarray] = field(default_factory=list)

    def source(
        self, layer: keras.Layer, kind: str, number: int, makers: Sequence[Any]
    ) -> np.ndarray:
        """The labels of a layer's units; the same ones at every call of the layer.

        Args:
            makers: the variables that make them, some of them None.
        """
        key = (id(layer), kind)
        if key not in self.sources:
            labels = self.units.new(number)
            self.sources[key] = Source(
                layer=layer,
                kind=kind,
                labels=labels,
                makers={id(variable) for variable in makers if variable is not None},
            )
        return self.sources[key].labels

    def multiply(self, variable: Any, times: int) -> None:
        """Writes down that a kernel is applied so many times to a sample."""
        known = self.units.axes.get(id(variable), {})
        free = [size for axis, size in enumerate(variable.shape) if axis not in known]
        self.work.append(
            Work(times=times * int(np.prod(free, dtype=np.int64)), along=tuple(known.values()))
        )

    def stop(self, flows: Sequence[Flow], reason: str) -> None:
        """Pins every unit in these tensors."""
        for flow in flows:
            self.units.pin(flow.labels, reason)

    def left(self, kept: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Which of these labels stay.

        Args:
            kept: bool, one for each label of `units`; that of a joined one counts for all.
        """
        return kept[self.units.find(labels)]

    def mask(self, variable: Any, kept: np.ndarray) -> np.ndarray:
        """1 where a variable stays and 0 where it goes; shape and dtype are the variable's."""
        made = np.ones(variable.shape, dtype=variable.dtype)
        for axis, labels in self.units.axes.get(id(variable), {}).items():
            along = [1] * made.ndim
            along[axis] = -1
            made *= self.left(kept, labels).reshape(along)
        return made

    def all_kept(self) -> np.ndarray:
        """The choice that removes nothing."""
        return np.ones(len(self.units), dtype=bool)

    def multiply_adds(self, kept: np.ndarray) -> int:
        """Of one sample, in all kernels and attention products."""
        return sum(
            each.times
            * int(np.prod([self.left(kept, labels).sum() for labels in each.along], dtype=np.int64))
            for each in self.work
        )

    def parameters(self, kept: np.ndarray) -> int:
        """How many values the variables of the model have."""
        axes = self.units.axes
        total = 0
        for variable in self.model.weights:
            known = axes.get(id(variable), {})
            sizes = [
                int(self.left(kept, known[axis]).sum()) if axis in known else size
                for axis, size in enumerate(variable.shape)
            ]
            total += int(np.prod(sizes, dtype=np.int64))
        return total
