"""The process in which TFMOT runs: loads tf_keras models, has stages trained, answers.

    TF_USE_LEGACY_KERAS=1 python -m compresskit.tfmot.child

Requests are served as `compresskit.child` says. Each has `do`, the name of a function here, and
`model`, a number that the parent gives a model when it is loaded. Arrays come and go in .npz files
whose names are in the request.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras.src.saving.serialization_lib import SafeModeScope

from compresskit import builders
from compresskit.child import serve
from compresskit.errors import ModelError, Problem
from compresskit.tfmot import techniques
from compresskit.tfmot.layers import read_weights, write_weights


@dataclass
class State:
    """A model of the parent's.

    Attributes:
        plain: without any wrapper.
        quantized: as `quantize_apply` made it, once that has been trained.
        data: what it trains on, once it is known.
    """

    plain: Any
    quantized: Any = None
    data: Any = None


_states: dict[int, State] = {}
_BATCH = 256


def load(request: dict[str, Any]) -> dict[str, Any]:
    """Loads a model from `file`, from a `builder` with `args`, or from a list of `layers`.

    Wrappers of pruning and clustering are stripped. Its weights are written to `out`.

    Returns:
        `kind` (Sequential, Functional or another class), `config`, and `wrapped`, names of
        layers that QAT has wrapped, which cannot be stripped.
    """
    where = request["where"]
    os.chdir(request["folder"])
    if "file" in request:
        model = _read(request["file"], where)
    elif "builder" in request:
        model = builders.call_function(
            request["builder"],
            request["args"],
            where=where,
            error=ModelError,
            returns="a built tf_keras.Model",
        )
    else:
        model = _chain(request["layers"])
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise ModelError(
            Problem(
                where=where,
                found=f"an object of type {kind}",
                expected="a built tf_keras.Model",
                fix="import tf_keras in the builder, or write `engine: native` for Keras 3",
            )
        )
    model = techniques.stripped(model)
    _states[request["model"]] = State(plain=model)
    functional = isinstance(model, keras.Sequential) or model._is_graph_network
    if functional:
        np.savez(request["out"], **read_weights(model))  # type: ignore[arg-type]
    return {
        "kind": "Sequential" if isinstance(model, keras.Sequential) else type(model).__name__,
        "functional": functional,
        "config": model.get_config() if functional else {},
        "wrapped": techniques.wrapped(model),
    }


def _read(path: str, where: str) -> Any:
    try:
        # By itself tf_keras has a safe mode for `.keras` files alone, and runs the code of a Lambda
        # layer in an .h5 file or a SavedModel.
        with techniques.scopes(), SafeModeScope(safe_mode=True):
            return keras.models.load_model(path, compile=False)
    except Exception as cause:
        if "deserialization of a Lambda layer" in str(cause):
            raise ModelError(_code(path, where)) from cause
        raise ModelError(
            Problem(
                where=where,
                found=f"{path} cannot be loaded: {str(cause).strip().splitlines()[0]}",
                expected="a model that tf_keras has written: .h5, .keras, or a SavedModel folder "
                "with its Keras metadata",
                fix="save it again with tf_keras; a class of your own needs a builder that "
                "imports it",
            )
        ) from cause


def _code(path: str, where: str) -> Problem:
    return Problem(
        where=where,
        found=f"{path} has a Lambda layer with Python code in it",
        expected="built-in layers; code that a file brings along is not run",
        fix="put a built-in layer in its place where the model was made, and save it again",
    )


def _chain(described: list[dict[str, Any]]) -> Any:
    """A model of layers that follow each other, from the settings of Keras 3's."""
    x = inputs = None
    for each in described:
        if each["class_name"] == "InputLayer":
            shape = each["config"]["batch_shape"]
            x = inputs = keras.Input(shape[1:], name=each["config"]["name"])
            continue
        x = _layer(each["class_name"], each["config"])(x)
    return keras.Model(inputs, x)


def _layer(name: str, config: dict[str, Any]) -> Any:
    """A layer with the settings that both Keras know."""
    made = getattr(keras.layers, name)
    known = made.from_config(
        {
            key: value
            for key, value in config.items()
            if key in _NEEDED and not isinstance(value, dict)
        }
    ).get_config()
    return made.from_config(
        {
            key: value
            for key, value in config.items()
            if key in known and not isinstance(value, dict)
        }
    )


# Without these some layers cannot be made, and then not be asked what else they know.
_NEEDED = (
    "name", "units", "filters", "kernel_size", "pool_size", "rate", "activation", "target_shape",
    "dims", "input_dim", "output_dim",
)  # fmt: skip


