"""Models: by name, from a `.keras` file, or from the user's function."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from compresskit import builders, catalog
from compresskit.data import Dataset
from compresskit.errors import CompressKitError, ModelError, Problem
from compresskit.recipe_fields import Builder
from compresskit.samples import shapes, take


def load_model(
    spec: Any,
    *,
    where: str = "model",
    base: Path | None = None,
    safe_mode: bool = True,
    args: Mapping[str, Any] | None = None,
    dataset: Dataset | None = None,
) -> keras.Model:
    """The model that `spec` stands for, built.

    Args:
        spec: a registered name, the path of a `.keras` file, a `Builder` of a recipe,
            or a `keras.Model`, which comes back as it is.
        where: where `spec` was read, for errors.
        base: the folder of the recipe. A relative path starts from the current
            directory or, if nothing is there, from here.
        safe_mode: refuse files with Python code in them (Lambda layers).
        args: keyword arguments for a registered function or a `Builder`; they come
            before those of the `Builder` and those taken from `dataset`.
        dataset: what the model is for. A registered model takes its `input_shape` and
            `classes` from it.

    Raises:
        ModelError: it is missing, damaged, needs classes that are unknown, or is not
            a built `keras.Model`.
    """
    if isinstance(spec, Builder):
        made = builders.call_function(
            spec.builder,
            {**spec.args, **(args or {})},
            where=where,
            error=ModelError,
            returns="a built keras.Model",
        )
        return _checked(made, spec.builder, where, dataset)
    if isinstance(spec, os.PathLike) or (isinstance(spec, str) and is_path(spec)):
        return _checked(_read(spec, where, base, safe_mode), str(spec), where, dataset)
    if isinstance(spec, str):
        return _checked(_registered(spec, where, args, dataset), spec, where, dataset)
    return _checked(spec, "what was given", where, dataset)


def is_path(spec: str) -> bool:
    """Whether the `model:` of a recipe is a path, not a name."""
    if spec in catalog.models:
        return False
    return spec.endswith((".keras", ".h5", ".hdf5")) or os.sep in spec or "/" in spec


def _registered(
    name: str, where: str, args: Mapping[str, Any] | None, dataset: Dataset | None
) -> Any:
    function = catalog.models.get(name, where=where)
    fitting: dict[str, Any] = {}
    if dataset is not None:
        fitting = {"input_shape": shapes(dataset.x_train), "classes": dataset.class_count}
        takes = inspect.signature(function).parameters
        if dataset.tokenizer is not None and "vocabulary" in takes:
            fitting["vocabulary"] = len(dataset.tokenizer.vocabulary)
    arguments = {**fitting, **(args or {})}
    try:
        return function(**arguments)
    except CompressKitError:
        raise
    except Exception as cause:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ModelError(
            Problem(
                where=where,
                found=f"{name}({given}) raised {builders.describe(cause)}",
                expected="an input_shape and a number of classes that the model can take",
                fix="choose another model for this data set, or write a builder",
            )
        ) from cause


def _read(
    path: str | os.PathLike[str], where: str, base: Path | None, safe_mode: bool
) -> keras.Model:
    file = builders.find_path(path, base)
    problem = None
    if not file.exists():
        problem = Problem(
            where=where,
            found=builders.missing_path(file, path, base),
            expected="a .keras file, or the name of a registered model",
            fix="correct the path; it starts from the current directory or the recipe's folder",
        )
    elif file.suffix != ".keras" or file.is_dir():
        problem = Problem(
            where=where,
            found=f"{file} is {'a folder' if file.is_dir() else f'a {file.suffix} file'}",
            expected="a file in the .keras format of Keras 3",
            fix="if tf_keras wrote it, write `engine: tfmot` or run `compresskit migrate`; or load "
            "it where it was made and call model.save('model.keras')",
        )
    if problem is not None:
        raise ModelError(problem)
    try:
        return keras.saving.load_model(file, safe_mode=safe_mode)
    except Exception as cause:
        raise ModelError(_unreadable(file, cause, where)) from cause


def _unreadable(file: Path, cause: Exception, where: str) -> Problem:
    """The problem of a file that Keras refused, told by the words of its refusal."""
    text = str(cause)
    if ("lambda" in text.lower() and "safe_mode" in text) or "unsafe" in text.lower():
        return Problem(
            where=where,
            found=f"{file} holds Python code (a Lambda layer)",
            expected="layers without code of their own",
            fix="write the Lambda as a layer class; or, only if you trust the file, "
            "pass --unsafe-load (in Python: safe_mode=False)",
        )
    # Keras prints the whole configuration around the one sentence that matters.
    unknown = re.search(r"Could not locate (class|function) '([^']*)'", text)
    if unknown:
        return Problem(
            where=where,
            found=f"{file} needs {unknown[1]} {unknown[2]!r}, which is not registered",
            expected="layers of Keras, or classes that are registered before the file is loaded",
            fix="decorate it with @keras.saving.register_keras_serializable() and load "
            "the file in a builder that imports it",
        )
    return Problem(
        where=where,
        found=f"{file} cannot be loaded: {builders.describe(cause)}",
        expected="a file that model.save('model.keras') of Keras 3 has written",
        fix="save or download it again; if it is of a newer Keras, "
        f"upgrade (this is Keras {keras.__version__})",
    )


def _checked(made: Any, name: str, where: str, dataset: Dataset | None) -> keras.Model:
    if not isinstance(made, keras.Model):
        kind = f"{type(made).__module__}.{type(made).__qualname__}"
        raise ModelError(
            Problem(
                where=where,
                found=f"{name}: an object of type {kind}",
                expected="a keras.Model of Keras 3",
                fix="write `engine: tfmot`, or rebuild it with keras 3"
                if kind.startswith("tf_keras")
                else "return the model itself",
            )
        )
    if made.built:
        return made
    cause: Exception | None = None
    if dataset is not None:
        try:
            made(take(dataset.x_train, slice(1)))
        except Exception as error:  # noqa: BLE001 - any failure of the user's call is told below
            cause = error
        else:
            return made
    raise ModelError(
        Problem(
            where=where,
            found=f"{name}: a model without weights yet"
            + (f"; calling it on one sample raised {builders.describe(cause)}" if cause else ""),
            expected="a built model",
            fix="give it a keras.Input, or call model.build(input_shape)",
        )
    ) from cause
