"""Whole runs that tests share: a few digits, short recipes, and commands."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import yaml
from click.testing import CliRunner, Result

from compresskit.cli import main
from compresskit.data import Dataset, load
from compresskit.recipe import Recipe
from tests.models import CLASSES, MODELS, SEQUENCE_MODELS, sequences

ROOT = Path(__file__).parent.parent
PRUNE = {"name": "sparsify", "type": "prune", "sparsity": 0.5, "frequency": "2st", "epochs": 1}
QUANTIZE = {"name": "quantize", "type": "qat", "epochs": 1}


@functools.cache
def _digits() -> Dataset:
    return load("digits").limit(256, 64)


def digits(model: str = "cnn") -> Dataset:
    """256 and 64 samples that a model of `tests.models` takes: digits; a recipe's builder."""
    if model in SEQUENCE_MODELS:
        return _sequences(model)
    shape = (16, 4) if model == "conv1d" else (8, 8, 1)
    few = _digits()
    return Dataset(
        name="few digits",
        x_train=few.x_train.reshape(-1, *shape),
        y_train=few.y_train,
        x_test=few.x_test.reshape(-1, *shape),
        y_test=few.y_test,
        classes=few.classes,
    )


def _sequences(model: str) -> Dataset:
    """Sequences whose class is their first token's, or the feature that is highest on average."""
    x = sequences(model, 320)
    y = x[:, 0] % CLASSES if x.ndim == 2 else x[:, :, :CLASSES].mean(axis=1).argmax(axis=-1)
    names = tuple(map(str, range(CLASSES)))
    return Dataset(
        name="few sequences",
        x_train=x[:256],
        y_train=y[:256],
        x_test=x[256:],
        y_test=y[256:],
        classes=names,
    )


def untrained(model: str = "mlp") -> keras.Model:
    """A model of `tests.models`, fit for short trainings; a recipe's builder."""
    made = {**MODELS, **SEQUENCE_MODELS}[model]()
    for layer in made._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5  # a few steps are enough for its averages
    return made


def settings(**changes: Any) -> dict[str, Any]:
    """A recipe as plain data: train, prune, quantize, two files, in a few steps."""
    return {
        "version": 1,
        "name": "short",
        "model": {"builder": "tests.runs:untrained"},
        "data": {"builder": "tests.runs:digits"},
        "baseline": {"epochs": 4, "learning_rate": 0.01, "batch_size": 32},
        "defaults": {"learning_rate": 0.003, "batch_size": 32},
        "stages": [PRUNE, QUANTIZE],
        "export": [
            {"target": "edge-cpu", "precision": "int8", "parity": {"min_agreement": 0.95}},
            {"target": "edge-cpu", "precision": "dynamic", "parity": {"min_agreement": 0.95}},
        ],
        **changes,
    }


def one_stage(**changes: Any) -> dict[str, Any]:
    """A recipe as plain data: no training before, pruning alone, one float file."""
    floats = {"target": "edge-cpu", "precision": "float32"}
    return settings(**{"baseline": None, "stages": [PRUNE], "export": [floats], **changes})


def recipe(**changes: Any) -> Recipe:
    return Recipe.from_dict(settings(**changes))


def recipe_file(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings(**changes), sort_keys=False), encoding="utf-8")
    return path


def command(*words: Any) -> Result:
    """A command in this process. An error that it does not report is raised."""
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert "Traceback" not in done.stderr
    return done


def start(*words: Any, cwd: Path = ROOT) -> subprocess.Popen[str]:
    """A command in a process of its own, as a user starts it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # Not that of the tests: what the command itself sets is under test.
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return subprocess.Popen(
        [sys.executable, "-m", "compresskit", *map(str, words)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a process."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def python(code: str, cwd: Path = ROOT) -> str:
    """What a script prints that runs in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout


def names_in(folder: Path) -> list[str]:
    """The names of the files in a folder; none if it does not exist."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def report_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def saved_weights(path: Path) -> list[np.ndarray]:
    return keras.saving.load_model(path).get_weights()
