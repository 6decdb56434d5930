"""Models of Keras 2 (tf_keras) in Keras 3: the same layers, the same weights, equal outputs."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from compresskit import builders
from compresskit.errors import ModelError, Problem
from compresskit.files import write_file
from compresskit.installed import TF_KERAS, TFMOT, missing
from compresskit.tfmot.layers import write_weights
from compresskit.tfmot.session import Session

# Largest difference of an output, relative to the largest output: both compute in float32.
TOLERANCE = 1e-5
_SAMPLES = 16
# Settings of Keras 2 that Keras 3 does not have, with the values that change nothing, beside None
# and False; an empty row: whatever the value.
_GONE: dict[str, tuple[Any, ...]] = {
    "groups": (1,),
    "implementation": (),
    "fused": (),
    "query_shape": (),
    "key_shape": (),
    "value_shape": (),
    "input_length": (),
}


@dataclass(frozen=True, kw_only=True)
class Migrated:
    """What came of a migration.

    Attributes:
        path: of the file that was written.
        layers, parameters: how many the model has.
        samples: how many random samples both models answered.
        max_abs_error: largest difference of an output.
        tolerance: the largest that was allowed.
    """

    path: str
    layers: int
    parameters: int
    samples: int
    max_abs_error: float
    tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self)


def migrate(old: str | os.PathLike[str], out: str | os.PathLike[str]) -> Migrated:
    """Writes a model of Keras 2 as a `.keras` file of Keras 3 that answers alike.

    Args:
        old: an `.h5` file, a `.keras` file of tf_keras, or a SavedModel folder with Keras metadata.
            Wrappers of TFMOT's pruning and clustering are stripped.
        out: a path that ends in `.keras`; an existing file is replaced in the end.

    Raises:
        ModelError: it cannot be loaded; a layer has no counterpart in Keras 3; or the outputs
            differ. Nothing is written then.
    """
    if Path(out).suffix != ".keras":
        raise ModelError(
            Problem(
                where="OUT",
                found=str(out),
                expected="a file name that ends in .keras",
                fix=f"write {Path(out).with_suffix('.keras')}",
            )
        )
    session = open_file(old, where=str(old))
    model = counterpart(session)
    error, tolerance = _difference(session, model)
    if not error <= tolerance:
        raise ModelError(
            Problem(
                where=str(old),
                found=f"outputs that differ by {error:.2g} in Keras 3",
                expected=f"{tolerance:.2g} at most, on {_SAMPLES} random samples",
                fix="rebuild the model in Keras 3, and set its weights layer by layer",
            )
        )
    with tempfile.TemporaryDirectory(prefix="compresskit-") as folder:
        model.save(path := Path(folder, "model.keras"))
        write_file(Path(out), path.read_bytes())
    return Migrated(
        path=str(out),
        layers=len(model._flatten_layers(include_self=False)),
        parameters=model.count_params(),
        samples=_SAMPLES,
        max_abs_error=error,
        tolerance=tolerance,
    )


def open_file(path: str | os.PathLike[str], *, where: str, base: Path | None = None) -> Session:
    """A model of Keras 2 from a file, in TFMOT's process.

    Raises:
        ModelError: it is not there, cannot be loaded, or a package is missing.
    """
    file = builders.find_path(path, base)
    if not file.exists():
        raise ModelError(
            Problem(
                where=where,
                found=builders.missing_path(file, path, base),
                expected="an .h5 or .keras file or a SavedModel folder of tf_keras",
                fix="correct the path; it starts from the current directory or the recipe's folder",
            )
        )
    return open_session({"file": str(file.absolute())}, where=where)


def open_session(source: dict[str, Any], *, where: str) -> Session:
    """A session, if the packages that it needs are there.

    Raises:
        ModelError: they are not, or the model cannot be loaded.
    """
    absent = [missing(package, where=where) for package in (TFMOT, TF_KERAS)]
    if any(absent):
        raise ModelError(problem for problem in absent if problem is not None)
    return Session(source, where)


def counterpart(session: Session) -> keras.Model:
    """The Keras 3 model of the same layers and weights.

    Raises:
        ModelError: names every layer that has none.
    """
    (description, arrays), where = session.loaded, session.where
    if not description["functional"]:
        raise ModelError(
            Problem(
                where=where,
                found=f"a subclassed model ({description['kind']}), whose layers are not described",
                expected="a Sequential or functional model",
                fix="rebuild it in Keras 3, and set its weights",
            )
        )
    if description["wrapped"]:
        raise ModelError(
            Problem(
                where=where,
                found=f"layers that QAT has wrapped: {', '.join(description['wrapped'])}",
                expected="a model without quantize wrappers, whose rounding Keras 3 does not know",
                fix="give the model from before quantize_apply, and train a stage `qat`",
            )
        )
    problems: list[Problem] = []
    config = _converted(description["config"], where, problems)
    if problems:
        raise ModelError(problems)
    kind = keras.Sequential if description["kind"] == "Sequential" else keras.Model
    try:
        model = kind.from_config(config)
        write_weights(model, arrays)
    except Exception as cause:
        raise ModelError(
            Problem(
                where=where,
                found=f"Keras 3 refuses its description: {builders.describe(cause)}",
                expected="layers that Keras 3 takes with the same settings",
                fix="rebuild the model in Keras 3, and set its weights",
            )
        ) from cause
    return model


def _converted(config: Mapping[str, Any], where: str, problems: list[Problem]) -> dict[str, Any]:
    """The settings of a model of Keras 2 as Keras 3 takes them; adds what it does not."""
    layers = []
    for layer in config["layers"]:
        if "layers" in layer["config"]:
            inside = _converted(layer["config"], where, problems)
            layers.append({**layer, "config": inside, "build_config": None})
        else:
            layers.append(_layer(layer, where, problems))
    names = {layer["config"]["name"] for layer in layers}
    for layer in layers:
        if layer.get("inbound_nodes"):
            layer["inbound_nodes"] = [_node(node, names) for node in layer["inbound_nodes"]]
    # One input or output alone is no list in Keras 3.
    ends = {
        key: config[key][0] if len(config[key]) == 1 else config[key]
        for key in ("input_layers", "output_layers")
        if isinstance(config.get(key), (list, tuple))
    }
    kept = {key: value for key, value in config.items() if key != "build_input_shape"}
    return {**kept, **ends, "layers": layers}


def _node(node: Any, names: set[str]) -> Any:
    """A call of a layer; Keras 3 reads tensors in keyword arguments in its own form alone."""
    if not isinstance(node[0], (list, tuple)):
        return node  # a function, which has no counterpart anyway
    keywords = node[0][3] if len(node[0]) > 3 else {}

    def is_tensor(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and len(value) == 3 and value[0] in names

    if not any(is_tensor(value) for value in keywords.values()):
        return node

    def tensor(value: Any) -> dict[str, Any]:
        history = {"shape": [None], "dtype": "float32", "keras_history": list(value[:3])}
        return {"class_name": "__keras_tensor__", "config": history}

    given = [tensor(each) for each in node]
    return {
        "args": given if len(given) == 1 else [given],
        "kwargs": {
            key: tensor(value) if is_tensor(value) else value for key, value in keywords.items()
        },
    }


def _layer(layer: Mapping[str, Any], where: str, problems: list[Problem]) -> dict[str, Any]:
    name, settings = layer["class_name"], dict(layer["config"])
    known = getattr(keras.layers, name, None)
    if known is None:
        of = settings.get("function")
        problems.append(
            Problem(
                where=where,
                found=f"the layer {settings.get('name')!r} of type {name}"
                + (f" ({of})" if isinstance(of, str) else "")
                + ", which has no counterpart in Keras 3",
                expected="built-in layers that Keras 3 has, too",
                fix="replace it with a layer (Add for x + y) in the old model, or rebuild the "
                "model in Keras 3",
            )
        )
        return dict(layer)
    if isinstance(settings.get("dtype"), dict):
        settings["dtype"] = settings["dtype"]["config"]["name"]
    shape = settings.pop("batch_input_shape", None)
    if name == "InputLayer" and shape is not None:
        settings["batch_shape"] = shape
    takes = _takes(known)
    for key in [key for key in settings if key not in takes]:
        value = settings.pop(key)
        harmless = (None, False, *_GONE.get(key, ()))
        if value not in harmless and _GONE.get(key) != ():
            problems.append(
                Problem(
                    where=where,
                    found=f"the layer {settings.get('name')!r} ({name}) with {key}: {value}",
                    expected=f"a setting that Keras 3's {name} has",
                    fix="rebuild the layer without it",
                )
            )
    for key, value in settings.items():
        # The layers that Bidirectional, TimeDistributed and RNN hold.
        if isinstance(value, dict) and hasattr(keras.layers, value.get("class_name", "")):
            settings[key] = _layer(value, where, problems)
    if isinstance(settings.get("axis"), (list, tuple)) and name == "BatchNormalization":
        (settings["axis"],) = settings["axis"]
    made = {**layer, "config": settings, "build_config": None}
    try:
        keras.saving.deserialize_keras_object({**made, "module": "keras.layers"})
    except Exception as cause:  # noqa: BLE001 - told below, whatever Keras raises
        problems.append(
            Problem(
                where=where,
                found=f"the layer {settings.get('name')!r} ({name}), which Keras 3 refuses: "
                f"{str(cause).strip().splitlines()[-1][:200]}",
                expected="settings that Keras 3 takes, too",
                fix="rebuild the layer in Keras 3, and set its weights",
            )
        )
    return made


def _takes(kind: type) -> set[str]:
    """The settings that a layer of Keras 3 takes, by the signatures of its classes."""
    return {
        name
        for each in kind.__mro__
        if "__init__" in vars(each)
        for name in inspect.signature(vars(each)["__init__"]).parameters
    } | {"name", "dtype", "trainable"}


def _difference(session: Session, model: keras.Model) -> tuple[float, float]:
    """How far the outputs are apart on random samples, and how far they may be."""
    random = np.random.default_rng(0)
    tables = [
        layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Embedding)
    ]
    rows = min((int(layer.input_dim) for layer in tables), default=2)
    arrays = []
    for given in model.inputs:
        # A dimension that the model leaves open.
        shape = [_SAMPLES, *(size or 8 for size in given.shape[1:])]
        whole = "int" in str(given.dtype) or tables
        arrays.append(
            random.integers(0, rows, shape).astype(given.dtype)
            if whole
            else random.standard_normal(shape).astype(np.float32)
        )
    theirs = session.answers(model, arrays)
    ours = keras.tree.flatten(model(arrays[0] if len(arrays) == 1 else arrays, training=False))
    error = max(float(np.abs(np.asarray(a) - b).max()) for a, b in zip(ours, theirs, strict=True))
    largest = max(float(np.abs(b).max()) for b in theirs)
    return error, TOLERANCE * max(1.0, largest)
