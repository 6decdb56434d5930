"""What each layer costs: one at a time is compressed, and the model is measured.

After Li et al., "Pruning Filters for Efficient ConvNets", 2016 (https://arxiv.org/abs/1608.08710):
layers differ widely in how much of them can go before the model notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import keras
import numpy as np

from compresskit import catalog
from compresskit.data import Dataset
from compresskit.errors import DataError, Problem, did_you_mean
from compresskit.fitting import try_out
from compresskit.granularity import Unstructured
from compresskit.labels import label_of
from compresskit.methods.importance import Evidence
from compresskit.methods.masks import masks
from compresskit.methods.prune import Pruning
from compresskit.methods.shrink import Shrinking
from compresskit.metrics import METRICS
from compresskit.outputs import find_output
from compresskit.progress import Bars
from compresskit.recipe import Recipe
from compresskit.recipe_source import render
from compresskit.samples import count, take
from compresskit.stages import Amount, Prune, Shrink, Sparsity
from compresskit.structure.choice import candidates, order, without
from compresskit.structure.follow import follow
from compresskit.structure.structure import Structure
from compresskit.training import loss_for
from compresskit.weights import Weight

AMOUNTS = (0.25, 0.5, 0.75, 0.9)
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """What one layer costs.

    Attributes:
        path: of the weight; of the layer whose units go, with all that is joined to them.
        values: the metric at each amount.
        saved: what goes at each amount: zeros, or multiply-adds of one sample.
    """

    path: str
    values: tuple[float, ...]
    saved: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What each layer of a model costs, without any training afterwards.

    Attributes:
        method: `prune` or `shrink`.
        criterion: what went first.
        amounts: shares of each layer that went.
        metric: by its name; on training samples, so that the test set stays unseen.
        samples: how many of them.
        whole: the metric of the model as it is.
        layers: in the model's order.
    """

    method: str
    criterion: str
    amounts: tuple[float, ...]
    metric: str
    samples: int
    whole: float
    layers: tuple[LayerSensitivity, ...]

    @property
    def mode(self) -> str:
        """Whether the metric is better the larger (`max`) or the smaller (`min`)."""
        return "min" if self.metric.endswith("error") else "max"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self)


def sensitivity(
    model: keras.Model,
    dataset: Dataset,
    *,
    method: Literal["prune", "shrink"] = "prune",
    criterion: str | None = None,
    amounts: Sequence[float] = AMOUNTS,
    metric: str = "accuracy",
    samples: int = 1000,
    bars: Bars | None = None,
) -> Sensitivity:
    """Measures what each layer costs, one at a time; the model is left as it was.

    Args:
        model: trained; for `shrink` a functional or sequential one.
        criterion: what goes first; default `magnitude`, or `l2` of units.
        amounts: shares of each layer, rising.
        samples: how many training samples are measured.

    Raises:
        DataError: unknown metric, or samples that the model does not take.
        ModelError: the units of the model cannot be followed.
        RecipeError: an unknown criterion.
    """
    if metric not in METRICS:
        raise DataError(
            Problem(
                where="metric",
                found=f"unknown metric {metric!r}",
                expected=f"one of: {', '.join(METRICS)}",
                fix=did_you_mean(metric, METRICS),
            )
        )
    bars = bars or Bars()
    criterion = criterion or ("magnitude" if method == "prune" else "l2")
    some = np.random.default_rng(0).permutation(count(dataset.x_train))[:samples]
    some.sort()
    x, y = take(dataset.x_train, some), take(dataset.y_train, some)
    few = try_out(model, x, where="data", name=dataset.name, error=DataError)
    found = find_output(model, few, dataset.y_test, None, render)
    labels = label_of(y, found.name)

    def measure() -> float:
        outputs = keras.tree.flatten(model.predict(x, batch_size=_BATCH, verbose=0))
        return METRICS[metric](np.asarray(outputs[found.index]), labels)

    whole = measure()
    if method == "prune":
        parts = list(_zeros(model, criterion))
    else:
        loss = loss_for("auto", model, dataset)
        parts = list(_units(follow(model), criterion, x, y, loss))
    layers = []
    with bars.task("measuring layers", len(parts) * len(amounts)) as update:
        for number, (path, without_share) in enumerate(parts):
            values, saved = [], []
            for index, amount in enumerate(amounts):
                changes, saving = without_share(amount)
                with _changed(changes):
                    values.append(measure())
                saved.append(saving)
                update(done=number * len(amounts) + index + 1)
            layers.append(LayerSensitivity(path=path, values=tuple(values), saved=tuple(saved)))
    return Sensitivity(
        method=method,
        criterion=criterion,
        amounts=tuple(amounts),
        metric=metric,
        samples=len(some),
        whole=whole,
        layers=tuple(layers),
    )


# For a share that goes: new values of variables, and what they save.
_Part = Callable[[float], tuple[list[tuple[Any, np.ndarray]], int]]


