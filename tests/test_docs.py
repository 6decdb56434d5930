"""The documents tell the truth: their code runs, and they name every key."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import compresskit as ck
from compresskit import (
    catalog,
    recipe_distill,
    recipe_export,
    recipe_rounding,
    recipe_strategy,
    stage_base,
    stages,
)
from compresskit.recipe import Recipe
from compresskit.recipe_fields import Record
from compresskit.registry import Registry
from compresskit.report import records
from compresskit.structure.follow import RULES

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL):
            found.append((document.name, code))
    return found


@pytest.fixture
def as_they_were(monkeypatch):
    """What a document registers is taken away again."""
    for registry in vars(catalog).values():
        if isinstance(registry, Registry):
            registry.names()  # those of installed packages stay, too
            monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    rules = dict(RULES)
    yield
    RULES.clear()
    RULES.update(rules)


# The first that a reader runs; and what must come before TensorFlow computes anything.
FIRST, *OTHERS = blocks("python")
ALONE = [FIRST, *[each for each in OTHERS if each[0] == "distribution.md"]]


@pytest.mark.usefixtures("as_they_were")
@pytest.mark.parametrize(("document", "code"), [each for each in OTHERS if each not in ALONE])
def test_python_runs(document, code, tmp_path, monkeypatch):
    """In this process, which has TensorFlow and a converter already; with names of its own."""
    monkeypatch.chdir(tmp_path)
    # Modules that other tests have loaded are attributes, too.
    assert set(re.findall(r"\bck\.(\w+)", code)) <= set(ck.__all__)
    exec(compile(code, document, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("document", "code"), ALONE)
def test_python_runs_alone(document, code, tmp_path):
    """In a process that has loaded nothing."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{document}: {done.stderr[-2000:]}"


@pytest.mark.parametrize(("document", "code"), blocks("yaml"))
def test_yaml_is_a_recipe(document, code):
    assert Recipe.loads(code, document).name == yaml.safe_load(code)["name"]


def test_there_is_code_to_run():
    assert len(blocks("python")) >= 4
    assert len(blocks("yaml")) >= 1


def test_links_lead_somewhere():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def keys(record: type[Record]) -> set[str]:
    return set(record.model_fields)


def test_every_recipe_key_is_explained():
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    every = keys(Recipe) | keys(stages.Prune) | keys(stages.QAT) | keys(stage_base.Gate)
    every |= keys(stages.Sparsity) | keys(stages.Cluster) | keys(stages.Distill)
    every |= keys(stages.Shrink) | keys(stages.Amount) | keys(stages.PTQ)
    every |= keys(recipe_rounding.Calibration) | keys(recipe_rounding.Rounding)
    every |= keys(recipe_distill.Features) | keys(recipe_strategy.Strategy)
    every |= keys(stage_base.EarlyStopping) | keys(recipe_export.Export)
    every |= keys(recipe_export.Parity) | keys(recipe_export.ExportGate)
    for field in ("evaluate", "defaults"):
        every |= keys(Recipe.model_fields[field].annotation)
    missing = sorted(key for key in every if not re.search(rf"\b{key}\b", text))
    assert missing == []


def test_every_report_key_is_explained():
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    every = {
        field.name
        for record in vars(records).values()
        if dataclasses.is_dataclass(record)
        for field in dataclasses.fields(record)
    }
    missing = sorted(key for key in every if not re.search(rf"`{key}`|\.{key}\b|`{key}\[", text))
    assert missing == []
