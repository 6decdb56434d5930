"""Names, and what they stand for."""

from __future__ import annotations

import pytest

from compresskit import catalog
from compresskit.errors import TargetError
from compresskit.registry import Entry, Registry


@pytest.fixture
def registry():
    registry = Registry("target", "compresskit.tests.nothing", TargetError)
    registry.register("small", "math:pi", summary="a number")
    registry.register("large", 10**9, summary="another")
    return registry


def test_an_entry_is_imported_when_it_is_asked_for(registry):
    assert registry.get("small") == pytest.approx(3.14159, abs=1e-5)
    assert registry.get("large") == 10**9


def test_names_are_sorted(registry):
    assert registry.names() == ["large", "small"]
    assert [entry.summary for entry in registry.entries()] == ["another", "a number"]
    assert "small" in registry
    assert "medium" not in registry


def test_an_unknown_name_is_an_error_of_its_kind(registry):
    with pytest.raises(TargetError) as caught:
        registry.get("smal", where="r.yaml:1 target")
    (problem,) = caught.value.problems
    assert problem.where == "r.yaml:1 target"
    assert problem.found == "unknown target 'smal'"
    assert problem.expected == "one of: large, small"
    assert problem.fix == "did you mean 'small'?"


def test_a_name_is_taken_once(registry):
    registry.register("large", 10**9, summary="the same again")
    with pytest.raises(ValueError, match="'large' is already registered"):
        registry.register("large", 0, summary="something else")


def test_decorator(registry):
    @registry.decorator("mine", summary="a function")
    def mine():
        return 1

    assert registry.get("mine") is mine


def test_entry_points_of_other_packages(monkeypatch):
    class Point:
        name, value, dist = "theirs", "math:tau", None

    monkeypatch.setattr("compresskit.registry.metadata.entry_points", lambda group: [Point()])
    registry = Registry("target", "compresskit.targets", TargetError)
    assert registry.names() == ["theirs"]
    assert registry.get("theirs") == pytest.approx(6.28318, abs=1e-5)


def test_entries_are_frozen():
    with pytest.raises(AttributeError):
        Entry(name="a", summary="b", target=1).name = "c"


@pytest.mark.parametrize(
    "registry",
    [catalog.methods, catalog.criteria, catalog.targets, catalog.models, catalog.datasets],
    ids=lambda registry: registry.kind,
)
def test_the_catalog_says_what_each_name_is(registry):
    assert registry.entries()
    assert all(entry.summary for entry in registry.entries())
