"""A teacher in the loss of a model that somebody else trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from compresskit.distillation.distiller import Comparison, ask, compared
from compresskit.distillation.taps import Taps
from compresskit.labels import Labels
from compresskit.outputs import output_names


@final
class TaughtLoss:
    """What stands in `model.compute_loss`: `(1 - alpha)` of what it gave, and the teacher's.

    In evaluation the loss is the model's own. The teacher learns nothing: it is outside of the
    gradient, and none of its variables is the model's.

    Args:
        comparisons: without projections; the model's optimizer would not know their variables.
        alpha: the weight of the comparisons' sum.

    Attributes:
        figure: the mean of that sum, since its state was last reset.
        asked: whether a training step has been traced, or run, that asks for the loss.
    """

    def __init__(
        self,
        model: keras.Model,
        teacher: keras.Model,
        comparisons: Sequence[Comparison],
        alpha: float,
    ):
        self.model = model
        self.teacher = teacher
        self.comparisons = tuple(comparisons)
        self.alpha = alpha
        self.figure = keras.metrics.Mean(name="distillation_loss")
        self.asked = False
        self.taps = Taps(model, [each.student for each in comparisons if each.student])
        self.teacher_taps = Taps(teacher, [each.teacher for each in comparisons if each.teacher])
        self._own = model.compute_loss
        self._takes_training = model._compute_loss_has_training_arg
        model.compute_loss = self
        model._compute_loss_has_training_arg = True

    def close(self) -> None:
        """Gives the model its loss back."""
        del self.model.compute_loss
        self.model._compute_loss_has_training_arg = self._takes_training
        self.taps.close()
        self.teacher_taps.close()

    def __call__(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        more = {"training": training} if self._takes_training else {}
        own = self._own(x, y, y_pred, sample_weight, **more)
        if not training:
            return own
        self.asked = True
        taught = ask(self.teacher, self.teacher_taps, x)
        # Half floats have no room for the logarithm of a small share.
        taught = {name: tf.stop_gradient(_wide(value)) for name, value in taught.items()}
        answers = keras.tree.map_structure(_wide, y_pred)
        said = compared(self.comparisons, taught, self.taps, answers, _tokens(x))
        self.figure.update_state(said)
        # Keras scales a loss so that the sum over replicas is the mean.
        said = said / tf.distribute.get_strategy().num_replicas_in_sync
        return (1.0 - self.alpha) * own + self.alpha * ops.cast(said, own.dtype)


def labels_for(model: keras.Model, answers: Any) -> Labels:
    """Labels of the kind that the loss of a compiled model takes; their values say nothing.

    Args:
        answers: the model's, to a few samples.
    """
    flat = [np.asarray(each) for each in keras.tree.flatten(answers)]
    losses = keras.tree.flatten(model.loss)
    losses = losses * len(flat) if len(losses) == 1 else losses
    made = [_labels(_name(loss), each) for loss, each in zip(losses, flat, strict=True)]
    if len(made) == 1:
        return made[0]
    return dict(zip(output_names(model, answers), made, strict=True))


def _name(loss: Any) -> str:
    if isinstance(loss, str):
        return loss.replace("_", "").lower()
    return (getattr(loss, "__name__", None) or type(loss).__name__).replace("_", "").lower()


def _labels(loss: str, answers: np.ndarray) -> np.ndarray:
    if "crossentropy" not in loss:
        return np.full(answers.shape, 0.5)
    return np.zeros(answers.shape if "binary" in loss else answers.shape[:-1], np.int64)


def _wide(values: Any) -> Any:
    return ops.cast(values, "float32")


def _tokens(x: Any) -> Any:
    """Which tokens are no padding, if the samples are token ids."""
    if not ops.is_tensor(x) or not x.dtype.is_integer or len(x.shape) != 2:
        return None
    return ops.not_equal(x, 0)
