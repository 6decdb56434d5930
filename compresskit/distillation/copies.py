"""A second model with the weights of a first, to teach it while it changes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras

from compresskit.builders import describe
from compresskit.errors import ModelError, Problem
from compresskit.parametrize import parameters_of
from compresskit.weights import leaves


def copy_of(model: keras.Model, where: str = "teacher") -> keras.Model:
    """The model as it is now: weights as its layers read them, without hooks and holds.

    Raises:
        ModelError: Keras cannot write it down and read it again.
    """
    # Classes that the user wrote and did not register.
    classes = {
        type(layer).__name__: type(layer)
        for layer in model._flatten_layers()
        if not type(layer).__module__.startswith("keras.")
    }
    with tempfile.TemporaryDirectory() as folder, keras.saving.custom_object_scope(classes):
        file = Path(folder) / "copy.keras"
        try:
            model.save(file, include_optimizer=False)
            # The code in it is in this process already.
            made = keras.saving.load_model(file, compile=False, safe_mode=False)
        except Exception as cause:
            raise ModelError(
                Problem(
                    where=where,
                    found=f"{model.name} cannot be copied, to teach while it is compressed: "
                    f"{describe(cause)}",
                    expected="a model that model.save and keras.saving.load_model can bring back",
                    fix="give its classes get_config, or save the trained model and name the "
                    "file as the teacher",
                )
            ) from cause
    for copied, layer in zip(leaves(made), leaves(model), strict=True):
        for variable, original in zip(copied.variables, layer.variables, strict=True):
            value = original.value
            for read, transform in parameters_of(layer):
                value = transform(value) if read is original else value
            variable.assign(value)
    return made
