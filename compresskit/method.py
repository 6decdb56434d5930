"""What every technique is: it checks that it fits a model, attaches to it, and detaches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import keras
import numpy as np

from compresskit.selection import Selection, Skipped
from compresskit.target import Grid

# What a technique has learned beside the variables of the model, by names of its own.
State = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a stage trains: `epochs` of `steps_per_epoch` batches."""

    epochs: int
    steps_per_epoch: int


@final
@dataclass(frozen=True, kw_only=True)
class Examples:
    """What a technique may measure while its stage trains.

    Attributes:
        x, y: training samples and their labels.
        loss: as `keras.Model.compile` takes it.
        representative: gives a random choice of so many training samples, without labels.
        latency: of a model, what tells how long the file of another takes for one sample, as a
            share of what its own does.
    """

    x: Any = None
    y: Any = None
    loss: Any = None
    representative: Callable[[int], Any] | None = None
    latency: Callable[[keras.Model], Callable[[keras.Model], float]] | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Smaller:
    """A model with fewer units than the one that was trained.

    Attributes:
        model: to go on with.
        exact: whether it answers as the trained one does, so far as floats go.
        units: of each layer that lost some, how many it had and has.
        multiply_adds: of one sample, before and after.
    """

    model: keras.Model
    exact: bool
    units: dict[str, tuple[int, int]]
    multiply_adds: tuple[int, int]


@final
@dataclass(frozen=True, kw_only=True)
class Attached:
    """A technique at work on a model.

    Attributes:
        touched: paths of the weights that it acts on.
        skipped: those that it leaves, each with its reason.
        callbacks: Keras callbacks that drive it while its own stage trains.
        detach: makes the model plain again. What was trained is baked into its
            variables; what a plain model cannot hold is returned, under a name that
            export knows (`ranges`).
        smaller: makes the model to go on with when the stage has trained; None to go on with
            that one.
        difference: the mean absolute difference that attaching has made to the model's answers,
            where the technique is not to change them; None where it may.
        state: what a run that is continued elsewhere needs beside the model's variables.
        restore: takes a `state` back; the model's variables are to be set once more then, and
            training functions traced again.
    """

    touched: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    callbacks: tuple[keras.callbacks.Callback, ...]
    detach: Callable[[], dict[str, Any]] = field(repr=False)
    smaller: Callable[[], Smaller] | None = field(default=None, repr=False)
    difference: float | None = None
    state: Callable[[], State] = field(default=dict, repr=False)
    restore: Callable[[State], None] = field(default=lambda state: None, repr=False)


class Method(ABC):
    """A technique with its settings.

    Subclasses take the stage's record in `__init__`. They act on variables and calls
    (see `holds` and `parametrize`), never by replacing a layer, so they compose.
    """

    @abstractmethod
    def select(self, model: keras.Model, where: str) -> Selection:
        """The weights that the stage would take, without touching the model."""

    @abstractmethod
    def attach(
        self,
        model: keras.Model,
        sample: Any,
        grid: Grid,
        length: Length,
        examples: Examples | None = None,
    ) -> Attached:
        """Puts the technique to work.

        Args:
            model: the model, built; changed in place.
            sample: a batch of inputs as the model takes them.
            grid: the integer grid of the kernels that the model is meant for.
            length: how long the stage will train.
            examples: what may be measured; some techniques need it.
        """
