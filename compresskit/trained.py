"""What an engine makes of a stage: the native one, or TFMOT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, final

import keras
import numpy as np

from compresskit.method import Attached, Smaller
from compresskit.methods.calibrate import calibrate
from compresskit.ranges import Range, completed
from compresskit.recipe_export import Export
from compresskit.samples import Samples
from compresskit.target import Precision
from compresskit.tflite.convert import convert
from compresskit.tflite.lower import predictions


@final
@dataclass(frozen=True, kw_only=True)
class Trained:
    """A stage that has been trained.

    Attributes:
        attached: the technique, still at work, or a record of what it did.
        history: training and validation metrics by name, a value an epoch.
        answers: of the trained model to the test samples; None: those of `Run.model`.
        smaller: the model to go on with, or None.
    """

    attached: Attached
    history: dict[str, list[float]]
    answers: np.ndarray | None = None
    smaller: Smaller | None = None


class Source(Protocol):
    """A model that files are made of."""

    def calibrated(self, precision: Precision, export: Export, samples: Samples) -> Source:
        """The model with the ranges that the recipe asks to be measured on some samples."""

    def convert(
        self, precision: Precision, export: Export, *, sample: Any, calibration: Any
    ) -> bytes:
        """The bytes of a .tflite file."""

    def answers(self, x: Any, precision: Precision, *, output: int) -> np.ndarray:
        """What the model answers that a file of this precision is compared with."""


@final
@dataclass(frozen=True, kw_only=True)
class Plain:
    """A Keras 3 model, and the activation ranges that training learned."""

    model: keras.Model
    ranges: Sequence[Range] = ()

    def calibrated(self, precision: Precision, export: Export, samples: Samples) -> Source:
        """See `Source`."""
        if precision.activations != "int8":
            return replace(self, ranges=())  # ranges are those of 8 bits
        if export.calibration.estimator == "min-max":
            return self
        measured = calibrate(self.model, samples, export.calibration)
        return replace(self, ranges=completed(self.ranges, measured))

    def convert(
        self, precision: Precision, export: Export, *, sample: Any, calibration: Any
    ) -> bytes:
        """See `Source`."""
        return convert(
            self.model,
            precision,
            sample=sample,
            calibration=calibration,
            ranges=self.ranges,
            lstm=export.lstm,
            rounding=export.weights,
        )

    def answers(self, x: Any, precision: Precision, *, output: int) -> np.ndarray:
        """See `Source`."""
        return predictions(self.model, x, self.ranges, output=output)
