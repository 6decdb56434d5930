"""Training on several devices and machines: the strategies of `tf.distribute`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import keras
import tensorflow as tf

from compresskit.builders import describe
from compresskit.errors import ModelError, Problem, RecipeError
from compresskit.recipe_strategy import Strategy


@final
class MultiWorkerMirroredStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """TensorFlow's, with which the `fit` and `evaluate` of Keras 3 run.

    Keras asks a strategy for the mean of a whole batch, a structure of tensors, and for the mean
    over the first axis of the figures of a step, which are scalars. TensorFlow's own has neither
    (https://github.com/keras-team/keras/issues/20585).
    """

    def reduce(self, reduce_op: Any, value: Any, axis: int | None) -> Any:
        """As in TensorFlow, also of structures; a scalar has no axis but that of the replicas."""

        def one(each: Any) -> Any:
            first = self.experimental_local_results(each)[0]
            over = None if first.shape.rank == 0 else axis
            return super(MultiWorkerMirroredStrategy, self).reduce(reduce_op, each, over)

        return tf.nest.map_structure(one, value)


@contextmanager
def training_on(
    strategy: Strategy | None, model: keras.Model | None, where: str = "strategy"
) -> Iterator[None]:
    """Inside, models are built and trained on the devices of a strategy.

    Args:
        strategy: the recipe's, or None: then that of the model, or the one whose scope this is
            in.
        model: what was given in place of the recipe's, if anything.
        where: where the strategy was read, for errors.

    Raises:
        RecipeError: there is one already, or TensorFlow refuses it here.
        ModelError: the model was built outside of it.
    """
    # What is no model of Keras 3 is refused where it is loaded. The property of that name gives
    # whatever strategy is around.
    own = model._distribute_strategy if isinstance(model, keras.Model) else None
    around = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
    if strategy is not None and (model is not None or around is not None):
        raise RecipeError(
            Problem(
                where=where,
                found=f"{strategy.type}, and a model or a scope that is yours",
                expected="one that says where training runs",
                fix="leave `strategy` out of the recipe, and build the model inside "
                "`strategy.scope()`",
            )
        )
    if model is not None and around is not None and own is not around:
        raise ModelError(
            Problem(
                where=f"model {model.name!r}",
                found="a model that was built outside of the strategy in whose scope this is",
                expected="one whose variables are on all devices",
                fix="build, or load, the model inside `strategy.scope()`",
            )
        )
    if strategy is not None:
        own = _made(strategy, where)
    if own is None or own is around:
        yield
        return
    with own.scope():
        yield


def is_chief() -> bool:
    """Whether this process is the only one, or the first of several workers."""
    return tf.distribute.get_strategy().extended.should_checkpoint


@contextmanager
def written_once(out: Path | None) -> Iterator[Path | None]:
    """The folder that this process writes to: of several workers, that of the chief remains.

    The others write as well, since to write a model is to ask all of them for its variables.
    """
    if out is None or is_chief():
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / out.name


def agreed(value: float) -> float:
    """A figure that decides how training goes on, as the chief has measured it.

    Machines that differ may round differently, or take another time; and workers that go
    different ways wait for each other for ever.
    """
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return value

    def speak(mine: Any) -> Any:
        context = tf.distribute.get_replica_context()
        chosen = tf.where(tf.equal(context.replica_id_in_sync_group, 0), mine, 0.0)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, chosen)

    said = tf.function(lambda mine: strategy.run(speak, args=(mine,)))
    return float(strategy.experimental_local_results(said(tf.constant(value, tf.float64)))[0])


def share_problems(samples: int, batch_size: int, where: str) -> list[Problem]:
    """That no replica is left without a sample: Keras would compute weights that are no numbers.

    Args:
        samples: of an epoch.
        where: whose batches they are.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    last = samples % batch_size or batch_size
    if last >= replicas:
        return []
    return [
        Problem(
            where=where,
            found=f"{samples} samples in batches of {batch_size}: {last} in the last one, for "
            f"{replicas} replicas",
            expected="at least one for each",
            fix="write another `batch_size`, or leave a few samples out",
        )
    ]


def _made(strategy: Strategy, where: str) -> tf.distribute.Strategy:
    """The strategy of TensorFlow that a recipe names.

    Raises:
        RecipeError: TensorFlow refuses it here.
    """
    try:
        if strategy.type == "multi-worker":
            return MultiWorkerMirroredStrategy()
        if strategy.type == "tpu":
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(strategy.tpu)
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
            return tf.distribute.TPUStrategy(resolver)
        _check_devices(strategy.devices, where)
        return tf.distribute.MirroredStrategy(list(strategy.devices) or None)
    except (ValueError, RuntimeError, tf.errors.OpError) as cause:
        raise RecipeError(
            Problem(
                where=where,
                found=f"{strategy.type}, and {describe(cause)}",
                expected=_NEEDS[strategy.type],
                fix="mend that, or remove `strategy` to train on one device",
            )
        ) from cause


_NEEDS = {
    "mirrored": "devices of this machine",
    "multi-worker": "a process that TF_CONFIG gives a place among the workers, and that has not "
    "computed anything with TensorFlow yet",
    "tpu": "a TPU that this process can reach",
}


def _check_devices(devices: Sequence[str], where: str) -> None:
    known = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices()]
    unknown = [device for device in devices if device.upper() not in known]
    if unknown:
        raise RecipeError(
            Problem(
                where=where,
                found=f"no device {', '.join(unknown)}",
                expected=f"one of: {', '.join(known)}",
                fix="correct `devices`, or leave it out for every GPU there is",
            )
        )
