"""compresskit.builders: the user's functions and paths."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compresskit.builders import call_function, find_path, load_function, missing_path
from compresskit.errors import DataError, ModelError, RecipeError

SOURCE = """
SIZE = 3

def build(size=1):
    if size < 0:
        raise ValueError("size is\\nnegative")
    return size
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module `my_code` in the current directory, forgotten after the test."""
    (tmp_path / "my_code.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield "my_code"
    for name in set(sys.modules) - before:
        if name.startswith(("my_", "broken")):
            del sys.modules[name]


def problem(name, error=RecipeError):
    with pytest.raises(error) as raised:
        load_function(name, "recipe.yaml:3 model.builder", error=error)
    (one,) = raised.value.problems
    assert one.where == "recipe.yaml:3 model.builder"
    return one


def test_function_is_found_in_the_current_directory(module):
    assert load_function("my_code:build", "model")(size=4) == 4


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("my_code.build", "write my_code:build"),
        ("my_code.py:build", "write my_code:build"),
        ("src/my_code.py:build", "write src.my_code:build"),
        ("my_code", "write my_code:FUNCTION"),
        ("my_code:", "write my_code:FUNCTION"),
        ("1:2", "write the module with dots, a colon and the function's name"),
        ("", "write the module with dots, a colon and the function's name"),
    ],
)
def test_other_forms_are_answered_with_the_right_one(name, fix):
    one = problem(name)
    assert one.found == repr(name)
    assert one.expected == "package.module:function"
    assert one.fix == fix


def test_missing_module_suggests_a_neighbour(module):
    one = problem("my_cod:build", ModelError)
    assert one.found == "no module 'my_cod'"
    assert "in the current directory" in one.expected
    assert one.fix == "did you mean 'my_code'?"


def test_missing_submodule_suggests_a_neighbour():
    assert problem("compresskit.error:build").fix == "did you mean 'compresskit.errors'?"


def test_missing_module_without_neighbour(module):
    assert "pip install" in problem("zzzzzzzzzz:build").fix


def test_module_that_fails_while_imported(module):
    Path("broken.py").write_text("import module_that_is_not_there\n")
    one = problem("broken:build")
    assert "importing broken raised ModuleNotFoundError" in one.found
    assert "module_that_is_not_there" in one.found


def test_module_that_is_no_python(module):
    Path("broken_too.py").write_text("def build(:\n")
    assert "importing broken_too raised SyntaxError" in problem("broken_too:build").found


def test_missing_function_suggests_the_nearest(module):
    one = problem("my_code:biuld")
    assert "my_code.py) has no 'biuld'" in one.found
    assert one.fix == "did you mean 'build'?"


def test_what_cannot_be_called_is_refused(module):
    one = problem("my_code:SIZE")
    assert one.found == "'SIZE' in my_code is a int"
    assert one.expected.startswith("a function")


def test_what_a_function_raises_is_told_and_chained(module):
    with pytest.raises(DataError) as raised:
        call_function(
            "my_code:build", {"size": -1}, where="data", error=DataError, returns="a number"
        )
    (one,) = raised.value.problems
    assert one.found == "my_code:build(size=-1) raised ValueError: size is negative"
    assert one.expected == "a number"
    assert isinstance(raised.value.__cause__, ValueError)


def test_wrong_arguments_are_told(module):
    with pytest.raises(DataError, match=r"TypeError.*unexpected keyword argument 'sise'"):
        call_function(
            "my_code:build", {"sise": 1}, where="data", error=DataError, returns="a number"
        )


def test_path_starts_here_and_then_from_the_recipe(tmp_path, monkeypatch):
    here, recipes = tmp_path / "here", tmp_path / "recipes"
    here.mkdir()
    recipes.mkdir()
    monkeypatch.chdir(here)
    (recipes / "a").write_text("recipe's")
    assert find_path("a", recipes).read_text() == "recipe's"
    (here / "a").write_text("mine")
    assert find_path("a", recipes).read_text() == "mine"
    assert find_path(recipes / "a", None).read_text() == "recipe's"
    missing = missing_path(find_path("b", recipes), "b", recipes)
    assert missing == f"nothing at {here / 'b'} or {recipes / 'b'}"
