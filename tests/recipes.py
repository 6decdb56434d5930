"""What tests of recipes share: the head of a recipe, one stage, and the problems of both."""

from __future__ import annotations

import pytest

from compresskit.errors import RecipeError
from compresskit.recipe import Recipe

HEAD = "version: 1\nname: r\nmodel: lenet5\n"


def problems_of(text, overrides=()):
    with pytest.raises(RecipeError) as caught:
        Recipe.loads(text, "recipe.yaml", overrides)
    return caught.value.problems


def stage(text):
    return Recipe.loads(f"{HEAD}stages:\n  - {text}\n").stages[0]


def stage_problem(text):
    (problem,) = problems_of(f"{HEAD}stages:\n  - {text}\n")
    assert problem.where.startswith("recipe.yaml:5 stages[0]")
    return problem
