"""The model that trains: a student, beside what its teacher says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import keras
import tensorflow as tf
from keras import ops

from compresskit.distillation.taps import Place, Taps
from compresskit.outputs import output_names

# The keys of a batch's inputs: the samples, and what the teacher showed for them.
SAMPLES = "samples"
SHOWN = "shown"


@final
class Comparison:
    """One term of the loss: what of the teacher is held against what of the student.

    Args:
        loss: of the teacher's and the student's tensors.
        weight: its factor in the sum.
        teacher, student: the places to compare; None for the answers.
    """

    def __init__(
        self,
        loss: keras.distillation.DistillationLoss,
        weight: float,
        teacher: Place | None = None,
        student: Place | None = None,
    ):
        self.loss = loss
        self.weight = weight
        self.teacher = teacher
        self.student = student


@final
class Distiller(keras.distillation.Distiller):
    """Keras's, with features of any model, in one pass, and a teacher that may be remembered.

    Keras's own runs the student once more for its features, finds layers of functional models
    alone, has no maps of attention, asks the teacher anew at every step, and leaves out sample
    weights and the student's regularization.

    Args:
        teacher, student: of the same inputs and outputs; the teacher is frozen.
        comparisons: the terms of the loss against the teacher.
        alpha: the weight of their sum; the labels' loss has the rest.
        padding: whether the samples are token ids, of which 0 does not count.
        ids: the teacher's token id of each of the student's, or None if they are the same.
    """

    def __init__(
        self,
        teacher: keras.Model,
        student: keras.Model,
        comparisons: Sequence[Comparison],
        *,
        alpha: float,
        padding: bool = False,
        ids: Any = None,
    ):
        # Keras freezes the teacher, with all that is in it; it may be the user's.
        self._flags = [
            (each, each.trainable) for each in [*teacher._flatten_layers(), *teacher.variables]
        ]
        super().__init__(
            teacher,
            student,
            [each.loss for each in comparisons],
            [each.weight for each in comparisons],
            student_loss_weight=1.0 - alpha,
            name=student.name,
        )
        self.comparisons = tuple(comparisons)
        self.projections = [
            each.loss.projection
            for each in comparisons
            if getattr(each.loss, "projection", None) is not None
        ]
        self.padding = padding
        self.ids = ids
        self.taps = Taps(student, [each.student for each in comparisons if each.student])
        self.teacher_taps = Taps(teacher, [each.teacher for each in comparisons if each.teacher])

    def close(self) -> None:
        """Takes the taps off both models, and the teacher is no longer frozen."""
        self.taps.close()
        self.teacher_taps.close()
        # Layers before those that they hold, and variables last.
        for each, trainable in self._flags:
            each.trainable = trainable

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        """The student's answers."""
        return self.student(inputs[SAMPLES], training=training, **kwargs)

    def ask(self, samples: Any) -> dict[str, Any]:
        """What the teacher answers and shows.

        Returns:
            tensors by name: `answer0`, `answer1`, ... in their flat order, then the places.
        """
        given = samples if self.ids is None else ops.take(self.ids, samples, axis=0)
        return ask(self.teacher, self.teacher_taps, given)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The weighted sum of the labels' loss and the comparisons', a scalar.

        Args:
            sample_weight: shape (batch,); 0 for samples without a label.
        """
        compared = self._compared(x, y_pred) if self.student_loss_weight < 1.0 else 0.0
        labelled = self._labelled(y, y_pred, sample_weight) if self.student_loss_weight else 0.0
        total = self.student_loss_weight * labelled + (1.0 - self.student_loss_weight) * compared
        total = total + sum(ops.sum(loss) for loss in self.losses)
        self.student_loss_tracker.update_state(labelled)
        self.distillation_loss_tracker.update_state(compared)
        self.total_loss_tracker.update_state(total)
        # The gradients of replicas are summed up.
        return total / tf.distribute.get_strategy().num_replicas_in_sync

    def _compared(self, x: Any, y_pred: Any) -> Any:
        """The weighted sum of what is held against the teacher."""
        taught = x[SHOWN] if SHOWN in x else self.ask(x[SAMPLES])
        tokens = ops.not_equal(x[SAMPLES], 0) if self.padding else None
        return compared(self.comparisons, taught, self.taps, y_pred, tokens)

    def _labelled(self, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        """The loss of the samples that have labels."""

        def mean(loss: Any, label: Any, output: Any) -> Any:
            # A Loss takes the mean of what its `call` gives; a function gives it as it is.
            each = loss.call(label, output) if isinstance(loss, keras.Loss) else loss(label, output)
            each = ops.mean(ops.reshape(each, (ops.shape(each)[0], -1)), axis=-1)
            if sample_weight is None:
                return ops.mean(each)
            weights = ops.cast(ops.reshape(sample_weight, (-1,)), each.dtype)
            return ops.sum(each * weights) / ops.maximum(ops.sum(weights), 1.0)

        if not isinstance(y, dict):
            return mean(self._student_loss, y, y_pred)
        flat = zip(output_names(self.student, y_pred), keras.tree.flatten(y_pred), strict=True)
        return sum(mean(self._student_loss[name], y[name], output) for name, output in flat)


def ask(teacher: keras.Model, taps: Taps, samples: Any) -> dict[str, Any]:
    """What a teacher answers and shows; see `Distiller.ask`.

    Args:
        taps: on the teacher.
    """
    answers = keras.tree.flatten(teacher(samples, training=False))
    shown = {_name(place): value for place, value in taps.shown.items()}
    return {**{f"answer{index}": value for index, value in enumerate(answers)}, **shown}


def compared(
    comparisons: Sequence[Comparison], taught: Any, taps: Taps, y_pred: Any, tokens: Any
) -> Any:
    """The weighted sum of what is held against the teacher, a scalar.

    Args:
        taught: what the teacher answered and showed.
        taps: on the student, which has just answered `y_pred`.
        tokens: which tokens count, shape (batch, steps), or None.
    """
    total: Any = 0.0
    for each in comparisons:
        if each.student is None or each.teacher is None:
            flat = keras.tree.flatten(y_pred)
            answers = [taught[f"answer{index}"] for index in range(len(flat))]
            value = each.loss.compute_loss(answers, flat)
        else:
            value = each.loss.compute_loss(
                taught[_name(each.teacher)], taps.shown[each.student], tokens=tokens
            )
        total = total + each.weight * value
    return total


def _name(place: Place) -> str:
    return ":".join(place)
