"""The native engine: a stage is attached to the Keras 3 model and trained with its own `fit`."""

from __future__ import annotations

from typing import Any

from compresskit import catalog, classroom, shrinking
from compresskit.method import Length
from compresskit.preparation import batch_size
from compresskit.resolution import training_grid
from compresskit.run import Run
from compresskit.samples import count, take
from compresskit.stages import Stage
from compresskit.stopping import early_stopping
from compresskit.trained import Trained
from compresskit.training import fit, learn


def settings_of(run: Run, index: int) -> dict[str, Any]:
    """How a stage trains: the stage's own settings, or the recipe's defaults."""
    stage, defaults = run.recipe.stages[index], run.recipe.defaults
    return {
        "optimizer": stage.optimizer or defaults.optimizer,
        "learning_rate": stage.learning_rate or defaults.learning_rate,
        "learning_rate_schedule": stage.learning_rate_schedule or defaults.learning_rate_schedule,
        "batch_size": batch_size(run.recipe, stage),
        "epochs": stage.epochs,
        # A stage's data order does not depend on how many batches others drew.
        "seed": run.seed + 1 + index,
    }


def length_of(run: Run, stage: Stage, samples: int) -> Length:
    """How long a stage trains on so many samples."""
    steps = -(-samples // batch_size(run.recipe, stage))
    return Length(epochs=stage.epochs, steps_per_epoch=steps)


def train(run: Run, index: int) -> Trained:
    """Trains a stage; what it attached is in `run.attached`, too."""
    stage = run.recipe.stages[index]
    lesson, teacher = run.lessons[index], classroom.teacher(run, index)
    if lesson is not None and teacher is not None:
        classroom.enter(run, lesson, teacher)
    method = catalog.methods.get(stage.type)(stage)
    length = length_of(run, stage, lesson.samples if lesson else count(run.dataset.x_train))
    attached = method.attach(
        run.model,
        take(run.dataset.x_train, slice(2)),
        training_grid(run.exports),
        length,
        shrinking.examples(run),
    )
    run.attached.append((stage, attached))
    stopping = early_stopping(stage, length)
    checkpoint = None
    if stage.epochs:
        every = [each for _, each in run.attached]
        checkpoint = run.checkpoints.training(
            index + 1, stage.name, stage.epochs, attached=every, followed=stopping
        )
    settings = {
        **settings_of(run, index),
        "loss": run.loss,
        "bars": run.bars,
        "where": stage.name,
        "callbacks": [*attached.callbacks, *stopping],
        "checkpoint": checkpoint,
    }
    history: dict[str, list[float]] = {}
    if lesson is not None and teacher is not None:
        history = learn(run.model, teacher, lesson, **settings)
    elif stage.epochs:
        history = fit(run.model, run.dataset, **settings)
    smaller = None if attached.smaller is None else attached.smaller()
    return Trained(attached=attached, history=history, smaller=smaller)
