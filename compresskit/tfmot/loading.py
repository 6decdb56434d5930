"""The model of a recipe with `engine: tfmot`: in the child, and its Keras 3 counterpart here."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import keras

from compresskit import builders, catalog
from compresskit.data import Dataset
from compresskit.errors import ModelError, Problem
from compresskit.migration import counterpart, open_file, open_session
from compresskit.models.load import is_path, load_model
from compresskit.recipe import Recipe
from compresskit.recipe_fields import Builder
from compresskit.recipe_source import Locate
from compresskit.selection import Selection
from compresskit.stages import Cluster, Prune
from compresskit.tfmot.limits import model_problems
from compresskit.tfmot.session import Session
from compresskit.weights import Weight, weights_of


def with_engine(recipe: Recipe, given: Any, base: Path | None) -> Recipe:
    """The recipe, with `engine: tfmot` if it names none and its model is one of tf_keras.

    Args:
        given: a model in place of the recipe's, or None.
    """
    spec = recipe.model if given is None else given
    # Together with a strategy it stays as it is, and loading the model tells what to write.
    if "engine" in recipe.model_fields_set or recipe.strategy is not None:
        return recipe
    if isinstance(spec, Path | str):
        is_old = _is_keras_2(str(spec), base) and _says_keras_2(builders.find_path(spec, base))
    else:
        is_old = _is_live(spec)
    return recipe.model_copy(update={"engine": "tfmot"}) if is_old else recipe


def load(
    spec: Any, *, where: str, base: Path | None, safe_mode: bool, dataset: Dataset | None
) -> tuple[keras.Model, Session]:
    """The Keras 3 counterpart of a model, and the session with the model itself.

    Args:
        spec: a model of tf_keras: the path of a file, a `Builder`, or a live one; or a Keras 3
            model, in any form that `models.load` takes, whose layers follow each other.

    Raises:
        ModelError: it cannot be loaded, or one of the two Keras does not have it.
    """
    if isinstance(spec, Builder):
        source = {"builder": spec.builder, "args": dict(spec.args)}
        session = open_session(source, where=where)
    elif isinstance(spec, Path | str) and _is_keras_2(str(spec), base):
        session = open_file(spec, where=where, base=base)
    elif _is_live(spec):
        with tempfile.TemporaryDirectory(prefix="compresskit-") as folder:
            spec.save(path := Path(folder, "model.h5"))
            session = open_file(path, where=where)
            return counterpart(session), session
    else:
        model = load_model(spec, where=where, base=base, safe_mode=safe_mode, dataset=dataset)
        return model, Session({"layers": _chain(model, where)}, where)
    return counterpart(session), session


def _is_live(model: Any) -> bool:
    return any(each.__module__.split(".")[0] == "tf_keras" for each in type(model).__mro__)


def _says_keras_2(file: Path) -> bool:
    """Whether what is at a path says itself that it is of Keras 2."""
    if file.is_dir():
        return (file / "keras_metadata.pb").is_file()
    if file.suffix == ".keras":
        return keras_version(file) < 3
    try:
        with h5py.File(file) as opened:
            return str(opened.attrs.get("keras_version", "")).startswith("2.")
    except OSError:
        return False


def _is_keras_2(spec: str, base: Path | None) -> bool:
    if spec in catalog.models or not (is_path(spec) or builders.find_path(spec, base).is_dir()):
        return False
    file = builders.find_path(spec, base)
    return not (file.suffix == ".keras" and file.is_file() and keras_version(file) >= 3)


def keras_version(file: Path) -> int:
    """Of which Keras a `.keras` file says that it is; 3 if it says nothing."""
    try:
        with zipfile.ZipFile(file) as archive:
            return int(json.loads(archive.read("metadata.json"))["keras_version"].split(".")[0])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError):
        return 3


def _chain(model: keras.Model, where: str) -> list[dict[str, Any]]:
    """The layers of a model in which each reads the one before."""
    ok = isinstance(model, keras.Sequential) or hasattr(model, "operations")
    layers = list(model.get_config()["layers"]) if ok else []
    for layer in model.layers:
        nodes = layer._inbound_nodes
        known = getattr(keras.layers, type(layer).__name__, None) is type(layer)
        ok = ok and known and len(nodes) < 2 and all(len(each.parent_nodes) < 2 for each in nodes)
    if not ok:
        raise ModelError(
            Problem(
                where=where,
                found=f"the Keras 3 model {model.name!r}, whose layers do not simply follow each "
                "other",
                expected="with `engine: tfmot` a model of tf_keras, or a Keras 3 model that is "
                "a chain of built-in layers (lenet300, lenet5, small-cnn)",
                fix="write `engine: native`, or give the tf_keras model as a file or a builder",
            )
        )
    return [{"class_name": each["class_name"], "config": each["config"]} for each in layers]


def owners(model: keras.Model) -> dict[int, Any]:
    """The layer of the model itself that each of its inner layers belongs to."""
    return {id(part): layer for layer in model.layers for part in layer._flatten_layers()}


def owners_of(model: keras.Model, weights: Sequence[Weight]) -> dict[str, Any]:
    """Those layers of the model whose weights these are, by name."""
    by_part = owners(model)
    found = [by_part[id(weight.layer)] for weight in weights]
    return {layer.name: layer for layer in found}


def problems_of(
    recipe: Recipe, model: keras.Model, selections: Sequence[Selection], locate: Locate
) -> list[Problem]:
    """What TFMOT cannot do of a model in the stages of a recipe."""
    nested = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
    if nested:
        return [
            Problem(
                where=locate(("model",)),
                found=f"a model inside the model: {', '.join(nested)}",
                expected="layers alone: TFMOT does not wrap the layers of an inner model",
                fix="write `engine: native` and a Keras 3 model (`compresskit migrate`)",
            )
        ]
    problems: list[Problem] = []
    earlier: dict[str, Any] = {}
    weighty = owners_of(model, weights_of(model))
    for index, (stage, selection) in enumerate(zip(recipe.stages, selections, strict=False)):
        taken = owners_of(model, selection.taken)
        every = [
            layer for layer in model.layers if layer.name not in weighty or layer.name in taken
        ]
        problems += model_problems(
            stage,
            [(name, type(layer).__name__) for name, layer in taken.items()],
            [(layer.name, type(layer).__name__) for layer in every],
            [(name, type(layer).__name__) for name, layer in earlier.items() if name in taken],
            locate(("stages", index)),
        )
        if isinstance(stage, (Prune, Cluster)):
            earlier.update(taken)
    return problems


def data_problems(dataset: Dataset, locate: Locate) -> list[Problem]:
    """That a data set has one input and one output, which is all that goes to the child."""
    several = [
        noun
        for noun, values in (("inputs", dataset.x_train), ("outputs", dataset.y_train))
        if isinstance(values, dict)
    ]
    return [
        Problem(
            where=locate(("data",)),
            found=f"several {noun}",
            expected="an array of samples and one of labels with `engine: tfmot`",
            fix="write `engine: native` and a Keras 3 model (`compresskit migrate`)",
        )
        for noun in several
    ]
