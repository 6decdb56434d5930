"""Distillation as a stage of its own: it only trains, and leaves every weight to the optimizer."""

from __future__ import annotations

from typing import Any, final

import keras

from compresskit.method import Attached, Examples, Length, Method
from compresskit.selection import Selection
from compresskit.stages import Distill
from compresskit.target import Grid


@final
class Distillation(Method):
    """Nothing stands on the model: the teacher is in the loss (see `distillation`)."""

    def __init__(self, stage: Distill):
        self.stage = stage

    def select(self, model: keras.Model, where: str) -> Selection:
        return Selection(taken=(), skipped=(), problems=())

    def attach(
        self,
        model: keras.Model,
        sample: Any,
        grid: Grid,
        length: Length,
        examples: Examples | None = None,
    ) -> Attached:
        return Attached(touched=(), skipped=(), callbacks=(), detach=dict)