def _zeros(model: keras.Model, criterion: str) -> Iterator[tuple[str, _Part]]:
    """The smallest weights of each weight become zero."""
    score = catalog.criteria.get(criterion)
    for weight in Pruning(Prune(sparsity=Sparsity(final=0.5))).select(model, "model").taken:

        def part(amount: float, weight: Weight = weight) -> Any:
            values = weight.variable.numpy()
            scores = weight.matrix(score(values))
            (mask,) = masks([scores], Unstructured(), amount, [weight.input_channels])
            masked = values * weight.from_matrix(mask).astype(values.dtype)
            return [(weight.variable, masked)], int((masked == 0).sum())

        yield weight.path, part


def _units(
    structure: Structure, criterion: str, x: Any, y: Any, loss: Any
) -> Iterator[tuple[str, _Part]]:
    """The least important units of each layer, and all that is joined to them, become zero."""
    given = Evidence(structure=structure, x=x, y=y, loss=loss)
    scores = catalog.unit_criteria.get(criterion)(given)
    selection = Shrinking(Shrink(amount=Amount(units=0.5))).select(structure.model, "model")
    taken = {id(weight.variable) for weight in selection.taken}
    whole = structure.multiply_adds(structure.all_kept())
    seen: set[int] = set()
    for source in structure.sources.values():
        free = candidates(structure, source.makers & taken, (), ())
        own = set(np.flatnonzero(free).tolist())
        if not own or own <= seen:
            continue
        seen |= own

        ordered, shares = order(structure, free, scores, everywhere=True)

        def part(amount: float, ordered: np.ndarray = ordered, shares: np.ndarray = shares) -> Any:
            kept = without(structure, ordered[shares <= amount + 1e-9])
            masks_of = [(each, structure.mask(each, kept)) for each in structure.units.variables]
            changes = [(each, each.numpy() * mask) for each, mask in masks_of if not mask.all()]
            return changes, whole - structure.multiply_adds(kept)

        yield source.layer.path, part


@contextmanager
def _changed(changes: list[tuple[Any, np.ndarray]]) -> Iterator[None]:
    before = [(variable, variable.numpy()) for variable, _ in changes]
    try:
        for variable, values in changes:
            variable.assign(values)
        yield
    finally:
        for variable, values in before:
            variable.assign(values)


def spend(made: Sensitivity, drop: float) -> dict[str, float]:
    """How much of each layer to take so that the losses add up to at most `drop`.

    The most is saved for the least: again and again the layer goes one amount further that saves
    most for what it costs. The sum is of the losses of single layers, and of no training: a guide.

    Args:
        drop: of the metric, in its unit.

    Returns:
        amounts by path; layers that are left alone are missing.
    """
    sign = 1.0 if made.mode == "max" else -1.0
    level = {layer.path: -1 for layer in made.layers}
    spent = 0.0

    def cost(layer: LayerSensitivity, index: int) -> float:
        if index < 0:
            return 0.0
        return max(0.0, sign * (made.whole - layer.values[index]))

    while True:
        steps = []
        for layer in made.layers:
            now = level[layer.path]
            for further in range(now + 1, len(made.amounts)):
                more = cost(layer, further) - cost(layer, now)
                saved = layer.saved[further] - (layer.saved[now] if now >= 0 else 0)
                if saved > 0 and spent + more <= drop + 1e-12:
                    steps.append((saved / max(more, 1e-9), layer.path, further, more))
        if not steps:
            break
        _, path, further, more = max(steps)
        level[path] = further
        spent += more
    return {path: made.amounts[index] for path, index in level.items() if index >= 0}


def recipe(
    made: Sensitivity, chosen: dict[str, float], *, name: str, model: str, data: Any
) -> Recipe:
    """A recipe that takes so much of each layer: one stage for each amount.

    Args:
        chosen: of `spend`.
        name, model, data: of the recipe.
    """
    stages = []
    for amount in sorted(set(chosen.values())):
        paths = [path for path, each in chosen.items() if each == amount]
        share = f"{round(100 * amount)}"
        if made.method == "prune":
            grown = {"initial": 0.0, "final": amount, "schedule": "polynomial"}
            stage: dict[str, Any] = {"type": "prune", "sparsity": grown, "targets": paths}
        else:
            stage = {"type": "shrink", "amount": amount, "targets": paths}
        stages.append(
            {"name": f"{made.method}-{share}", **stage, "method": made.criterion, "epochs": 2}
        )
    return Recipe.from_dict(
        {
            "version": 1,
            "name": name,
            "model": model,
            "data": data,
            "evaluate": {"metric": made.metric, "mode": made.mode},
            "defaults": {"learning_rate": 5.0e-4},
            "stages": stages,
            "export": [{"target": "edge-cpu", "precision": "dynamic"}],
        }
    )
