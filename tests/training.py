"""Short trainings that tests share, and a record of what came out."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import keras
import numpy as np

from compresskit.method import Attached, Length
from compresskit.methods.prune import Pruning
from compresskit.methods.quantize import Quantization
from compresskit.ranges import Range
from compresskit.stages import QAT, Prune
from compresskit.target import Grid
from compresskit.training import make_state
from tests.models import CLASSES, MODELS, SEQUENCE_MODELS, sequences

SAMPLES = 64
BATCH = 16
STEPS = SAMPLES // BATCH
FEW = 10
# Until a model of sequences has learned its samples, it answers all of them alike, and a
# file that agrees with it shows nothing.
WARM_UP = 30
# Lookups of constants: the converter computes them, and their tables are not in the file.
FOLDED = {"tiny_bert": ("position_embedding", "segment_embedding")}


def inputs_of(name: str, count: int = SAMPLES) -> np.ndarray:
    """Random inputs that a model of `tests.models` takes."""
    if name in SEQUENCE_MODELS:
        return sequences(name, count)
    shape = (16, 4) if name == "conv1d" else (8, 8, 1)
    return np.random.default_rng(7).normal(size=(count, *shape)).astype(np.float32)


def labels(count: int = SAMPLES) -> np.ndarray:
    return np.random.default_rng(11).integers(0, CLASSES, size=count)


def compiled(model: keras.Model, optimizer="adam", **kwargs) -> keras.Model:
    model.compile(optimizer, "sparse_categorical_crossentropy", **kwargs)
    return model


def fit(model: keras.Model, x: np.ndarray, *attached: Attached, epochs: int = 2) -> None:
    """Trains a compiled model with the callbacks of what is attached to it.

    A few steps are run eagerly: to trace one takes longer than to run ten, but for loops over time.
    Whole runs, as those of `tests/test_engine.py`, train every kind of model as the package does.
    """
    callbacks = [callback for each in attached for callback in each.callbacks]
    loops = any(isinstance(layer, keras.layers.RNN) for layer in model._flatten_layers())
    model.run_eagerly = epochs * len(x) <= FEW * BATCH and not loops
    model.make_train_function(force=True)
    make_state(model, (x[:2], labels(2)))
    model.fit(x, labels(len(x)), epochs=epochs, batch_size=BATCH, verbose=0, callbacks=callbacks)


def length(epochs: int = 2) -> Length:
    return Length(epochs=epochs, steps_per_epoch=STEPS)


def answers(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return np.asarray(model(keras.ops.convert_to_tensor(x), training=False))


def calls(model: keras.Layer) -> list[str]:
    """Names of the operations that have a `call` of their own in their instance."""
    from compresskit.graph import operations

    return [each.name for each in (model, *operations(model)) if "call" in each.__dict__]


@functools.cache
def trained(name: str) -> keras.Model:
    """A plain model after two epochs. Not to be changed."""
    keras.utils.set_random_seed(0)
    model = compiled(MODELS[name](), keras.optimizers.Adam(1e-2))
    fit(model, inputs_of(name))
    return model


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A model that was pruned and quantized.

    Attributes:
        trained: what it answered to `x` while the two techniques stood on it.
        masks: the pruned weights by path, True where a weight stayed.
    """

    model: keras.Model
    x: np.ndarray
    trained: np.ndarray
    ranges: tuple[Range, ...]
    masks: dict[str, np.ndarray]


@functools.cache
def compressed(name: str, per_channel_dense: bool = True) -> Compressed:
    """A model after pruning and quantization-aware training. Not to be changed."""
    keras.utils.set_random_seed(0)
    x = inputs_of(name)
    model = compiled({**MODELS, **SEQUENCE_MODELS}[name](), keras.optimizers.Adam(1e-2))
    if name in SEQUENCE_MODELS:
        fit(model, x, epochs=WARM_UP)
    grid = Grid(per_channel_dense=per_channel_dense)
    stage = Prune(sparsity=0.6, frequency="4st", ignore=FOLDED.get(name, ()))
    prune = Pruning(stage).attach(model, x[:2], grid, length())
    qat = Quantization(QAT()).attach(model, x[:2], grid, length())
    fit(model, x, prune, qat)
    before = answers(model, x)
    masks = {
        variable.path: np.asarray(variable.constraint.holds[0].mask) != 0
        for variable in model.trainable_variables
        if variable.path in prune.touched
    }
    prune.detach()
    ranges = qat.detach()["ranges"]
    return Compressed(model=model, x=x, trained=before, ranges=ranges, masks=masks)
