"""The state of a run, and the baseline that everything in it is measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import keras
import numpy as np

from compresskit import metrics
from compresskit.checkpoint import Checkpoints
from compresskit.data import Dataset
from compresskit.distribution import agreed
from compresskit.errors import Problem, TrainingError
from compresskit.labels import label_of
from compresskit.ledger import Kept
from compresskit.lessons import Lesson
from compresskit.method import Attached
from compresskit.outputs import Output
from compresskit.progress import Bars
from compresskit.ranges import Range
from compresskit.recipe import Recipe
from compresskit.report.records import ArtifactReport, Baseline, Promise, StageReport
from compresskit.resolution import Resolved
from compresskit.samples import Samples, take
from compresskit.stages import Stage
from compresskit.target import Compiled, Precision
from compresskit.tflite.audit import audit
from compresskit.tflite.convert import convert
from compresskit.tflite.lower import predictions
from compresskit.tflite.runtime import Runner
from compresskit.tflite.timing import interleaved
from compresskit.tfmot.session import Session
from compresskit.training import fit, loss_for

_FLOAT32 = Precision(weights="float32", activations="float32", io="float32")


@final
@dataclass(kw_only=True)
class Run:
    """The state of one run; the only thing here that changes."""

    recipe: Recipe
    model: keras.Model
    dataset: Dataset
    exports: list[Resolved]
    output: Output
    seed: int
    bars: Bars
    folder: Path | None = None
    given: str | None = None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    loss: Any = None
    lessons: list[Lesson | None] = field(default_factory=list)
    baseline: Baseline | None = None
    original: keras.Model | None = None
    attached: list[tuple[Stage, Attached]] = field(default_factory=list)
    stages: list[StageReport] = field(default_factory=list)
    files: list[ArtifactReport] = field(default_factory=list)
    runners: list[Runner] = field(default_factory=list)  # of the baseline's file, then of `files`
    promises: list[Promise] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    ranges: tuple[Range, ...] = ()
    session: Session | None = None  # with the model of tf_keras, if TFMOT is the engine
    trained: np.ndarray | None = None  # the answers after the last stage; None: ask again

    @property
    def labels(self) -> np.ndarray:
        """The test labels of the output that is measured."""
        return label_of(self.dataset.y_test, self.output.name)

    def answers(self, ranges: Sequence[Range] = ()) -> np.ndarray:
        """What the model answers to the test samples at that output."""
        return predictions(self.model, self.dataset.x_test, ranges, output=self.output.index)

    @property
    def metric(self) -> str:
        return self.recipe.evaluate.metric

    def measure(self, outputs: np.ndarray, where: str) -> dict[str, float]:
        """The recipe's metric of answers to the test set.

        Raises:
            TrainingError: not all of them are numbers. The last step may have broken
                what no loss was computed of any more.
        """
        if not np.isfinite(outputs).all():
            raise TrainingError(
                Problem(
                    where=where,
                    found="answers that are infinite or not a number",
                    expected="a model that answers every test sample with numbers",
                    fix="try a lower learning_rate, or check the model that was given",
                )
            )
        return {self.metric: agreed(metrics.METRICS[self.metric](outputs, self.labels))}

    def drop(self, measured: dict[str, float]) -> float:
        """How much of the metric is lost against the baseline; below zero is a gain."""
        assert self.baseline is not None
        loss = self.baseline.metrics[self.metric] - measured[self.metric]
        return loss if self.recipe.evaluate.mode == "max" else -loss


def measure_baseline(run: Run) -> None:
    """Trains the model if the recipe says so, and measures it and its float32 export."""
    settings = run.recipe.baseline
    run.loss = loss_for(run.recipe.defaults.loss, run.model, run.dataset)
    if settings is not None:
        fit(
            run.model,
            run.dataset,
            optimizer=settings.optimizer,
            learning_rate=settings.learning_rate,
            learning_rate_schedule=settings.learning_rate_schedule,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            loss=run.loss,
            seed=run.seed,
            bars=run.bars,
            where="baseline",
            checkpoint=run.checkpoints.training(0, "baseline", settings.epochs),
        )
    with run.bars.task("converting the float32 baseline", None):
        content = convert(run.model, _FLOAT32, sample=take(run.dataset.x_test, slice(1)))
    size = audit(content)
    run.runners.append(Runner(content))
    run.baseline = Baseline(
        compiled=_compiled(run),
        metrics=run.measure(run.answers(), "baseline"),
        parameters=run.model.count_params(),
        tflite_bytes=size.size,
        tflite_gzip_bytes=size.gzip_size,
    )


def _compiled(run: Run) -> dict[str, Compiled]:
    """What the tools of the targets make of the model, rounded as it is, by artifact.

    Before the first stage: what a tool cannot compile is found before anything is trained.
    """
    converted: dict[Any, bytes] = {}
    compiled = {}
    for export, resolved in zip(run.recipe.export, run.exports, strict=True):
        compile_file = resolved.target.compiler
        if compile_file is None:
            continue
        key = resolved.precision, export.lstm, export.calibration.samples
        with run.bars.task(f"compiling the baseline as {resolved.file}", None):
            if key not in converted:
                converted[key] = convert(
                    run.model,
                    resolved.precision,
                    sample=take(run.dataset.x_test, slice(1)),
                    calibration=run.dataset.representative(export.calibration.samples),
                    lstm=export.lstm,
                )
            content = converted[key]
            compiled[resolved.file], _ = compile_file(
                content,
                audit(content, resolved.file),
                name=f"baseline-{resolved.file}",
                options=resolved.options,
            )
    return compiled


def measure_latency(run: Run) -> None:
    """Times the files of the run in turn, so that their ratios hold on a busy machine, too."""
    assert run.baseline is not None
    with run.bars.task("timing the files", None):
        times = interleaved(run.runners, [run.dataset.x_test] * len(run.runners))
    run.baseline = replace(run.baseline, latency_ms=times[0].ms())
    files = zip(run.files, times[1:], strict=True)
    run.files = [replace(file, latency_ms=timing.ms()) for file, timing in files]


def against(model: keras.Model, x: Samples) -> Callable[[keras.Model], float]:
    """What tells how long another model takes, as a share of what this one does.

    Both are float32 files that run in turn, one sample at a time, on one thread.
    """
    first = _float32(model, x)

    def ratio(other: keras.Model) -> float:
        return agreed(interleaved([first, _float32(other, x)], [x, x])[1].ratio())

    return ratio


def _float32(model: keras.Model, x: Samples) -> Runner:
    return Runner(convert(model, _FLOAT32, sample=take(x, slice(1))))
