"""What is compared between a student and its teacher.

On top of `keras.distillation`, whose losses take logits of one width: answers may be
probabilities, widths may differ, and padding does not count.
"""

from __future__ import annotations

from typing import Any, final

import keras
import tensorflow as tf
from keras import ops

from compresskit.metrics import Answers


@final
class LogitsLoss(keras.distillation.LogitsDistillation):
    """The softened answers of the teacher.

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network",
    2015, https://arxiv.org/abs/1503.02531: the Kullback-Leibler divergence at a temperature,
    times its square. Numbers that are no classes are compared by their squared difference.

    Args:
        temperature: divides the logits of both.
        teacher, student: how each output of each is read, in their flat order.
    """

    def __init__(self, temperature: float, teacher: list[Answers], student: list[Answers]):
        # An instance: by the name Keras takes a function, for which it skips the softmax.
        super().__init__(temperature, loss=keras.losses.KLDivergence())
        self.teacher = teacher
        self.student = student

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Any:
        flat = zip(
            keras.tree.flatten(teacher_outputs),
            keras.tree.flatten(student_outputs),
            self.teacher,
            self.student,
            strict=True,
        )
        losses = []
        for taught, learned, one, other in flat:
            if one == "numbers":
                losses.append(ops.mean(ops.square(taught - learned)))
            else:
                said = super().compute_loss(logits(taught, one), logits(learned, other))
                # Keras has divided it by the replicas; who adds it to a loss does so, too.
                losses.append(said * tf.distribute.get_strategy().num_replicas_in_sync)
        return sum(losses[1:], losses[0])


def logits(outputs: Any, answers: Answers) -> Any:
    """Logits of any answers; of yes-or-no questions two each, on a new last axis."""
    tiny = keras.config.epsilon()
    if answers == "probabilities":
        return ops.log(ops.clip(outputs, tiny, 1.0))
    if answers == "shares":
        yes = ops.clip(outputs, tiny, 1.0 - tiny)
        outputs = ops.log(yes) - ops.log1p(-yes)
    if answers in ("shares", "scores"):
        return ops.stack([outputs, ops.zeros_like(outputs)], axis=-1)
    return outputs


@final
class FeatureLoss(keras.distillation.FeatureDistillation):
    """Hidden states, feature maps or attention maps.

    Sources: X. Jiao et al., "TinyBERT", 2019, https://arxiv.org/abs/1909.10351 (hidden states
    through a learned projection, attention maps, squared error); V. Sanh et al., "DistilBERT",
    2019, https://arxiv.org/abs/1910.01108 (cosine); W. Wang et al., "MiniLM", 2020,
    https://arxiv.org/abs/2002.10957 (divergence of attention).

    Args:
        loss: `mse`, `cosine` or `kl`, over the last axis.
        projection: a layer for the student's tensor, or None.
        heads: whether the second axis is of attention heads; if their numbers differ, their
            means are compared.
    """

    def __init__(self, loss: str, projection: Any = None, *, heads: bool = False):
        super().__init__(loss={"mse": "mse", "cosine": "cosine_similarity", "kl": "kld"}[loss])
        self.cosine = loss == "cosine"
        self.projection = projection
        self.heads = heads

    def compute_loss(
        self, teacher_outputs: Any, student_outputs: Any, *, tokens: Any = None, **kwargs: Any
    ) -> Any:
        """The mean loss, a scalar.

        Args:
            teacher_outputs, student_outputs: shape (batch, ..., width); of attention (batch,
                heads, queries, keys).
            tokens: shape (batch, steps), 0 for padding, 1 for what counts; None if all does.
        """
        tokens = None if tokens is None else ops.convert_to_tensor(tokens)
        if self.heads and teacher_outputs.shape[1] != student_outputs.shape[1]:
            teacher_outputs = ops.mean(teacher_outputs, axis=1, keepdims=True)
            student_outputs = ops.mean(student_outputs, axis=1, keepdims=True)
        if self.projection is not None:
            student_outputs = self.projection(student_outputs)
        losses = self.loss(teacher_outputs, student_outputs)
        losses = losses + 1.0 if self.cosine else losses
        if tokens is None or tokens.shape[1] != losses.shape[-1]:
            return ops.mean(losses)
        tokens = ops.cast(tokens, losses.dtype)
        # Steps come last here: (batch, steps), or (batch, heads, steps).
        while len(tokens.shape) < len(losses.shape):
            tokens = ops.expand_dims(tokens, 1)
        tokens = ops.broadcast_to(tokens, ops.shape(losses))
        return ops.sum(losses * tokens) / ops.maximum(ops.sum(tokens), 1.0)
