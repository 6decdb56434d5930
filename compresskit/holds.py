"""Invariants that a variable keeps after every optimizer update.

Keras optimizers apply `variable.constraint` inside the compiled training step. A hold
is put there, after the constraint that the user may have set, so it works for every
layer, optimizer and training loop that updates through a Keras optimizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

import keras
import numpy as np


class Hold(ABC):
    """Something that stays true of a variable while it trains."""

    @abstractmethod
    def apply(self, values: Any) -> Any:
        """`values` (a tensor of the variable's shape and dtype), made to obey."""

    def settled(self, values: Any) -> Any:
        """What is to stay of `values` when the hold is released."""
        return self.apply(values)

    def distance(self, values: Any) -> float:
        """How far `values` are from obeying, as a share of the largest of them."""
        largest = float(np.abs(values).max())
        return float(np.abs(values - np.asarray(self.apply(values))).max()) / (largest or 1.0)


@final
class MaskHold(Hold):
    """Keeps the weights outside a mask at zero.

    The mask lives in a variable, so a new one takes effect without tracing again.
    """

    def __init__(self, variable: Any):
        self.mask = keras.Variable(
            np.ones(variable.shape, dtype=variable.dtype),
            trainable=False,
            dtype=variable.dtype,
            name=f"{variable.name}_mask",
        )

    def apply(self, values: Any) -> Any:
        return values * self.mask.value


@final
class _Held(keras.constraints.Constraint):
    """What stands in `variable.constraint`: the user's own, then the holds."""

    def __init__(self, constraint: Any):
        self.constraint = constraint
        self.holds: list[Hold] = []

    def __call__(self, variable: Any) -> Any:
        values = self.constraint(variable) if self.constraint is not None else variable
        # Optimizers pass the variable itself; a hold sees plain values.
        values = keras.ops.convert_to_tensor(values)
        for hold in self.holds:
            values = hold.apply(values)
        return values


def hold(variable: Any, invariant: Hold) -> None:
    """Adds a hold after those that the variable has, and makes it true at once.

    A training function that was traced before must be traced again to see it:
    `model.make_train_function(force=True)`.
    """
    held = variable.constraint
    if not isinstance(held, _Held):
        held = variable.constraint = _Held(held)
    held.holds.append(invariant)
    enforce(variable)


def release(variable: Any, invariant: Hold) -> None:
    """Takes a hold away, and leaves what has settled.

    The last one to go leaves the user's own constraint behind.
    """
    variable.assign(invariant.settled(keras.ops.convert_to_tensor(variable)))
    held = variable.constraint
    held.holds.remove(invariant)
    if not held.holds:
        variable.constraint = held.constraint


def enforce(variable: Any) -> None:
    """Applies the variable's holds now, without waiting for an update."""
    values = keras.ops.convert_to_tensor(variable)
    for invariant in holds_of(variable):
        values = invariant.apply(values)
    variable.assign(values)


def holds_of(variable: Any) -> tuple[Hold, ...]:
    """The holds of a variable, in the order in which they apply."""
    held = variable.constraint
    return tuple(held.holds) if isinstance(held, _Held) else ()
