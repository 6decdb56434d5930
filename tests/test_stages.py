"""The records of stages: what they accept, and what they are after that."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from compresskit.granularity import NM, Block, Unstructured
from compresskit.stages import QAT
from tests.recipes import stage, stage_problem


def test_sparsity_as_a_number():
    sparsity = stage("{type: prune, sparsity: 0}").sparsity
    assert (sparsity.final, sparsity.schedule) == (0, "constant")
    sparsity = stage("{type: prune, sparsity: {final: 5e-1}}").sparsity
    assert (sparsity.final, sparsity.schedule) == (0.5, "polynomial")


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("unstructured", Unstructured()),
        ("1:2", NM(n=1, m=2)),
        ("63:64", NM(n=63, m=64)),
        ("block(1x16)", Block(rows=1, columns=16)),
    ],
)
def test_granularity(text, shape):
    sparsity = "" if isinstance(shape, NM) else ", sparsity: 0.5"
    assert stage(f"{{type: prune, granularity: {text}{sparsity}}}").mask_shape == shape


@pytest.mark.parametrize("text", ["4:2", "2:2", "0:4", "2:65", "block(0x2)", "block", "channels"])
def test_granularity_that_is_wrong(text):
    problem = stage_problem(f"{{type: prune, sparsity: 0.5, granularity: {text}}}")
    assert problem.expected.startswith("`unstructured`, `N:M`")


@pytest.mark.parametrize(
    ("times", "valid"),
    [
        ("begin: 1ep, end: 1ep", False),
        ("begin: 1ep, end: 2ep", True),
        ("begin: 10st, end: 9st", False),
        ("begin: 3ep, end: 10st", True),
        ("end: 0st", False),
        ("frequency: 0st", False),
    ],
)
def test_times(times, valid):
    text = f"{{type: prune, sparsity: 0.5, {times}}}"
    assert stage(text) if valid else stage_problem(text)


def test_records_are_frozen_and_keyword_only():
    with pytest.raises(ValidationError):
        QAT().epochs = 2
    with pytest.raises(TypeError):
        QAT("qat")
