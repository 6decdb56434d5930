"""How sparsity grows over a stage, in steps: the batches of an epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Sparsity at a step, and the steps at which masks are made anew.

    The polynomial is that of Zhu and Gupta, 2017 (https://arxiv.org/abs/1710.01878), with
    TFMOT's meaning of its parameters:
        s(t) = final + (initial - final) * (1 - (t - begin) / (end - begin)) ** power
    A constant schedule is at `final` from `begin` on. Masks are made at `begin`, every
    `frequency` steps after it, and one last time at `end`, with the final sparsity.

    Attributes:
        initial, final: shares of zeros, 0 to 1.
        begin, end: steps from the start of the stage; `end` is not part of the ramp.
        frequency: steps between updates.
        power: exponent; 1 is linear, 3 prunes early and slows down.
        constant: whether the ramp is left out.
    """

    initial: float
    final: float
    begin: int
    end: int
    frequency: int
    power: float = 3.0
    constant: bool = False

    def sparsity(self, step: int) -> float:
        """The sparsity that holds from `step` until the next update; 0 before `begin`."""
        if step < self.begin:
            return 0.0
        if self.constant or step >= self.end:
            return self.final
        left = 1.0 - (step - self.begin) / (self.end - self.begin)
        return self.final + (self.initial - self.final) * left**self.power

    def latest(self, step: int) -> int | None:
        """The last step up to and including `step` at which masks are made, or None."""
        if step < self.begin:
            return None
        if step >= self.end:
            return self.end
        return step - (step - self.begin) % self.frequency
