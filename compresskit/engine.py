"""Runs a recipe: the only loop over its stages."""

from __future__ import annotations

import platform
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, final

import keras

from compresskit import artifacts, classroom, ledger, resuming
from compresskit.distribution import is_chief, training_on, written_once
from compresskit.errors import Problem, RecipeError
from compresskit.files import reported_files, staged
from compresskit.planning import describe
from compresskit.preparation import check
from compresskit.progress import Bars
from compresskit.ranges import Range
from compresskit.recipe import Recipe
from compresskit.recipe_source import Locate, render
from compresskit.report.html import render as render_html
from compresskit.report.records import Report
from compresskit.run import Run, measure_baseline, measure_latency
from compresskit.run_stage import run_stage
from compresskit.tflite.metadata import Metadata
from compresskit.tfmot import engine as tfmot
from compresskit.tfmot.loading import with_engine
from compresskit.trained import Plain, Source

_PACKAGES = ("compresskit", "tensorflow", "keras", "ai-edge-litert", "numpy")
_TFMOT_PACKAGES = ("tensorflow-model-optimization", "tf_keras")


@final
@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out of a recipe.

    Attributes:
        model: the compressed model, plain Keras: no hook, hold or wrapper is left.
        ranges: activation ranges that training learned, for further exports.
        artifacts: paths of the files; empty without `out`.
        report: all measurements and promises.
    """

    model: keras.Model
    ranges: tuple[Range, ...]
    artifacts: tuple[Path, ...]
    report: Report


def compress(
    model: Any,
    recipe: Recipe | str | Path,
    *,
    data: Any = None,
    out: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    quiet: bool = True,
    safe_mode: bool = True,
    locate: Locate = render,
    base: Path | None = None,
) -> Result:
    """Takes a model through a recipe.

    ```python
    result = compress(model, "recipe.yaml", data=((x, y), (x_test, y_test)), out="runs/x")
    ```

    Args:
        model: a built Keras 3 model, which is changed in place, or None for the recipe's.
        recipe: a recipe or the path of one.
        data: samples and labels in place of the recipe's, in any form that `data.load` takes.
        out: folder for the model, the files and the report; without it nothing is kept on disk.
        seed: of everything random.
        resume: go on with the run into `out` that was interrupted, to the same weights.
        quiet: show no progress.
        safe_mode: refuse `.keras` files with Python code in them.
        locate: tells people where a key path of the recipe stands.
        base: folder that relative paths may start from.

    Raises:
        RecipeError, ModelError, DataError: before the first epoch, with every problem.
        TrainingError, ConversionError: a stage or an export failed; nothing was written but what
            a run with `resume` needs.
    """
    if not isinstance(recipe, Recipe):
        base = base or Path(recipe).parent
        recipe = Recipe.load(recipe)
    recipe = with_engine(recipe, model, base)
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise RecipeError(
            Problem(
                where=f"out {out}",
                found="a file of that name",
                expected="a folder, or a name that is free",
                fix="give another name",
            )
        )
    with (
        training_on(recipe.strategy, model, locate(("strategy",))),
        written_once(None if out is None else Path(out)) as folder,
    ):
        result = _compress(
            model,
            recipe,
            data=data,
            out=folder,
            seed=seed,
            resume=resume,
            quiet=quiet or not is_chief(),
            safe_mode=safe_mode,
            locate=locate,
            base=base,
        )
        return result if is_chief() else replace(result, artifacts=())


def _compress(
    model: Any,
    recipe: Recipe,
    *,
    data: Any,
    out: Path | None,
    seed: int,
    resume: bool,
    quiet: bool,
    safe_mode: bool,
    locate: Locate,
    base: Path | None,
) -> Result:
    if resume:
        resuming.check_request(out, recipe, seed)
    keras.utils.set_random_seed(seed)
    made = check(recipe, model=model, data=data, locate=locate, base=base, safe_mode=safe_mode)
    assert made.model is not None
    assert made.dataset is not None
    assert made.output is not None
    # What an earlier report speaks of and this one will not.
    stale = reported_files(out) if out is not None else set()
    started = time.perf_counter()
    run = Run(
        recipe=recipe,
        model=made.model,
        dataset=made.dataset,
        exports=made.exports,
        output=made.output,
        lessons=made.lessons,
        seed=seed,
        bars=Bars(quiet=quiet),
        given=None if model is None else made.model.name,
        session=made.session,
    )
    run.checkpoints = resuming.opened(run, out, locate, resume=resume)
    with staged(out) if out is not None else nullcontext() as folder, run.checkpoints.told():
        run.folder = folder
        measure_baseline(run)
        run.original = classroom.original(run)
        try:
            completed = all(run_stage(run, index) for index in range(len(recipe.stages)))
        except BaseException:
            # The model is the user's: nothing stays on it.
            for _, attached in run.attached:
                attached.detach()
            raise
        _detach(run)
        if completed:
            _export(run)
        measure_latency(run)
        report = _report(run, time.perf_counter() - started + run.checkpoints.earlier)
        if folder is not None:
            _write(run, report, folder)
    paths = tuple(out / file.path for file in run.files) if out is not None else ()
    if out is not None:
        for path in stale - reported_files(out):
            path.unlink(missing_ok=True)
    run.checkpoints.clear()
    return Result(model=run.model, ranges=run.ranges, artifacts=paths, report=report)


def _detach(run: Run) -> None:
    """Makes the model plain, and checks that it still is the model that was trained."""
    if not run.attached:
        return
    trained = run.answers() if run.trained is None else run.trained
    for _, attached in run.attached:
        run.ranges += attached.detach().get("ranges", ())
    run.kept = ledger.baked(run.kept, run.model)
    if run.session is not None and run.session.quantized:
        return  # its activations are rounded in tf_keras alone
    last = run.attached[-1][0].name
    run.promises.append(ledger.same_answers(trained, run.answers(run.ranges), last))


def _export(run: Run) -> None:
    assert run.baseline is not None
    source: Source = Plain(model=run.model, ranges=run.ranges)
    if run.session is not None:
        source = tfmot.Wrapped(session=run.session, model=run.model)
    provenance = Metadata(
        facts={
            "recipe": run.recipe.name,
            "seed": run.seed,
            "versions": _versions(run),
            "baseline": run.baseline.metrics,
        },
        recipe=run.recipe.dump(),
        labels=run.dataset.classes or (),
    )
    for export, resolved in zip(run.recipe.export, run.exports, strict=True):
        made, audited, files, runner = artifacts.artifact(
            source,
            export,
            resolved,
            run.dataset,
            metric=run.metric,
            output=run.output,
            provenance=provenance,
            bars=run.bars,
        )
        if run.folder is not None:
            for name, content in files.items():
                (run.folder / name).write_bytes(content)
        run.files.append(made)
        run.runners.append(runner)
        drop = run.drop(made.metrics)
        run.promises += artifacts.promises(made, audited, export, resolved, run.kept, drop)


def _versions(run: Run) -> dict[str, str]:
    names = _PACKAGES if run.session is None else _PACKAGES + _TFMOT_PACKAGES
    packages = {package: metadata.version(package) for package in names}
    return {"python": platform.python_version(), **packages}


def _report(run: Run, seconds: float) -> Report:
    assert run.baseline is not None
    return Report(
        recipe=run.recipe.name,
        engine=run.recipe.engine,
        seed=run.seed,
        model=describe(run.recipe.model) if run.given is None else f"given: {run.given}",
        data=run.dataset.name,
        metric=run.metric,
        versions=_versions(run),
        baseline=run.baseline,
        stages=tuple(run.stages),
        artifacts=tuple(run.files),
        promises=tuple(run.promises),
        seconds=seconds,
    )


def _write(run: Run, report: Report, folder: Path) -> None:
    run.model.save(folder / "model.keras", include_optimizer=False)
    (folder / "recipe.resolved.yaml").write_text(run.recipe.dump(), encoding="utf-8")
    if run.dataset.tokenizer is not None:
        text = run.dataset.tokenizer.to_json()
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    (folder / "report.html").write_text(render_html(report), encoding="utf-8")
