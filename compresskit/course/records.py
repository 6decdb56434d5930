"""What came out of a course."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import keras

from compresskit.ranges import Range
from compresskit.report.records import LayerReport, Promise


@final
@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What a stage made of the model.

    Attributes:
        epochs: that it was trained for.
        sparsity: share of zeros over all weights that it touched; None if it touched none.
        layers: every weight of the model when the stage ended.
    """

    name: str
    type: str
    epochs: int
    sparsity: float | None
    layers: tuple[LayerReport, ...]


@final
@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A model that was compressed while somebody else trained it.

    Attributes:
        model: the one that was trained, plain Keras again.
        stages: those that were trained to their end.
        promises: what the stages promised, and whether it is true of the model as it is now.
        ranges: activation ranges that training learned, for exports.
    """

    model: keras.Model
    stages: tuple[StageRecord, ...]
    promises: tuple[Promise, ...]
    ranges: tuple[Range, ...]

    @property
    def broken(self) -> tuple[Promise, ...]:
        """Promises that were not kept."""
        return tuple(promise for promise in self.promises if not promise.kept)
