"""Errors that say where, what was found, what was expected and what to do next.

Every error that a user can cause is a list of `Problem`s, so that a recipe with
five mistakes reports five, not the first. The command line prints them without
a traceback and leaves with the error's `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, in four parts.

    Attributes:
        where: file, line and key path, for example `recipe.yaml:12 stages[0].sparsity.final`.
        found: what stands there.
        expected: what could stand there.
        fix: what to do next.
    """

    where: str
    found: str
    expected: str
    fix: str

    def __str__(self) -> str:
        return (
            f"{self.where}\n"
            f"    found:    {self.found}\n"
            f"    expected: {self.expected}\n"
            f"    to do:    {self.fix}"
        )


class CompressKitError(Exception):
    """Base of all errors; carries every problem that was found.

    `exit_code` is 1 for a run that failed, 2 for a recipe, model, data set, target or
    command line that cannot be run at all.
    """

    exit_code = 1

    def __init__(self, problems: Problem | Iterable[Problem]):
        self.problems: tuple[Problem, ...] = (
            (problems,) if isinstance(problems, Problem) else tuple(problems)
        )
        super().__init__(str(self))

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class RecipeError(CompressKitError):
    """The recipe, or an override of it, is wrong."""

    exit_code = 2


class ModelError(CompressKitError):
    """The model cannot be loaded, or the recipe does not fit it."""

    exit_code = 2


class DataError(CompressKitError):
    """The data set is missing, damaged, or does not fit the model."""

    exit_code = 2


class TargetError(CompressKitError):
    """The target is unknown, or cannot take what it is asked to."""

    exit_code = 2


class TrainingError(CompressKitError):
    """A stage could not be trained to its end."""


class ConversionError(CompressKitError):
    """The converter failed, or wrote a file that breaks a rule of its format."""


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """The valid word that is closest to `word`, or None if none is close."""
    matches = difflib.get_close_matches(str(word), list(valid), n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """`did you mean 'x'?`, or the list of valid words if none is close."""
    valid = sorted(valid)
    match = nearest(word, valid)
    return f"did you mean {match!r}?" if match else f"use one of: {', '.join(valid)}"
