"""A tf_keras model in the child process, and what is asked of it."""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import keras
import numpy as np

from compresskit.child import Child
from compresskit.data import Dataset
from compresskit.errors import CompressKitError, ConversionError, ModelError, Problem, TrainingError
from compresskit.target import Precision
from compresskit.tflite.convert import convert_folder
from compresskit.tfmot.layers import read_weights, write_weights

_child = Child("compresskit.tfmot.child", "TFMOT's process", {"TF_USE_LEGACY_KERAS": "1"})
_numbers = itertools.count()
_forgotten: list[int] = []


@final
class Session:
    """One model in the child. Its weights come from the Keras 3 model beside it with each request.

    Args:
        source: `file`, `builder` and `args`, or `layers`, as `child.load` takes them. It is loaded
            when it is first needed.
        where: where the model was named, for errors.

    Attributes:
        quantized: whether the child has it as `quantize_apply` made it.
    """

    def __init__(self, source: dict[str, Any], where: str) -> None:
        self.where = where
        self.quantized = False
        self._source = source
        self._number = next(_numbers)
        self._data: Dataset | None = None
        # A request as it is collected would wait for the one that is being made.
        weakref.finalize(self, _forgotten.append, self._number)

    @functools.cached_property
    def loaded(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What the child says of the model (`child.load`), and its weights (`read_weights`).

        Raises:
            ModelError: it cannot be loaded.
        """
        if _forgotten:
            numbers = [_forgotten.pop() for _ in range(len(_forgotten))]
            _child.ask({"do": "forget", "models": numbers})
        with tempfile.TemporaryDirectory(prefix="compresskit-") as folder:
            out = Path(folder, "weights.npz")
            request = {
                "do": "load",
                "out": str(out),
                "where": self.where,
                # From there a builder is imported.
                "folder": os.getcwd(),
                **self._source,
            }
            description = self._ask(ModelError, request)
            arrays: dict[str, np.ndarray] = {}
            if description["functional"]:
                with np.load(out) as read:
                    arrays = dict(read)
        return description, arrays

    def _ask(self, error: type[CompressKitError], request: dict[str, Any]) -> Any:
        answer = _child.ask({"model": self._number, **request})
        if answer.problems:
            raise error(answer.problems)
        if answer.error is not None:
            raise error(
                Problem(
                    where=request.get("where", self.where),
                    found=answer.error,
                    expected="a model and a stage that TFMOT takes",
                    fix="name the layer under `ignore`, or `engine: native` and a Keras 3 model "
                    "(`compresskit migrate`)",
                )
            )
        return answer.value

    def _do(self, error: type[CompressKitError], **request: Any) -> Any:
        assert self.loaded
        return self._ask(error, request)

    def train(
        self,
        model: keras.Model,
        dataset: Dataset,
        stage: dict[str, Any],
        training: dict[str, Any],
        *,
        where: str,
    ) -> dict[str, list[float]]:
        """Trains a stage. The weights come from `model` and are written back to it.

        Args:
            stage, training: as `child.train` takes them.

        Returns:
            the history, a value an epoch for each figure.

        Raises:
            TrainingError: TFMOT refused, or its process died.
        """
        with tempfile.TemporaryDirectory(prefix="compresskit-") as folder:
            if self._data is not dataset:
                file = Path(folder, "data.npz")
                np.savez(file, x=dataset.x_train, y=dataset.y_train)  # type: ignore[arg-type]
                self._do(TrainingError, do="data", file=str(file), where=where)
                self._data = dataset
            out = Path(folder, "trained.npz")
            history = self._do(
                TrainingError,
                do="train",
                weights=_written(model, folder),
                out=str(out),
                stage=stage,
                training=training,
                where=where,
            )
            with np.load(out) as arrays:
                write_weights(model, arrays)
        self.quantized = stage["type"] == "qat"
        return history

    def answers(
        self, model: keras.Model, inputs: Sequence[Any], *, quantized: bool = False
    ) -> list[np.ndarray]:
        """What the tf_keras model answers, with the weights of `model` or as it was quantized.

        Args:
            inputs: an array for each input.

        Returns:
            an array for each output.
        """
        with tempfile.TemporaryDirectory(prefix="compresskit-") as folder:
            data, out = Path(folder, "x.npz"), Path(folder, "answers.npz")
            np.savez(data, *inputs)
            self._do(
                TrainingError,
                do="answers",
                weights=_written(model, folder),
                data=str(data),
                out=str(out),
                quantized=quantized,
            )
            with np.load(out) as arrays:
                return [arrays[name] for name in arrays.files]

    def convert(
        self, model: keras.Model, precision: Precision, *, sample: Any, calibration: Any
    ) -> bytes:
        """The bytes of a .tflite file of the tf_keras model; arguments as `tflite.convert`'s.

        Raises:
            ConversionError: TFMOT's model cannot be written, or not be converted.
        """
        quantized = self.quantized and precision.integer
        with tempfile.TemporaryDirectory(prefix="compresskit-") as folder:
            saved = Path(folder, "model")
            names = self._do(
                ConversionError,
                do="save",
                weights=_written(model, folder),
                out=str(saved),
                shape=list(np.shape(sample)[1:]),
                quantized=quantized,
                where=f"conversion of {model.name!r}",
            )
            content, error = convert_folder(saved, names, precision, sample, calibration)
        if error is not None:
            raise ConversionError(
                Problem(
                    where=f"conversion of {model.name!r}",
                    found=error,
                    expected="a graph that the TFLite converter takes",
                    fix="choose another precision, or `engine: native` and a Keras 3 model "
                    "(`compresskit migrate`)",
                )
            )
        return content


def _written(model: keras.Model, folder: str | os.PathLike[str]) -> str:
    path = Path(folder, "weights.npz")
    np.savez(path, **read_weights(model))  # type: ignore[arg-type]
    return str(path)


def supported() -> dict[str, list[str]]:
    """By technique the names of the layers that TFMOT's registries list."""
    return _child.ask({"do": "supports"}).value
