"""Compression inside a training loop that the user wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, final

import keras
import tensorflow as tf

from compresskit.course.check import Stages, problems, read_stages, sample_for
from compresskit.course.course import Course
from compresskit.course.export import ended, export_course
from compresskit.course.records import Compressed
from compresskit.errors import RecipeError
from compresskit.inspection import FileReport
from compresskit.resolution import Resolved, resolve, training_grid


@contextmanager
def compressing(
    model: keras.Model,
    stages: Stages,
    *,
    steps_per_epoch: int,
    target: str | None = None,
    precision: str | None = None,
    sample: Any = None,
    teacher: keras.Model | None = None,
) -> Iterator[LoopRun]:
    """Takes a model through the stages of a recipe while a loop of your own trains it.

    ```python
    with ck.compressing(model, [{"type": "prune", "sparsity": 0.8}], steps_per_epoch=100) as run:
        step = run.function(train_step)
        for x, y in batches:
            step(x, y)
            run.step()
    ```

    After each update of the weights, by a Keras optimizer, comes `run.step()`. At the end of the
    block the model is plain Keras, whether it ended well or not.

    Args:
        model: built.
        steps_per_epoch: how many steps are an epoch of a stage.

    The rest is as in `CompressionCallback`.

    Raises:
        RecipeError, TargetError: before anything is put on the model, with every problem.
        TrainingError: a step does not keep what a stage holds, or weights are not numbers.
    """
    recipe, locate = read_stages(stages, target, precision)
    sample = sample_for(model, sample)
    found = problems(
        recipe,
        model,
        locate=locate,
        steps=steps_per_epoch,
        epochs=None,
        sample=sample,
        teacher=teacher,
    )
    if found:
        raise RecipeError(found)
    exports, _ = resolve(recipe, locate)
    course = Course(
        model,
        recipe,
        grid=training_grid(exports),
        steps_per_epoch=steps_per_epoch,
        sample=sample,
        teacher=teacher,
    )
    try:
        yield LoopRun(course, exports, steps_per_epoch, sample)
    finally:
        course.detach()


@final
class LoopRun:
    """The stages of a loop, driven by its steps.

    Attributes:
        figures: those of `CompressionCallback`'s logs, as of the last whole epoch.
    """

    def __init__(self, course: Course, exports: list[Resolved], steps_per_epoch: int, sample: Any):
        self.figures: dict[str, float] = {}
        self._course = course
        self._exports = exports
        self._sample = sample
        self._steps = steps_per_epoch
        self._done = 0
        self._functions: list[_Traced] = []
        self._begin()

    def step(self, loss: Any = None) -> None:
        """One batch has been trained.

        Args:
            loss: of that batch, a scalar, to stop at one that is not a number.

        Raises:
            TrainingError: see `compressing`.
        """
        epoch, batch = divmod(self._done, self._steps)
        self._course.batch_end(epoch, batch, {} if loss is None else {"loss": loss})
        self._done += 1
        if batch + 1 == self._steps:
            self.figures = self._course.epoch_end(epoch)
        self._begin()

    def function(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """`tf.function` of a step, traced again when a stage begins or ends.

        A function that was traced before does not see what a later stage puts on the model.
        """
        made = _Traced(step)
        self._functions.append(made)
        return made

    def result(self) -> Compressed:
        """What came out, after the block."""
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
        """As `CompressionCallback.export`, after the block."""
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

    def _begin(self) -> None:
        epoch, batch = divmod(self._done, self._steps)
        if batch == 0 and self._course.epoch_begin(epoch):
            for each in self._functions:
                each.forget()
        self._course.batch_begin(batch)


@final
class _Traced:
    """A `tf.function` that can be made anew."""

    def __init__(self, step: Callable[..., Any]):
        self._step = step
        self._function = tf.function(step)

    def forget(self) -> None:
        """The next call traces again."""
        self._function = tf.function(self._step)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)
