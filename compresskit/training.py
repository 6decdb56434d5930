"""Trains a model for one stage with Keras's own `fit`."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import keras
import numpy as np
import tensorflow as tf

from compresskit.checkpoint import Checkpoint
from compresskit.data import Dataset
from compresskit.distillation.distiller import Distiller
from compresskit.distillation.feed import Feed, remember
from compresskit.distillation.teaching import comparisons
from compresskit.errors import Problem, TrainingError
from compresskit.holds import enforce, holds_of
from compresskit.labels import are_classes
from compresskit.lessons import Lesson
from compresskit.metrics import reading
from compresskit.outputs import output_names
from compresskit.progress import Bars, Update
from compresskit.samples import count, joined, take
from compresskit.stopping import LastGood


def loss_for(name: str, model: keras.Model, dataset: Dataset) -> Any:
    """The loss that a model trains with.

    Args:
        name: a Keras loss, or `auto`: the one the model was compiled with or, if it
            was not, the one that its task calls for.
    """
    if name != "auto":
        return name
    if model.compiled and model.loss is not None:
        return model.loss
    few = model(take(dataset.x_train, slice(64)), training=False)
    if isinstance(dataset.y_train, dict):
        flat = zip(output_names(model, few), keras.tree.flatten(few), strict=True)
        return {name: _loss(np.asarray(each), dataset.y_train[name]) for name, each in flat}
    return _loss(np.asarray(keras.tree.flatten(few)[0]), dataset.y_train)


def _loss(outputs: np.ndarray, labels: np.ndarray) -> Any:
    kind = reading(outputs, labels)
    if kind in ("probabilities", "logits"):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=kind == "logits")
    if kind in ("shares", "scores"):
        return keras.losses.BinaryCrossentropy(from_logits=kind == "scores")
    return "mean_squared_error"


def learn(
    model: keras.Model,
    teacher: keras.Model,
    lesson: Lesson,
    *,
    batch_size: int,
    seed: int,
    bars: Bars,
    where: str,
    checkpoint: Checkpoint | None = None,
    **settings: Any,
) -> dict[str, list[float]]:
    """Trains a model by what a teacher says, too. The rest is as in `fit`.

    Raises:
        TrainingError: also if the disk has no room for what the teacher shows.
    """
    keras.utils.set_random_seed(seed)
    x, dataset = lesson.dataset.x_train, lesson.dataset
    few = take(x, slice(2))
    terms = []
    # With nothing to say, the teacher is not even asked.
    if lesson.learning.alpha:
        terms = comparisons(
            lesson.learning, teacher, model, few, dataset.y_train, where=where, ids=lesson.ids
        )
    distiller = Distiller(
        teacher,
        model,
        terms,
        alpha=lesson.learning.alpha,
        padding=dataset.tokenizer is not None,
        ids=lesson.ids,
    )
    if lesson.transfer is not None:
        x = joined(x, lesson.transfer)
    done = 0 if checkpoint is None else checkpoint.done
    with tempfile.TemporaryDirectory() as folder:
        try:
            shown = None
            if terms and lesson.learning.cache and done < settings["epochs"]:
                with bars.task(f"{where}: asking the teacher", count(x)) as update:
                    shown = remember(distiller, x, Path(folder), where, update)
            feed = Feed(
                x, dataset.y_train, shown=shown, batch_size=batch_size, seed=seed, epoch=done
            )
            return fit(
                distiller,
                dataset,
                feed=feed,
                batch_size=batch_size,
                seed=seed,
                bars=bars,
                where=where,
                checkpoint=checkpoint,
                **settings,
            )
        finally:
            distiller.close()


def fit(
    model: keras.Model,
    dataset: Dataset,
    *,
    optimizer: str,
    learning_rate: float,
    learning_rate_schedule: str = "constant",
    batch_size: int,
    epochs: int,
    loss: Any,
    seed: int,
    bars: Bars,
    where: str,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    feed: Feed | None = None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, list[float]]:
    """Trains and gives the history, a value an epoch for each figure.

    Args:
        feed: batches for a distiller, in place of the data set's training samples.
        checkpoint: where the training goes on, and keeps what it needs for that. The order of the
            samples is the seed's: Keras gives arrays in one and the same in every epoch.

    Raises:
        TrainingError: the loss or a weight became infinite or not a number; the model has the
            weights of the last epoch in which all was well, or of before.
    """
    keras.utils.set_random_seed(seed)
    made = keras.optimizers.get({"class_name": optimizer, "config": {}})
    steps = math.ceil(count(dataset.x_train) / batch_size) if feed is None else len(feed)
    made.learning_rate = learning_rate
    if learning_rate_schedule == "cosine":
        # Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983, without restarts.
        falling = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
        made = type(made)(learning_rate=falling)
    # Weighted: of samples without a label no accuracy is known.
    figures = ["accuracy"] if are_classes(dataset.y_train) else None
    model.compile(optimizer=made, loss=loss, weighted_metrics=figures)
    batches = (
        {"x": dataset.x_train, "y": dataset.y_train, "batch_size": batch_size}
        if feed is None
        else {"x": feed, "shuffle": False}
    )
    # Keras makes the state of the optimizer and the metrics while it traces the step, and then has
    # to trace it again: for a small network that is most of a short training. A few samples make it
    # without tracing.
    few = (take(dataset.x_train, slice(2)), take(dataset.y_train, slice(2)))
    make_state(model, few if feed is None else feed[0])
    done = 0 if checkpoint is None else checkpoint.restore(model)
    last_good = LastGood()
    with bars.task(where, epochs * steps) as update:
        history = model.fit(
            **batches,
            initial_epoch=done,
            epochs=epochs,
            verbose=0,
            callbacks=[
                *callbacks,
                last_good,
                _Bar(update, done * steps),
                *([checkpoint] if checkpoint else []),
            ],
        ).history
    if checkpoint is not None:
        history = checkpoint.history
    found = None
    # An optimizer with `use_ema` overwrites the weights with their averages at the end,
    # behind the back of the constraints.
    for variable in model.trainable_variables:
        if holds_of(variable):
            enforce(variable)
    if not all(math.isfinite(value) for value in history["loss"]):
        found = f"a loss of {history['loss'][-1]} in epoch {len(history['loss'])}"
    # The last step may have broken what no loss was computed of any more.
    elif not all(np.isfinite(variable.numpy()).all() for variable in model.trainable_variables):
        found = "weights that are infinite or not a number"
    if found is not None:
        last_good.restore()
        raise TrainingError(
            Problem(
                where=where,
                found=found,
                expected="a finite loss, and finite weights",
                fix=f"try a learning_rate below {learning_rate:g}",
            )
        )
    return {key: [float(value) for value in values] for key, values in history.items()}


def make_state(model: keras.Model, batch: Any) -> None:
    """Makes the state of what a model was compiled with.

    Args:
        batch: as `fit` takes it: samples, labels and, maybe, weights.
    """
    if tf.distribute.has_strategy():
        # Replicas can only add up what they count inside a step.
        model._symbolic_build(data_batch=batch)
        return
    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    answers = model(x, training=False)
    model.compute_loss(x=x, y=y, y_pred=answers, sample_weight=weights)
    model.compute_metrics(x, y, answers, sample_weight=weights)
    model.reset_metrics()
    model.optimizer.build(model.trainable_variables)


@final
class _Bar(keras.callbacks.Callback):
    """Moves a progress bar."""

    def __init__(self, update: Update, done: int):
        super().__init__()
        self.update = update
        self.done = done

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.done += 1
        if self.done % 10 == 0:
            self.update(done=self.done)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        figures = "  ".join(f"{key} {value:.4f}" for key, value in (logs or {}).items())
        self.update(done=self.done, note=figures)