def forget(request: dict[str, Any]) -> None:
    """Lets go of the models whose numbers are in `models`."""
    for number in request["models"]:
        _states.pop(number, None)


def data(request: dict[str, Any]) -> None:
    """Reads what the model trains on, `x` and `y`, from `file`."""
    with np.load(request["file"]) as arrays:
        _states[request["model"]].data = (arrays["x"], arrays["y"])


def train(request: dict[str, Any]) -> dict[str, list[float]]:
    """Trains a stage: `stage` for the technique, `training` for `fit`.

    Weights are taken from `weights` and written to `out`, as the layers read them. A stage of type
    `qat` leaves a quantized model behind.

    Returns:
        the history, a value an epoch for each figure.
    """
    state = _states[request["model"]]
    _set(state, request["weights"])
    stage = request["stage"]
    wrap, finish = techniques.TECHNIQUES[stage["type"]]
    model, callbacks = wrap(techniques.copy(state.plain), stage)
    history = _fit(model, state.data, callbacks, **request["training"])
    state.quantized = finish(model, state.plain)
    np.savez(request["out"], **read_weights(state.plain))  # type: ignore[arg-type]
    return history


def _fit(model: Any, samples: Any, callbacks: list[Any], **settings: Any) -> dict[str, list[float]]:
    keras.utils.set_random_seed(settings["seed"])
    x, y = samples
    size, epochs, rate = settings["batch_size"], settings["epochs"], settings["learning_rate"]
    if settings["learning_rate_schedule"] == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(x) // size))
    made = keras.optimizers.get({"class_name": settings["optimizer"], "config": {}})
    loss = settings["loss"]
    if isinstance(loss, dict):
        loss = getattr(keras.losses, loss["class_name"])(**loss["config"])
    model.compile(
        optimizer=type(made)(learning_rate=rate),
        loss=loss,
        weighted_metrics=["accuracy"] if settings["classes"] else None,
    )
    history = model.fit(
        x, y, batch_size=size, epochs=epochs, verbose=0,
        callbacks=[*callbacks, keras.callbacks.TerminateOnNaN()],
    ).history  # fmt: skip
    return {key: [float(value) for value in values] for key, values in history.items()}


def answers(request: dict[str, Any]) -> None:
    """Writes to `out` what the model answers to the arrays of the file `data`; see `_chosen`."""
    model = _chosen(request)
    with np.load(request["data"]) as arrays:
        inputs = [arrays[name] for name in arrays.files]

    def call(*batch: Any) -> Any:
        return tf.nest.flatten(model(batch[0] if len(batch) == 1 else batch, training=False))

    function = tf.function(call, autograph=False)
    parts = [
        function(*(tf.constant(array[at : at + _BATCH]) for array in inputs))
        for at in range(0, len(inputs[0]), _BATCH)
    ]
    np.savez(request["out"], *(np.concatenate(part) for part in zip(*parts, strict=True)))


def save(request: dict[str, Any]) -> list[str]:
    """Writes the model for batch 1 to the folder `out`, a SavedModel; see `_chosen`.

    Returns:
        the names of its inputs.
    """
    model = _chosen(request)
    (given,) = model.inputs
    name = given.name.split(":")[0].replace("/", "_")
    dtype = tf.int32 if given.dtype.is_integer else tf.float32

    def call(x: Any) -> Any:
        return {"output_0": model(x, training=False)}

    spec = tf.TensorSpec((1, *request["shape"]), dtype, name=name)
    function = tf.function(call, autograph=False).get_concrete_function(spec)
    module = tf.Module()
    module.kept = list(model.variables) + list(function.variables)
    module.function = function
    tf.saved_model.save(module, request["out"], signatures={"serving_default": function})
    return [spec.name for spec in function.structured_input_signature[0]]


def _chosen(request: dict[str, Any]) -> Any:
    """The quantized model if `quantized`, or else the plain one with the weights of `weights`."""
    state = _states[request["model"]]
    if request["quantized"]:
        return state.quantized
    _set(state, request["weights"])
    return state.plain


def _set(state: State, path: str) -> None:
    with np.load(path) as arrays:
        write_weights(state.plain, arrays)


def supports(request: dict[str, Any]) -> dict[str, list[str]]:
    """By technique the names of the layers that TFMOT's own registries list."""
    return techniques.supported()


_DO = {each.__name__: each for each in (load, forget, data, train, answers, save, supports)}


def handle(request: dict[str, Any]) -> Any:
    """Does what a request asks for."""
    return _DO[request["do"]](request)


if __name__ == "__main__":
    serve(handle)
