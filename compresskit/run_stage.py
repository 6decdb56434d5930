"""One stage of a run: trained, measured, held against its gate and, if it fails, undone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from compresskit import ledger, native, shrinking
from compresskit.data import Dataset
from compresskit.errors import TrainingError
from compresskit.layers import layer_reports, sparsity
from compresskit.method import Attached, State
from compresskit.planning import describe
from compresskit.report.records import Promise, StageReport
from compresskit.resolution import training_grid
from compresskit.run import Run
from compresskit.stages import Stage
from compresskit.target import Grid
from compresskit.tfmot import engine as tfmot

# Largest mean difference that scaling channels up and down again may make.
_EQUALIZED_TOLERANCE = 1e-4


def run_stage(run: Run, index: int) -> bool:
    """Trains one stage. Returns False if its gate ends the run."""
    stage = run.recipe.stages[index]
    started = time.perf_counter() + run.checkpoints.earlier
    before = _Before(
        model=run.model,
        dataset=run.dataset,
        loss=run.loss,
        weights=run.model.get_weights(),
        states=[each.state() for _, each in run.attached],
    )
    try:
        made = native.train(run, index) if run.session is None else tfmot.train(run, index)
        attached, smaller = made.attached, made.smaller
        shrunk = [] if smaller is None else shrinking.enter(run, stage, smaller)
        run.trained = run.answers() if made.answers is None else made.answers
        measured = run.measure(run.trained, stage.name)
    except TrainingError:
        # What the stage holds may have been made of weights that were no numbers any more.
        _undo(run, index, before)
        raise
    layers = layer_reports(run.model, attached)
    parameters = run.model.count_params()
    verdict = _gate(run, stage, measured)
    if verdict == "rollback":
        _undo(run, index, before)
        if run.session is not None:
            run.session.quantized = False
    else:
        run.promises += (
            shrunk
            + _unchanged(stage, attached)
            + ledger.still_true(run.kept, run.model, stage.name)
        )
        run.kept += ledger.kept_by(stage, attached, layers, run.model, _grid(run))
    run.stages.append(
        StageReport(
            name=stage.name,
            type=stage.type,
            metrics=measured,
            sparsity=sparsity(layers),
            seconds=time.perf_counter() + run.checkpoints.earlier - started,
            layers=layers,
            history=made.history,
            rolled_back=verdict == "rollback",
            parameters=parameters,
            teacher=describe(stage.learning.teacher) if stage.learning else None,
            units=smaller.units if smaller else {},
            multiply_adds=smaller.multiply_adds if smaller else None,
        )
    )
    return verdict != "stop"


@dataclass(frozen=True, kw_only=True)
class _Before:
    """The model before a stage, and what earlier stages had learned beside its weights."""

    model: keras.Model
    dataset: Dataset
    loss: Any
    weights: list[np.ndarray]
    states: list[State]


def _undo(run: Run, index: int, before: _Before) -> None:
    """Goes back to the model from before a stage."""
    if run.attached and run.attached[-1][0] is run.recipe.stages[index]:
        run.attached.pop()[1].detach()
    run.model, run.dataset, run.loss = before.model, before.dataset, before.loss
    for (_, attached), state in zip(run.attached, before.states, strict=True):
        attached.restore(state)
    run.model.set_weights(before.weights)
    run.trained = None


def _unchanged(stage: Stage, attached: Attached) -> list[Promise]:
    """That a stage has left the answers alone, where it says that it does."""
    if attached.difference is None:
        return []
    return [
        Promise(
            what="mean difference of the outputs after equalization from those before",
            stage=stage.name,
            expected=_EQUALIZED_TOLERANCE,
            measured=attached.difference,
            kept=attached.difference <= _EQUALIZED_TOLERANCE,
        )
    ]


def _grid(run: Run) -> Grid | None:
    """The grid behind whose scales values are shared; TFMOT shares floats as they are."""
    return training_grid(run.exports) if run.session is None else None


def _gate(run: Run, stage: Stage, measured: dict[str, float]) -> str:
    """Holds a stage against its gate: `pass`, or what the gate does about a failure.

    A stage that is rolled back breaks no promise: the model does not contain it.
    """
    if stage.gate is None:
        return "pass"
    drop = run.drop(measured)
    # Differences of shares of samples: 0.005 may come out a hair above itself.
    failed = drop > stage.gate.max_drop + 1e-9
    if not failed or stage.gate.on_fail == "stop":
        run.promises.append(
            Promise(
                what=f"stage {stage.name} loses at most so much of {run.metric}",
                stage=stage.name,
                expected=stage.gate.max_drop,
                measured=drop,
                kept=not failed,
            )
        )
    return stage.gate.on_fail if failed else "pass"
