"""The stages of a recipe at work on a model that somebody else trains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, final

import keras
import numpy as np

from compresskit import catalog, ledger
from compresskit.course.figures import chosen, figures, unheard
from compresskit.course.records import Compressed, StageRecord
from compresskit.course.state import kept_copy
from compresskit.distillation.in_loss import TaughtLoss, labels_for
from compresskit.distillation.teaching import comparisons
from compresskit.errors import Problem, TrainingError
from compresskit.holds import enforce, holds_of
from compresskit.layers import layer_reports, sparsity
from compresskit.ledger import Kept
from compresskit.method import Attached, Length, State
from compresskit.ranges import Range
from compresskit.recipe import Recipe
from compresskit.recipe_distill import Learning
from compresskit.report.records import Promise
from compresskit.samples import take
from compresskit.stages import Stage
from compresskit.target import Grid
from compresskit.tflite.lower import predictions


@final
class Course:
    """Puts one stage after the other on a model, each for its own epochs.

    It is told what happens in the loop, as a Keras callback is, in epochs from 0 on. What a
    stage holds is held until `detach`.

    Args:
        model: built; changed in place.
        grid: the integer grid of the kernels that it is meant for.
        steps_per_epoch: batches.
        sample: a few inputs as the model takes them, or None if no stage needs any.
        teacher: in place of the model as it is now, or None.
        folder: where copies that teach are kept for a run that continues this one, or None.

    Attributes:
        attached: the stages that have begun, and what they put on the model.
        ranges: activation ranges; empty before `detach`.
    """

    def __init__(
        self,
        model: keras.Model,
        recipe: Recipe,
        *,
        grid: Grid,
        steps_per_epoch: int,
        sample: Any = None,
        teacher: keras.Model | None = None,
        folder: Path | None = None,
    ):
        self.model = model
        self.stages: tuple[Stage, ...] = recipe.stages
        self.attached: list[tuple[Stage, Attached]] = []
        self.ranges: tuple[Range, ...] = ()
        self._grid = grid
        self._steps = steps_per_epoch
        self._sample = sample
        self._folder = folder
        self._taught: TaughtLoss | None = None
        self._open = False  # whether the stage that began last is still trained
        self._records: list[StageRecord] = []
        self._promises: list[Promise] = []
        self._kept: list[Kept] = []
        self._good = model.get_weights()
        self._chosen = chosen(model, recipe)
        self._original = teacher
        wanted = any(_teacher(stage) == "baseline" for stage in self.stages)
        if teacher is None and wanted:
            with self._scope():
                self._original = kept_copy(model, folder, "baseline")

    # What happens in the loop.

    def epoch_begin(self, epoch: int) -> bool:
        """
        Returns:
            Whether what was traced before is out of date: a stage has ended or begins.
        """
        changed = epoch in (self._start(len(self.attached)), self.epochs)
        if len(self.attached) < len(self.stages) and epoch == self._start(len(self.attached)):
            self._enter(len(self.attached))
        if self._taught is not None:
            self._taught.figure.reset_state()
        for callback in self._callbacks():
            callback.on_epoch_begin(epoch - self._start(len(self.attached) - 1))
        return changed

    def batch_begin(self, batch: int) -> None:
        for callback in self._callbacks():
            callback.on_train_batch_begin(batch)

    def batch_end(self, epoch: int, batch: int, logs: dict[str, Any] | None = None) -> None:
        """
        Raises:
            TrainingError: the loss is not a number, or the loop goes past what the stage does;
                the model is plain again, with the weights of the last good epoch.
        """
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            self._fail(f"a loss of {loss} in epoch {epoch + 1}")
        for callback in self._callbacks():
            callback.on_train_batch_end(batch, logs)
        if self._open and epoch == self._start(len(self.attached) - 1) and batch + 1 >= self._steps:
            found = unheard(*self.attached[-1], self._chosen, self._taught)
            if found is not None:
                self._fail(
                    found,
                    expected="a step that asks `model.compute_loss`, and updates by a Keras "
                    "optimizer",
                    fix="in a loop of your own wrap the step in `run.function`, which traces it "
                    "again",
                )

    def test_begin(self) -> None:
        for callback in self._callbacks():
            callback.on_test_begin()

    def test_end(self) -> None:
        for callback in self._callbacks():
            callback.on_test_end()

    def epoch_end(self, epoch: int) -> dict[str, float]:
        """Figures of the model as it is now, by name.

        Raises:
            TrainingError: weights are not numbers; see `batch_end`.
        """
        if not all(np.isfinite(value.numpy()).all() for value in self.model.trainable_variables):
            self._fail("weights that are infinite or not a number")
        if self._taught is not None:
            taught = {"distillation_loss": float(self._taught.figure.result())}
        else:
            taught = {}
        for callback in self._callbacks():
            callback.on_epoch_end(epoch - self._start(len(self.attached) - 1))
        if self._open and epoch + 1 == self._start(len(self.attached)):
            self._leave()
        self._good = self.model.get_weights()
        if any(_teacher(stage) is not None for stage in self.stages):
            # A History wants each figure in each epoch.
            taught.setdefault("distillation_loss", 0.0)
        return {**figures(self._chosen, self._grid), **taught}

    def detach(self) -> None:
        """Makes the model plain Keras, with what was trained in its variables. Once is enough."""
        if not self.attached:
            return
        attached, self.attached = self.attached, []
        self._close_loss()
        if self._open:
            # Not `on_train_end`, which would go to the end of a schedule at once.
            self._open = False
            for variable in self.model.trainable_variables:
                if holds_of(variable):
                    enforce(variable)
        trained = None if self._sample is None else predictions(self.model, self._sample)
        for _, each in attached:
            self.ranges += each.detach().get("ranges", ())
        self._retrace()
        self._kept = ledger.baked(self._kept, self.model)
        if trained is not None:
            plain = predictions(self.model, self._sample, self.ranges)
            self._promises.append(ledger.same_answers(trained, plain, attached[-1][0].name))

    def result(self) -> Compressed:
        """What came out; of a model that is detached."""
        done = [
            Promise(
                what=f"{stage.name} is trained for its epochs",
                stage=stage.name,
                expected=stage.epochs,
                measured=stage.epochs if index < len(self._records) else "fewer",
                kept=index < len(self._records),
            )
            for index, stage in enumerate(self.stages)
        ]
        now = ledger.still_true(self._kept, self.model, "training")
        return Compressed(
            model=self.model,
            stages=tuple(self._records),
            promises=(*done, *self._promises, *now),
            ranges=self.ranges,
        )

    @property
    def kept(self) -> tuple[Kept, ...]:
        """What the stages answer for, of a model that is detached."""
        return tuple(self._kept)

    @property
    def epochs(self) -> int:
        """How many all stages take together."""
        return self._start(len(self.stages))

    # What another run needs to go on.

    def state(self) -> State:
        """Beside the model's variables and its optimizer's, all that has been learned so far."""
        return {
            f"{index}/{name}": values
            for index, (_, attached) in enumerate(self.attached)
            for name, values in attached.state().items()
        }

    def resume(self, epoch: int, state: State) -> None:
        """Puts the stages before an epoch back on a model that has the weights of that time."""
        weights = self.model.get_weights()
        while len(self.attached) < len(self.stages) and self._start(len(self.attached)) < epoch:
            index = len(self.attached)
            self._enter(index)
            self._restore(index, state)
            # To attach is to hold at once: by what was not restored yet.
            self.model.set_weights(weights)
            if self._start(index + 1) <= epoch:
                self._leave()
        # What a stage learned may have gone on changing in later ones.
        for index in range(len(self.attached)):
            self._restore(index, state)
        self.model.set_weights(weights)
        self._good = weights
        self._retrace()

    def _restore(self, index: int, state: State) -> None:
        mine = {
            name.partition("/")[2]: values
            for name, values in state.items()
            if name.startswith(f"{index}/")
        }
        self.attached[index][1].restore(mine)

    def _start(self, index: int) -> int:
        """The first epoch of a stage."""
        return sum(stage.epochs for stage in self.stages[:index])

    def _callbacks(self) -> tuple[keras.callbacks.Callback, ...]:
        return self.attached[-1][1].callbacks if self._open else ()

    def _scope(self) -> Any:
        """What a technique makes must live on all replicas."""
        return self.model.distribute_strategy.scope()

    def _enter(self, index: int) -> None:
        stage = self.stages[index]
        with self._scope():
            learning = stage.learning
            if learning is not None and learning.alpha:
                teacher = self._original
                if learning.teacher == "previous":
                    teacher = kept_copy(self.model, self._folder, f"previous-{index}")
                self._teach(stage, learning, teacher)
            attached = catalog.methods.get(stage.type)(stage).attach(
                self.model,
                self._sample,
                self._grid,
                Length(epochs=stage.epochs, steps_per_epoch=self._steps),
            )
        self.attached.append((stage, attached))
        self._open = True
        for callback in attached.callbacks:
            callback.set_model(self.model)
            callback.set_params({"epochs": stage.epochs, "steps": self._steps})
            callback.on_train_begin()
        self._retrace()

    def _teach(self, stage: Stage, learning: Learning, teacher: Any) -> None:
        few = take(self._sample, slice(2))
        answers = self.model(few, training=False)
        labels = labels_for(self.model, answers)
        terms = comparisons(learning, teacher, self.model, few, labels, where=stage.name)
        self._taught = TaughtLoss(self.model, teacher, terms, learning.alpha)

    def _leave(self) -> None:
        for callback in self._callbacks():
            callback.on_train_end()
        self._close_loss()
        self._record()
        self._retrace()

    def _record(self) -> None:
        """Writes down what the stage that has just ended made."""
        self._open = False
        stage, attached = self.attached[-1]
        layers = layer_reports(self.model, attached)
        touched = bool(attached.touched)
        self._promises += ledger.still_true(self._kept, self.model, stage.name)
        self._kept += ledger.kept_by(stage, attached, layers, self.model, self._grid)
        self._records.append(
            StageRecord(
                name=stage.name,
                type=stage.type,
                epochs=stage.epochs,
                sparsity=sparsity(layers) if touched else None,
                layers=layers,
            )
        )

    def _retrace(self) -> None:
        """Lets the loop see what has changed on the model."""
        if self.model.compiled:
            self.model.make_train_function(force=True)
        # Made anew when they are asked for.
        self.model.test_function = None
        self.model.predict_function = None

    def _close_loss(self) -> None:
        if self._taught is not None:
            self._taught.close()
            self._taught = None

    def _fail(
        self,
        found: str,
        expected: str = "a finite loss, and finite weights",
        fix: str = "try a lower learning_rate",
    ) -> None:
        where = self.attached[-1][0].name if self.attached else "training"
        self.model.stop_training = True
        self.model.set_weights(self._good)
        self.detach()
        raise TrainingError(Problem(where=where, found=found, expected=expected, fix=fix))


def _teacher(stage: Stage) -> Any:
    """Who teaches in a stage, or None."""
    learning = stage.learning
    return learning.teacher if learning is not None and learning.alpha else None
