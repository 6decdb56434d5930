"""How long files take for one sample. Files are called in turn, so that what else the machine does
disturbs all alike. Loads no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from compresskit.samples import Samples
from compresskit.tflite.runtime import Runner

WARM_UP = 10
RUNS = 100
# Timed calls of one file before it is the next one's turn.
_TURN = 5


@final
@dataclass(frozen=True, kw_only=True)
class Timing:
    """The calls of one file, and those of the first file in the same rounds.

    Attributes:
        rounds: milliseconds of each call, by round.
        first: those of the first file.
    """

    rounds: tuple[tuple[float, ...], ...]
    first: tuple[tuple[float, ...], ...]

    @property
    def calls(self) -> int:
        """How many calls were timed."""
        return sum(map(len, self.rounds))

    def ms(self, percent: float = 50) -> float:
        """A percentile of all calls, in milliseconds; 50 is the median."""
        return float(np.percentile(np.concatenate(self.rounds), percent))

    def ratio(self, percent: float = 50) -> float:
        """A percentile, over the rounds, of this file's median by the first file's."""
        pairs = zip(self.rounds, self.first, strict=True)
        return float(np.percentile([np.median(a) / np.median(b) for a, b in pairs], percent))


def interleaved(
    runners: Sequence[Runner], samples: Sequence[Samples], *, runs: int = RUNS
) -> list[Timing]:
    """Times files in turn: a few calls of each, then the next round.

    Only the call is timed: not setting the inputs, and not resetting the state that a fused LSTM
    keeps, which is done before each call.

    Args:
        samples: for each file, inputs as it takes them, samples first; each call takes the next.
        runs: timed calls of each file.

    Returns:
        A timing for each file.
    """
    fed = [runner.feed(x) for runner, x in zip(runners, samples, strict=True)]
    for call in fed:
        for _ in range(WARM_UP):
            call()
    rounds: list[list[tuple[float, ...]]] = [[] for _ in fed]
    for start in range(0, runs, _TURN):
        # Every second round backwards, so that no file always comes after the same one.
        order = list(enumerate(fed))[:: 1 if start // _TURN % 2 == 0 else -1]
        for index, call in order:
            call()  # not timed: the caches are another file's
            rounds[index].append(tuple(call() for _ in range(min(_TURN, runs - start))))
    return [Timing(rounds=tuple(each), first=tuple(rounds[0])) for each in rounds]
