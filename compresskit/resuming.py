"""Whether a run may go on where another was interrupted, and what tells the two apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from compresskit.checkpoint import RECORD, Checkpoints, drop, saved, training_folder
from compresskit.data import Dataset
from compresskit.errors import Problem, RecipeError
from compresskit.lessons import Lesson
from compresskit.native import settings_of
from compresskit.recipe import Recipe
from compresskit.recipe_source import KeyPath, Locate
from compresskit.resolution import training_grid
from compresskit.run import Run

FOLDER = "checkpoints"
_PACKAGES = ("compresskit", "tensorflow", "keras")
_ANEW = "or run without resume, which begins anew"


def interrupted(out: Path) -> bool:
    """Whether a run into this folder was interrupted, and could go on."""
    return (out / FOLDER / RECORD).is_file()


def finished(out: Path, recipe: Recipe, seed: int) -> bool:
    """Whether this recipe was run into this folder to its end, with this seed."""
    if interrupted(out):
        return False
    try:
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        text = (out / "recipe.resolved.yaml").read_text(encoding="utf-8")
        return report["seed"] == seed and text == recipe.dump()
    except (OSError, ValueError, KeyError, TypeError):
        return False  # no report of ours: nothing is known of a run


def check_request(out: Path | None, recipe: Recipe, seed: int) -> None:
    """That there is something to go on with, as far as can be seen without model and data.

    Raises:
        RecipeError: there is not.
    """
    where, found, fix = f"resume {out}", "no interrupted run", "run without resume"
    expected = f"the {FOLDER}/{RECORD} of a run whose first epoch was trained"
    if out is not None and finished(out, recipe, seed):
        found, fix = "a run that is finished", "read its report.json and model.keras"
    elif recipe.engine == "tfmot":
        where, found = "resume", "`engine: tfmot`, which trains in a process of TFMOT's"
        expected = "`engine: native`, which keeps the state of every epoch"
    elif isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        where, found = "resume", "several workers"
        expected = "one process, which keeps the state of every epoch"
    elif out is None:
        where, found, fix = "resume", "no `out`", "name the folder of the interrupted run"
    elif interrupted(out):
        return
    elif (out / "report.json").exists():
        found = "a finished run of another recipe or seed"
    raise RecipeError(Problem(where=where, found=found, expected=expected, fix=fix))


def opened(run: Run, out: Path | None, locate: Locate, *, resume: bool) -> Checkpoints:
    """Where the trainings of a run keep their states, and find those of an earlier process.

    Raises:
        RecipeError: the interrupted run was another one; everything that differs. Nothing is
            touched then.
    """
    if out is None or run.session is not None:
        return Checkpoints()
    folder, record = out / FOLDER, _record(run)
    if resume:
        changed = _changed(folder, _read(folder), record, locate)
        if changed is not None:
            # The stage that was being trained is another one now.
            drop(folder, changed)
    checkpoints = Checkpoints(folder, record, bars=run.bars, resumed=resume)
    if resume:
        checkpoints.write_record()
    return checkpoints


def _read(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except ValueError as cause:
        raise RecipeError(
            Problem(
                where=str(folder / RECORD),
                found=f"a file that is damaged: {cause}",
                expected="the record of the interrupted run",
                fix="run without resume, which begins anew",
            )
        ) from cause


def _changed(folder: Path, old: dict[str, Any], new: dict[str, Any], locate: Locate) -> int | None:
    """The training that was interrupted, if it is another one now; later ones do not count yet.

    Raises:
        RecipeError: what was trained to its end was something else.
    """
    every: list[dict[str, Any]] = old["trainings"]
    reached = [saved(training_folder(folder, i, each["name"])) for i, each in enumerate(every)]
    begun = [index for index, epochs in enumerate(reached) if epochs]
    if not begun:
        raise RecipeError(
            Problem(
                where=f"resume {folder}",
                found="no epoch that was trained",
                expected="the state of one",
                fix="run without resume",
            )
        )
    last = begun[-1]
    problems = [
        _other(_where(key, folder, locate), _words(new.get(key)), _words(value))
        for key, value in old.items()
        if key != "trainings" and new.get(key) != value
    ]
    changed = None
    for index, was in enumerate(every[: last + 1]):
        now = new["trainings"][index] if index < len(new["trainings"]) else {}
        if now == was:
            continue
        if index == last and reached[last][-1] < was["epochs"]:
            changed = last
            continue
        path: KeyPath = ("stages", index - 1) if index else ("baseline",)
        problems += [
            _other(locate((*path, key)), _words(now.get(key)), _words(was.get(key)))
            for key in sorted({*was, *now})
            if now.get(key) != was.get(key)
        ]
    if problems:
        raise RecipeError(problems)
    return changed


def _where(key: str, folder: Path, locate: Locate) -> str:
    if key in ("model", "data", "strategy", "evaluate", "export"):
        return locate((key,))
    return f"resume {folder}" if key == "versions" else key


def _other(where: str, now: str, was: str) -> Problem:
    return Problem(
        where=where,
        found=now,
        expected=f"{was}, as in the interrupted run",
        fix=f"put it back, {_ANEW}",
    )


def _words(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items())
    return str(value)


def _record(run: Run) -> dict[str, Any]:
    """What the weights of a run depend on, as plain data."""
    recipe = run.recipe
    baseline = recipe.baseline.model_dump(mode="json") if recipe.baseline else {"epochs": 0}
    stages = [_stage(run, index) for index in range(len(recipe.stages))]
    record = {
        "versions": {package: metadata.version(package) for package in _PACKAGES},
        "seed": run.seed,
        "model": _digest(_model(run.model)),
        "data": _digest(_data(run.dataset)),
        "strategy": recipe.strategy and recipe.strategy.model_dump(mode="json"),
        "evaluate": recipe.evaluate.model_dump(mode="json"),
        "loss": recipe.defaults.loss,
        # Training rounds to the grid of the first export.
        "export": str(training_grid(run.exports)),
        "trainings": [{"name": "baseline", **baseline}, *stages],
    }
    return json.loads(json.dumps(record))


def _stage(run: Run, index: int) -> dict[str, Any]:
    stage, lesson = run.recipe.stages[index], run.lessons[index]
    return {
        **stage.model_dump(mode="json", by_alias=True),
        **{key: each for key, each in settings_of(run, index).items() if key != "seed"},
        **({} if lesson is None else {"teacher and student": _digest(_lesson(lesson))}),
    }


def _model(model: keras.Model) -> Any:
    """Layers, how they are connected, and weights. Names do not count: Keras numbers them."""
    try:
        config = _plain(model.get_config(), {})
    except Exception:  # noqa: BLE001 - a model that is code may have none: its layers say something
        config = [type(layer).__name__ for layer in model._flatten_layers()]
    return config, model.compiled and _plain(model.loss, {}), model.get_weights()


def _plain(value: Any, names: dict[str, str]) -> Any:
    """Settings as plain data, each name by the order in which it is met."""
    if isinstance(value, dict):
        if isinstance(value.get("name"), str):
            names.setdefault(value["name"], f"#{len(names)}")
        return {str(key): _plain(each, names) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, names) for each in value]
    if isinstance(value, str):
        return names.get(value, value)
    if value is None or isinstance(value, int | float | np.ndarray):
        return value
    if isinstance(value, keras.Loss):
        return [type(value).__name__, _plain(value.get_config(), names)]
    return getattr(value, "__name__", type(value).__name__)


def _data(dataset: Dataset) -> Any:
    arrays = [dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test]
    tokenizer = dataset.tokenizer and dataset.tokenizer.to_json()
    return arrays, dataset.classes, tokenizer


def _lesson(lesson: Lesson) -> Any:
    models = [None if each is None else _model(each) for each in (lesson.teacher, lesson.student)]
    return models, lesson.transfer, lesson.ids


def _digest(value: Any) -> str:
    """The SHA-256 of nested data and arrays."""
    made = hashlib.sha256()
    for part in _parts(value):
        made.update(part)
    return f"contents of digest {made.hexdigest()[:16]}"


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _parts((key, value[key]))
    elif isinstance(value, list | tuple):
        yield b"("
        for each in value:
            yield from _parts(each)
        yield b")"
    else:
        yield f"{value!r},".encode()
