"""Post-training algorithms: other weights without training and without labels.

* `cross_layer_equalization` and `bias_correction`: Nagel et al., 2019,
  https://arxiv.org/abs/1906.04721, sections 4.1 and 4.2;
* `gptq`: see `methods/gptq.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import keras
import numpy as np

from compresskit.graph import Graph, trace
from compresskit.method import Attached, Examples, Length, Method
from compresskit.methods.fake_quant import weight_transform
from compresskit.methods.gptq import gptq, patches
from compresskit.methods.grids import scales_of
from compresskit.methods.placement import activation_of
from compresskit.methods.quantize import normalization_after
from compresskit.parametrize import hook, settle
from compresskit.ranges import place
from compresskit.samples import Samples, count, take
from compresskit.selection import Selection, Skipped, select
from compresskit.stages import PTQ
from compresskit.structure.pairs import Pair, pairs
from compresskit.target import Grid
from compresskit.weights import ATOMIC, Weight

_BATCH = 32
# Equalization goes over all pairs until no factor is further from 1 than this, or so often.
_EVEN, _SWEEPS = 1e-3, 40


@final
class PostTraining(Method):
    """Rounds better, or makes ready for rounding, by what samples show."""

    def __init__(self, stage: PTQ):
        self.stage = stage

    def select(self, model: keras.Model, where: str) -> Selection:
        return select(model, self.stage.targets, self.stage.ignore, where=where, unfit=self._unfit)

    def _unfit(self, weight: Weight, named: bool) -> str | None:
        if weight.layout is None:
            return f"no integer kernel is known for layers of type {type(weight.layer).__name__}"
        if isinstance(weight.layer, ATOMIC):
            return "a recurrent layer is one op: what happens inside is not seen"
        if weight.layout.table:
            return "a table: what is looked up has its scale"
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
        given = None if examples is None else examples.representative
        samples = sample if given is None else given(self.stage.samples)
        bits, algorithms = self.stage.weight_bits, self.stage.algorithms
        graph = trace(model, take(samples, slice(2)))
        difference = None
        if "cross_layer_equalization" in algorithms:
            difference = _equalize(model, selection.taken, samples)
        biased = _Biases(model, selection.taken, graph, samples) if self._corrects else None
        left: dict[str, str] = {}
        if "gptq" in algorithms:
            left = _gptq(model, selection.taken, graph, grid, bits, samples)
        if biased is not None:
            missed = biased.correct(
                [(each, weight_transform(scales_of(each, grid), bits)) for each in selection.taken]
            )
            left = left if "gptq" in algorithms else missed
        # Whatever else the stage does, of these weights it does not answer for the rounding.
        return Attached(
            touched=tuple(each.path for each in selection.taken if each.path not in left),
            skipped=(
                *selection.skipped,
                *(Skipped(path=path, reason=reason) for path, reason in left.items()),
            ),
            callbacks=(),
            detach=dict,
            difference=difference,
        )

    @property
    def _corrects(self) -> bool:
        return "bias_correction" in self.stage.algorithms


def _run(model: keras.Model, samples: Samples) -> list[np.ndarray]:
    """Answers of the model, batch by batch, its first output."""
    found = []
    for start in range(0, count(samples), _BATCH):
        batch = take(samples, slice(start, start + _BATCH))
        outputs = model(
            keras.tree.map_structure(keras.ops.convert_to_tensor, batch), training=False
        )
        found.append(
            np.concatenate([np.asarray(each).ravel() for each in keras.tree.flatten(outputs)])
        )
    return found


def _equalize(model: keras.Model, taken: Sequence[Weight], samples: Samples) -> float:
    """Scales channels so that both layers of each pair have the same range in each.

    Returns:
        The mean absolute difference of the answers that this has made.
    """
    before = np.concatenate(_run(model, samples))
    chosen = {id(weight.layer) for weight in taken}
    found = [
        pair for pair in pairs(model) if id(pair.first) in chosen and id(pair.second) in chosen
    ]
    for _ in range(_SWEEPS):
        furthest = max((_even(pair) for pair in found), default=0.0)
        if furthest < _EVEN:
            break
    return float(np.mean(np.abs(np.concatenate(_run(model, samples)) - before)))


def _even(pair: Pair) -> float:
    """Equalizes one pair. Returns how far the factors are from 1, as a logarithm."""
    first, second = pair.largest_first(), pair.largest_second()
    live = (first > 0) & (second > 0)
    factors = np.ones_like(first)
    factors[live] = np.sqrt(first[live] / second[live])
    pair.scale(factors)
    return float(np.abs(np.log(factors)).max())


@contextmanager
def _rounding(rounded: Sequence[tuple[Weight, Callable[[Any], Any]]]) -> Iterator[None]:
    """Inside, layers read their weights as kernels hold them."""
    for weight, transform in rounded:
        hook(weight.layer).parameters.append((weight.variable, transform))
    try:
        yield
    finally:
        for weight, transform in rounded:
            hook(weight.layer).parameters.remove((weight.variable, transform))
            settle(weight.layer)


@final
class _Biases:
    """What each layer gives on average, and what rounded weights change of it.

    Args:
        model: with its weights in floats: now is what is restored later.
    """

    def __init__(self, model: keras.Model, taken: Sequence[Weight], graph: Graph, samples: Samples):
        self.model = model
        self.samples = samples
        self.paths = {id(weight.layer): weight.path for weight in taken}
        layers = {id(weight.layer): weight.layer for weight in taken}
        # In the order in which they are called: a layer is corrected behind corrected ones.
        called = {id(call.operation): call.operation for call in graph.calls}
        self.shifted = [
            (layer, _shift(layer, graph)) for key, layer in called.items() if key in layers
        ]
        self.means = self._means([layer for layer, shift in self.shifted if shift])

    def correct(self, rounded: Sequence[tuple[Weight, Callable[[Any], Any]]]) -> dict[str, str]:
        """Takes from each bias what rounding adds to the layer's answers on average.

        Returns:
            Why weights have been left alone, by their paths.
        """
        left = {}
        for layer, shift in self.shifted:
            if shift is None:
                left[self.paths[id(layer)]] = "has no bias and no normalization behind it"
                continue
            with _rounding(rounded):
                mean = self._means([layer])[id(layer)]
            variable, sign = shift
            error = mean - self.means[id(layer)]
            while error.ndim > len(variable.shape):
                error = error.mean(axis=0)
            variable.assign(variable.numpy() + sign * error.reshape(variable.shape))
        return left

    def _means(self, layers: Sequence[Any]) -> dict[int, np.ndarray]:
        """The mean over samples and positions of what each layer gives before its activation."""
        sums: dict[int, Any] = {}

        def watch(layer: Any) -> Callable[[], None]:
            rank = 1 if layer.bias is None else len(layer.bias.shape)

            def show(values: Any) -> Any:
                seen = np.asarray(values, dtype=np.float64)
                flat = seen.reshape(-1, *seen.shape[seen.ndim - rank :])
                total, number = sums.get(id(layer), (0.0, 0))
                sums[id(layer)] = (total + flat.sum(axis=0), number + len(flat))
                return values

            where = "output" if activation_of(layer) is None else "activation"
            return place(layer, where, show)  # type: ignore[arg-type]

        undo = [watch(layer) for layer in layers]
        try:
            _run(self.model, self.samples)
        finally:
            for take_away in undo:
                take_away()
        return {key: total / number for key, (total, number) in sums.items()}


def _shift(layer: Any, graph: Graph) -> tuple[Any, int] | None:
    """The variable that takes a correction, and its sign: a bias, or the mean that a
    normalization takes away."""
    if getattr(layer, "bias", None) is not None:
        return layer.bias, -1
    norm = normalization_after(layer, graph)
    return None if norm is None else (norm.moving_mean, 1)


def _gptq(
    model: keras.Model,
    taken: Sequence[Weight],
    graph: Graph,
    grid: Grid,
    bits: int,
    samples: Samples,
) -> dict[str, str]:
    """Puts weights on the grid, in the order in which their layers are called.

    Returns:
        Why weights have been left alone, by their paths.
    """
    left = {}
    order = {id(call.operation): index for index, call in reversed(list(enumerate(graph.calls)))}
    for weight in sorted(taken, key=lambda each: order.get(id(each.layer), len(order))):
        moments = _moments(model, weight, samples)
        scales = scales_of(weight, grid)
        if moments is None or not scales.channels:
            left[weight.path] = (
                "gptq needs to see what a convolution or dense layer reads"
                if moments is None
                else "gptq needs a scale for each output"
            )
            continue
        values = weight.variable.numpy()
        on_grid = np.asarray(weight_transform(scales, bits)(weight.variable.value))
        matrix, plain = weight.matrix(values), weight.matrix(on_grid)
        levels = 2 ** (min(bits, scales.bits) - 1) - 1
        rows = np.arange(len(matrix))
        steps = np.abs(plain[rows, np.abs(plain).argmax(axis=1)])[:, None] / levels
        steps = np.where(steps > 0, steps, 1.0)
        whole = gptq(matrix, moments, steps, levels)
        points = 2 ** (scales.bits - 1) - 1
        # Fewer levels than the file has are points of its grid, as in training.
        placed = np.round(whole * points / levels) * (steps * levels / points)
        weight.variable.assign(weight.from_matrix(placed.astype(values.dtype)))
    return left


def _moments(model: keras.Model, weight: Weight, samples: Samples) -> np.ndarray | None:
    """The second moments of what a weight is multiplied by, shape (inputs, inputs)."""
    size = weight.matrix(np.empty(weight.shape, dtype=bool)).shape[1]
    total, known = np.zeros((size, size)), []

    def show(values: Any) -> Any:
        seen = patches(weight.layer, values)
        if seen is not None and seen.shape[1] == size:
            np.add(total, seen.T.astype(np.float64) @ seen, out=total)
            known.append(True)
        return values

    undo = place(weight.layer, "input", show)
    try:
        _run(model, samples)
    finally:
        undo()
    return total if known else None
