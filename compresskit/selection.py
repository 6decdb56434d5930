"""Which weights a stage takes: `targets` and `ignore`.

A pattern is one of
    `type:Dense`    the layer's class, or a class that it derives from
    `re:conv.*`     a regular expression that matches the whole path of layer or weight
    `logits`        the name or path of a layer, of a model that holds it, or of a weight

Every pattern must match something: one that does not is a slip of the pen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras

from compresskit.errors import Problem, did_you_mean
from compresskit.weights import Weight, weights_of


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A weight that a stage leaves as it is, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The weights a stage takes, those it leaves, and patterns that matched nothing."""

    taken: tuple[Weight, ...]
    skipped: tuple[Skipped, ...]
    problems: tuple[Problem, ...]


def _names(weight: Weight) -> set[str]:
    """Everything a plain name may call this weight by."""
    parts = weight.path.split("/")
    prefixes = {"/".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return prefixes | set(parts) | {weight.layer.name, weight.layer.path}


def _matches(pattern: str, weight: Weight) -> bool:
    kind, _, rest = pattern.partition(":")
    if kind == "type" and rest:
        return rest in {cls.__name__ for cls in type(weight.layer).__mro__}
    if kind == "re" and rest:
        texts = (weight.path, weight.layer.path, weight.layer.name)
        return any(re.fullmatch(rest, text) for text in texts)
    return pattern in _names(weight)


def _unmatched(where: str, pattern: str, weights: Sequence[Weight]) -> Problem:
    if pattern.startswith("type:"):
        words = {f"type:{type(weight.layer).__name__}" for weight in weights}
    else:
        words = {weight.layer.name for weight in weights}
    return Problem(
        where=where,
        found=f"the pattern {pattern!r} matches no weight of the model",
        expected="a layer's name or path, `type:ClassName`, or `re:expression`",
        fix=did_you_mean(pattern, words) if words else "the model has no weights to compress",
    )


def select(
    model: keras.Layer,
    targets: Sequence[str],
    ignore: Sequence[str],
    *,
    where: str,
    unfit: Callable[[Weight, bool], str | None],
) -> Selection:
    """Chooses weights by pattern; `ignore` wins over `targets`; no targets means all.

    Args:
        where: the stage, for problems.
        unfit: why a method cannot take a weight, or None. Its second argument tells
            whether the user named the weight in `targets`.
    """
    weights = weights_of(model)
    problems = [
        _unmatched(f"{where}.{key}[{index}]", pattern, weights)
        for key, patterns in (("targets", targets), ("ignore", ignore))
        for index, pattern in enumerate(patterns)
        if not any(_matches(pattern, weight) for weight in weights)
    ]
    taken, skipped = [], []
    for weight in weights:
        named = any(_matches(pattern, weight) for pattern in targets)
        if any(_matches(pattern, weight) for pattern in ignore):
            reason: str | None = "named in ignore"
        elif targets and not named:
            reason = "not among the targets"
        else:
            reason = unfit(weight, named)
        if reason is None:
            taken.append(weight)
        else:
            skipped.append(Skipped(path=weight.path, reason=reason))
    if not taken and not problems:
        problems.append(
            Problem(
                where=where,
                found="no weight of the model is left for this stage",
                expected="at least one",
                fix="widen targets, shorten ignore, or remove the stage",
            )
        )
    return Selection(taken=tuple(taken), skipped=tuple(skipped), problems=tuple(problems))
