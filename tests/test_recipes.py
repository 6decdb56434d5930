"""recipes/: every file loads, comes back from its own dump, and fits its model and data."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

import compresskit as ck
from compresskit import catalog
from compresskit.data import load
from compresskit.errors import DataError
from tests.runs import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
assert RECIPES


@pytest.fixture(autouse=True)
def every_target(path):
    """What a recipe exports to is installed."""
    for export in ck.Recipe.load(path).export:
        package = catalog.targets.get(export.target).requires
        if package is not None and find_spec(package.module) is None:
            pytest.skip(f"{package.module} is missing: {package.install}")


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_loads_and_comes_back(path):
    recipe = ck.Recipe.load(path)
    assert recipe.name == path.stem
    assert ck.Recipe.loads(recipe.dump()) == recipe
    assert recipe.stages
    assert recipe.export


def test_plans_without_imports(path):
    assert len(ck.plan(path, imports=False).exports) == len(ck.Recipe.load(path).export)


def test_plans(path):
    recipe = ck.Recipe.load(path)
    try:
        load(recipe.data, base=path.parent)
    except DataError as error:
        pytest.skip(f"{error.problems[0].found}: {error.problems[0].fix}")
    plan = ck.plan(path)
    for stage in plan.stages:
        assert stage.touched or stage.student
        assert stage.steps
        assert stage.worth
