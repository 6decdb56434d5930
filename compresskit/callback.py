"""Compression inside the user's own `fit`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, final

import keras
import numpy as np

from compresskit import checkpoint
from compresskit.course import state as states
from compresskit.course.check import Stages, problems, read_stages, sample_for, too_few
from compresskit.course.course import Course
from compresskit.course.export import ended, export_course
from compresskit.course.records import Compressed
from compresskit.errors import Problem, RecipeError, TrainingError
from compresskit.inspection import FileReport
from compresskit.ranges import Range
from compresskit.resolution import resolve, training_grid

# Where a model keeps the course that is on it: an interrupted `fit` tells no callback.
_OPEN = "_compresskit_course"


@final
class CompressionCallback(keras.callbacks.Callback):
    """Takes a model through the stages of a recipe while `fit` trains it.

    ```python
    callback = ck.CompressionCallback([{"type": "prune", "sparsity": 0.8, "epochs": 3}])
    model.fit(x, y, epochs=3, callbacks=[callback])
    callback.export(target="edge-cpu", precision="dynamic", path="model.tflite")
    ```

    The stages follow each other, each for its own `epochs` of this `fit`; in epochs after the
    last one, what they hold goes on being held. Optimizer, loss, metrics and batches are those
    of the model and of `fit`. When `fit` ends the model is plain Keras.

    The logs of each epoch get `sparsity` (of the weights that are pruned), `distinct_values` (the
    most of any weight that is clustered), `quantization_error` (of the weights, as a share of
    their root mean square) and `distillation_loss`, each if a stage is about it. Loggers see
    them if they come later in the list of callbacks.

    Args:
        stages: a recipe, the path of one, or its `stages` as plain data. What a recipe says of
            model, data, training and baseline is not read.
        target, precision: what the model is meant for, in place of the recipe's exports; the
            grid of weights is theirs.
        sample: inputs as the model takes them, shape (n, ...); of a model that declares no
            shape a few are needed, and an integer export takes a hundred or more.
        teacher: a trained model that takes the place of `teacher: baseline`.
        backup_dir: where the state of each epoch is kept, beside what
            `keras.callbacks.BackupAndRestore` keeps; a `fit` that this callback brings back
            goes on with it. It is emptied when `fit` ends.

    Raises:
        RecipeError, TargetError: the stages, or the target, are wrong.
    """

    def __init__(
        self,
        stages: Stages,
        *,
        target: str | None = None,
        precision: str | None = None,
        sample: Any = None,
        teacher: keras.Model | None = None,
        backup_dir: str | Path | None = None,
    ):
        super().__init__()
        self.recipe, self._locate = read_stages(stages, target, precision)
        self._exports, _ = resolve(self.recipe, self._locate)
        self._sample = sample
        self._teacher = teacher
        self._folder = None if backup_dir is None else Path(backup_dir)
        self._course: Course | None = None
        self._first: int | None = None
        self._epoch = 0

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Activation ranges that training learned."""
        return ended(self._course).ranges

    def result(self) -> Compressed:
        """What came out of `fit`.

        Raises:
            ModelError: it has not ended yet.
        """
        return ended(self._course).result()

    def export(
        self,
        *,
        target: str | None = None,
        path: str | Path,
        precision: str | None = None,
        representative_data: Any = None,
        compress: Literal["none", "lut"] = "none",
    ) -> FileReport:
        """Writes the model to a .tflite file that keeps all that the stages promised.

        Args:
            target, precision: by default the first that the stages were trained for.
            representative_data: by default the sample.

        The rest is as in `compresskit.export`.

        Raises:
            ConversionError: also if the file breaks a promise; then it is not written.
        """
        data = self._sample if representative_data is None else representative_data
        return export_course(
            self._course,
            self._exports,
            target=target,
            path=path,
            precision=precision,
            representative_data=data,
            compress=compress,
        )

    def detach(self) -> None:
        """Makes the model plain after a `fit` that was interrupted; else nothing is to be done."""
        if self._course is not None:
            self._course.detach()
            self._course.model.__dict__.pop(_OPEN, None)

    def on_train_begin(self, logs: Any = None) -> None:
        """
        Raises:
            RecipeError: something stands against the stages; all that is known of it.
        """
        left = self.model.__dict__.pop(_OPEN, None)
        if left is not None:
            left.detach()
        self._course, self._first = None, None
        sample = sample_for(self.model, self._sample)
        found = problems(
            self.recipe,
            self.model,
            locate=self._locate,
            steps=self.params["steps"],
            epochs=self.params["epochs"],
            sample=sample,
            teacher=self._teacher,
        )
        if found:
            raise RecipeError(found)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._course is None:
            self._begin(epoch)
        assert self._course is not None
        assert self._first is not None
        self._epoch = epoch - self._first
        self._course.epoch_begin(self._epoch)

    def _begin(self, epoch: int) -> None:
        """Only now is it known with which epoch `fit` begins, and all weights are back."""
        state = self._saved(epoch)
        self._first = epoch if state is None else int(state.pop("first"))
        short = too_few(self.recipe, self.params["epochs"] - self._first)
        if short:
            raise RecipeError(short)
        if state is None and self._folder is not None:
            states.clear(self._folder)
        self._course = Course(
            self.model,
            self.recipe,
            grid=training_grid(self._exports),
            steps_per_epoch=self.params["steps"],
            sample=sample_for(self.model, self._sample),
            teacher=self._teacher,
            folder=self._folder,
        )
        # Not an attribute: Keras would take what is in it for layers of the model.
        self.model.__dict__[_OPEN] = self._course
        if state is not None:
            self._course.resume(epoch - self._first, state)

    def _saved(self, epoch: int) -> Any:
        """The state that belongs to the weights of an epoch, if these were brought back."""
        if not self.model._initial_epoch:
            return None
        known = [] if self._folder is None else checkpoint.saved(self._folder)
        if epoch in known:
            assert self._folder is not None
            return checkpoint.load(self._folder, epoch)
        raise TrainingError(
            Problem(
                where=f"backup_dir {self._folder}" if self._folder else "CompressionCallback",
                found=f"weights of epoch {epoch}, which BackupAndRestore has brought back, and "
                + (f"states of epochs {', '.join(map(str, known))}" if known else "no state"),
                expected="the masks, clusters and ranges of that time",
                fix="give `backup_dir` from the beginning on; to start anew, remove both folders",
            )
        )

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        assert self._course is not None
        self._course.batch_begin(batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        assert self._course is not None
        self._course.batch_end(self._epoch, batch, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        if self._course is not None:
            self._course.test_begin()

    def on_test_end(self, logs: Any = None) -> None:
        if self._course is not None:
            self._course.test_end()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        assert self._course is not None
        figures = self._course.epoch_end(self._epoch)
        if logs is not None:
            logs.update(figures)
        if self._folder is not None:
            first = np.array(self._first)
            checkpoint.save(self._folder, epoch + 1, {"first": first, **self._course.state()})

    def on_train_end(self, logs: Any = None) -> None:
        course = self._course
        if course is None:
            return
        self.detach()
        if self._folder is not None:
            states.clear(self._folder)
        if self._epoch + 1 < course.epochs:
            warnings.warn(
                f"training ended after {self._epoch + 1} of the {course.epochs} epochs that the "
                "stages take: `result()` says what is missing",
                stacklevel=2,
            )
