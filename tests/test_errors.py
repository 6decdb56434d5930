"""Problems and the errors that carry them."""

from __future__ import annotations

import pytest

from compresskit import errors

PROBLEM = errors.Problem(where="r.yaml:3 name", found="1", expected="a text", fix="quote it")


def test_a_problem_has_four_parts():
    assert str(PROBLEM) == (
        "r.yaml:3 name\n    found:    1\n    expected: a text\n    to do:    quote it"
    )


def test_an_error_shows_all_its_problems():
    error = errors.RecipeError([PROBLEM, PROBLEM])
    assert error.problems == (PROBLEM, PROBLEM)
    assert str(error).count("r.yaml:3 name") == 2


def test_one_problem_needs_no_list():
    assert errors.DataError(PROBLEM).problems == (PROBLEM,)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.RecipeError, 2),
        (errors.ModelError, 2),
        (errors.DataError, 2),
        (errors.TargetError, 2),
        (errors.TrainingError, 1),
        (errors.ConversionError, 1),
    ],
)
def test_exit_codes(kind, code):
    assert kind(PROBLEM).exit_code == code


def test_nearest():
    assert errors.nearest("sparsty", ["sparsity", "scope"]) == "sparsity"
    assert errors.nearest("zzz", ["sparsity", "scope"]) is None


def test_did_you_mean():
    assert errors.did_you_mean("magnitud", ["magnitude", "random"]) == "did you mean 'magnitude'?"
    assert errors.did_you_mean("zzz", ["b", "a"]) == "use one of: a, b"
