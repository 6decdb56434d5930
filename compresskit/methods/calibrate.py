"""Ranges of activations, estimated on samples where training has not learned them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Literal, final

import keras
import numpy as np

from compresskit.attention import attentions, hide_below, written_out
from compresskit.graph import operations, trace
from compresskit.methods.placement import Placement, is_table, placements
from compresskit.methods.quantize import table_ranges
from compresskit.ranges import Range, place
from compresskit.recipe_rounding import Calibration
from compresskit.samples import Samples, count, take
from compresskit.weights import weights_of

_BATCH = 32
_BINS = 4096
# The narrowest range that `mse` tries, as a share of the widest, and how many it tries.
_NARROWEST, _CANDIDATES = 0.1, 91


def calibrate(model: keras.Model, samples: Samples, settings: Calibration) -> tuple[Range, ...]:
    """The ranges over which int8 kernels round the activations of a model.

    They lie where quantization-aware training would learn them. What touches a fused LSTM, or
    is computed outside of any layer, has none: the converter calibrates it.

    Args:
        model: plain; it is left as it is.
        samples: inputs as the model takes them.
        settings: which estimator.
    """
    with ExitStack() as stack:
        stack.enter_context(written_out(dict.fromkeys(attentions(model), hide_below)))
        graph = trace(model, take(samples, slice(2)))
        found = placements(model, graph, set())
        seen = [(each, _Seen()) for each in found]
        for placement, observer in seen:
            if placement.fixed is None:
                stack.callback(
                    place(placement.operation, placement.place, observer, placement.inner)
                )
        _run(model, samples)
        if settings.estimator in ("percentile", "mse"):
            # The second time the ends are known, and the values between them are counted.
            for _, observer in seen:
                observer.start_counting()
            _run(model, samples)
    positions = {id(operation): index for index, operation in enumerate(operations(model))}
    tables = [weight for weight in weights_of(model) if is_table(weight.layer)]
    ranges = [_range(placement, observer, settings, positions) for placement, observer in seen]
    return (*table_ranges(model, tables), *(each for each in ranges if each.low < each.high))


def _run(model: keras.Model, samples: Samples) -> None:
    for start in range(0, count(samples), _BATCH):
        batch = take(samples, slice(start, start + _BATCH))
        model(keras.tree.map_structure(keras.ops.convert_to_tensor, batch), training=False)


def _range(
    placement: Placement, observer: _Seen, settings: Calibration, positions: dict[int, int]
) -> Range:
    low, high = placement.fixed or observer.range(settings.estimator, settings.percentile)
    return Range(
        operation=positions.get(id(placement.operation)),
        name=placement.operation.name,
        place=placement.place,
        inner=placement.inner,
        low=low,
        high=high,
        bits=8,
    )


@final
class _Seen:
    """What an activation was: its ends over each sample and, counted, its values."""

    def __init__(self) -> None:
        self.lows: list[float] = []
        self.highs: list[float] = []
        self.counts: np.ndarray | None = None

    def __call__(self, values: Any) -> Any:
        seen = np.asarray(values, dtype=np.float32)
        if self.counts is not None:
            ends = (min(self.lows), max(self.highs))
            self.counts += np.histogram(seen, bins=_BINS, range=ends)[0]
        else:
            flat = seen.reshape(len(seen), -1)
            self.lows += flat.min(axis=1).tolist()
            self.highs += flat.max(axis=1).tolist()
        return values

    def start_counting(self) -> None:
        """Counts values from now on, between the ends that were seen."""
        if self.lows and min(self.lows) < max(self.highs):
            self.counts = np.zeros(_BINS, dtype=np.int64)

    def range(
        self,
        estimator: Literal["min-max", "moving-average", "percentile", "mse"],
        percentile: float,
    ) -> tuple[float, float]:
        """Lowest and highest value to round over, zero among them."""
        if not self.lows:
            return 0.0, 0.0
        low, high = min(self.lows), max(self.highs)
        if estimator == "moving-average":
            low, high = float(np.mean(self.lows)), float(np.mean(self.highs))
        elif estimator != "min-max" and self.counts is not None:
            edges = np.linspace(low, high, _BINS + 1)
            ends = (min(low, 0.0), max(high, 0.0))
            if estimator == "percentile":
                low, high = _between(self.counts, edges, percentile)
            else:
                low, high = _least_error(self.counts, (edges[1:] + edges[:-1]) / 2, ends)
        return min(low, 0.0), max(high, 0.0)


def _between(counts: np.ndarray, edges: np.ndarray, percentile: float) -> tuple[float, float]:
    """The ends of the range that leaves as many values out below as above."""
    shares = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    out = (1 - percentile / 100) / 2
    # A bin of no values at either end is left out, too.
    first = max(int(np.searchsorted(shares, out, side="right")) - 1, 0)
    last = min(int(np.searchsorted(shares, 1 - out, side="left")), len(edges) - 1)
    return float(edges[first]), float(edges[last])


def _least_error(
    counts: np.ndarray, middles: np.ndarray, ends: tuple[float, float]
) -> tuple[float, float]:
    """The range, narrower than `ends` on both sides alike, of the least squared error."""
    best = (np.inf, ends)
    for share in np.linspace(1.0, _NARROWEST, _CANDIDATES):
        low, high = float(ends[0] * share), float(ends[1] * share)
        step = (high - low) / 255
        rounded = np.clip(np.round((middles - low) / step), 0, 255) * step + low
        error = float(counts @ np.square(rounded - middles))
        best = min(best, (error, (low, high)))
    return best[1]
