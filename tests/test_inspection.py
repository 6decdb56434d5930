"""compresskit.inspection: what files and models hold."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import compresskit as ck
from compresskit.errors import ModelError
from tests.files import int8_file, plain_file
from tests.models import cnn, mlp, subclassed
from tests.training import compressed


def written(folder, name="mlp"):
    """The path of a float32 file."""
    path = folder / f"{name}.tflite"
    path.write_bytes(plain_file(name, "float32"))
    return path


def only(path):
    with pytest.raises(ModelError) as raised:
        ck.inspect(path)
    (one,) = raised.value.problems
    return one


class TestFile:
    def test_float(self, tmp_path):
        path = written(tmp_path)
        made = ck.inspect(path)
        assert made.kind == "tflite"
        assert made.name == str(path)
        assert made.bytes == path.stat().st_size > made.gzip_bytes
        assert made.ops["FULLY_CONNECTED"] == 2
        assert made.float_ops == sum(made.ops.values())
        assert [end.shape for end in (*made.inputs, *made.outputs)] == [(1, 8, 8, 1), (1, 10)]
        assert [weight.shape for weight in made.weights] == [(32, 64), (10, 32)]
        assert made.weights[0].bytes == 32 * 64 * 4
        # The weights and biases, and the shape that RESHAPE takes.
        assert made.parameters - mlp().count_params() in range(5)

    def test_integer(self, tmp_path):
        path = tmp_path / "m.tflite"
        path.write_bytes(int8_file("cnn"))
        made = ck.inspect(path)
        assert made.float_ops == 0
        assert {end.dtype for end in (*made.inputs, *made.outputs)} == {"INT8"}
        assert {weight.dtype for weight in made.weights} == {"INT8"}
        kept = sum(int(mask.sum()) for mask in compressed("cnn").masks.values())
        size = sum(mask.size for mask in compressed("cnn").masks.values())
        assert made.sparsity >= 1 - kept / size - 1e-9
        (image,), (answer,) = made.inputs, made.outputs
        assert image.signature == "image"
        # Of a softmax, whatever the data.
        assert (answer.scale, answer.zero_point) == (1 / 256, -128)
        json.dumps(made.to_dict(), allow_nan=False)

    def test_missing(self):
        one = only("nowhere/m.tflite")
        assert one.where == "nowhere/m.tflite"
        assert "No such file" in one.found

    def test_a_folder(self, tmp_path):
        folder = tmp_path / "m.tflite"
        folder.mkdir()
        assert "cannot be read" in only(folder).found

    def test_another_format(self, tmp_path):
        path = tmp_path / "m.tflite"
        path.write_bytes(b"PK\x03\x04 a zip file")
        assert "do not start as a TFLite file" in only(path).found

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_cut_off(self, tmp_path, share):
        content = plain_file("mlp", "float32")
        path = tmp_path / "m.tflite"
        path.write_bytes(content[: int(len(content) * share)])
        only(path)


class TestModel:
    @pytest.mark.parametrize("make", [cnn, subclassed])
    def test_in_memory(self, make):
        model = make()
        kernel = next(v for v in model.trainable_variables if "kernel" in v.path)
        values = kernel.numpy()
        values[..., ::2] = 0.0
        kernel.assign(values)
        made = ck.inspect(model)
        assert made.kind == "keras"
        assert made.name == model.name
        assert made.gzip_bytes is None
        assert made.parameters == model.count_params()
        assert made.bytes == 4 * model.count_params()
        assert made.ops["Dense"] == 1
        assert made.weights[0].sparsity == 0.5
        assert made.weights[0].dtype == "FLOAT32"
        sizes = [np.prod(weight.shape) for weight in made.weights]
        shares = [weight.sparsity for weight in made.weights]
        assert made.sparsity == pytest.approx(np.average(shares, weights=sizes))
        json.dumps(made.to_dict(), allow_nan=False)

    def test_a_keras_file(self, tmp_path):
        path = tmp_path / "m.keras"
        mlp().save(path)
        made = ck.inspect(path)
        assert made.bytes == path.stat().st_size
        assert made.inputs[0].shape == (-1, 8, 8, 1)
        assert made.weights[1].name.endswith("logits/kernel")

    def test_a_keras_file_that_is_missing(self):
        assert "nothing at" in only("nowhere/m.keras").found

    def test_without_weights(self):
        model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])
        made = ck.inspect(model)
        assert made.sparsity == 0.0
        assert made.weights == ()
