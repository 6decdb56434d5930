"""compresskit.tflite.audit: what a .tflite file holds."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from compresskit.errors import ModelError
from compresskit.tflite.audit import audit
from compresskit.tflite.scales import check_scales
from compresskit.weights import weights_of
from tests.files import int8_file, plain_file
from tests.models import MODELS
from tests.training import compressed, trained


def integers(matrix):
    """The grid of a Keras weight: output channels by inputs, each row's maximum at 127."""
    largest = np.abs(matrix.astype(np.float64)).max(axis=1, keepdims=True)
    return np.round(matrix * 127.0 / np.where(largest > 0, largest, 1.0))


class TestContract:
    """What holds of the file of every model."""

    @pytest.mark.parametrize("name", MODELS)
    def test_it_computes_in_integers_only(self, name):
        read = audit(int8_file(name))
        assert read.computed_in_float() == []
        assert read.requantized() == []
        assert {tensor.dtype for tensor in read.weights} == {"INT8"}
        check_scales(read, "file")

    @pytest.mark.parametrize("name", MODELS)
    def test_it_has_exactly_the_integers_of_training(self, name):
        done = compressed(name)
        read = audit(int8_file(name))
        weights = weights_of(done.model)
        assert len(read.weights) == len(weights)
        for weight, tensor in zip(weights, read.weights, strict=True):
            ours = integers(weight.matrix(weight.variable.numpy()))
            theirs = read.matrix(tensor).astype(np.float64)
            assert theirs.shape == ours.shape
            # A normalization with a negative gamma turns a channel's sign around.
            signs = np.where((ours * theirs).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
            np.testing.assert_array_equal(theirs, signs * ours)

    @pytest.mark.parametrize("name", MODELS)
    def test_it_is_as_sparse_as_the_masks(self, name):
        done = compressed(name)
        for weight, tensor in zip(
            weights_of(done.model), audit(int8_file(name)).weights, strict=True
        ):
            if weight.path in done.masks:
                mask = weight.matrix(done.masks[weight.path])
                values = audit(int8_file(name)).matrix(tensor)
                assert not values[~mask].any()
                # Rounding makes a few more zeros, never fewer.
                assert 0 <= tensor.sparsity - np.mean(~mask) < 0.05

    @pytest.mark.parametrize("name", MODELS)
    def test_the_order_of_a_float_file_is_that_of_the_table(self, name):
        read = audit(plain_file(name, "float32"))
        weights = weights_of(trained(name))
        assert len(read.weights) == len(weights)
        for weight, tensor in zip(weights, read.weights, strict=True):
            ours, theirs = weight.matrix(weight.variable.numpy()), read.matrix(tensor)
            assert theirs.shape == ours.shape
            # Normalization is folded in: channels differ by a factor.
            largest = np.abs(ours).argmax(axis=1)
            rows = np.arange(len(ours))
            factor = theirs[rows, largest] / ours[rows, largest]
            np.testing.assert_allclose(theirs, ours * factor[:, None], rtol=1e-4, atol=1e-6)


class TestAudit:
    def test_ops_and_tensors(self):
        read = audit(plain_file("cnn", "float32"))
        assert read.counts == {
            "CONV_2D": 2,
            "FULLY_CONNECTED": 1,
            "MAX_POOL_2D": 1,
            "RESHAPE": 1,
            "SOFTMAX": 1,
        }
        assert read.tensors[read.inputs[0]].shape == (1, 8, 8, 1)
        assert read.tensors[read.outputs[0]].shape == (1, 10)
        assert [tensor.index for tensor in read.tensors] == list(range(len(read.tensors)))
        assert len(read.computed_in_float()) == len(read.ops) == 6

    def test_sizes(self):
        content = int8_file("cnn")
        read = audit(content)
        assert read.size == len(content)
        assert read.gzip_size < read.size < len(plain_file("cnn", "float32"))
        assert audit(content).gzip_size == read.gzip_size

    def test_float16_weights_lie_behind_a_dequantize(self):
        read = audit(plain_file("cnn", "float16"))
        assert {tensor.dtype for tensor in read.weights} == {"FLOAT16"}
        assert len(read.weights) == 3
        assert read.requantized()

    def test_dynamic_weights(self):
        read = audit(plain_file("cnn", "dynamic"))
        assert len(read.weights) == 3
        assert {tensor.dtype for tensor in read.weights} <= {"INT8", "FLOAT32"}

    def test_distinct_values(self):
        read = audit(int8_file("mlp"))
        (first, _) = read.weights
        assert first.distinct == np.unique(first.values).size
        assert first.distinct <= 255


class TestDamaged:
    @pytest.mark.parametrize("content", [b"", b"TFL3", b"not a model, but text", bytes(64)])
    def test_no_file_of_the_kind(self, content):
        with pytest.raises(ModelError) as raised:
            audit(content, "x.tflite")
        (problem,) = raised.value.problems
        assert problem.where == "x.tflite"
        assert problem.expected == "a .tflite file"

    @pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
    def test_cut_short(self, share):
        content = int8_file("mlp")
        with pytest.raises(ModelError):
            audit(content[: max(8, int(len(content) * share))], "x.tflite")

    def test_garbage_behind_the_name(self):
        rng = np.random.default_rng(0)
        for _ in range(50):
            content = rng.bytes(4) + b"TFL3" + rng.bytes(200)
            with pytest.raises(ModelError):
                audit(content)

    def test_bytes_turned_over(self):
        """Whatever is wrong with a file, what comes is an answer or a ModelError."""
        rng = np.random.default_rng(0)
        good = int8_file("mlp")
        failed = 0
        for _ in range(150):
            content = bytearray(good)
            for position in rng.integers(0, len(content), size=20):
                content[position] = rng.integers(0, 256)
            content[4:8] = b"TFL3"
            try:
                audit(bytes(content))
            except ModelError:
                failed += 1
        assert failed > 0


def test_reading_and_running_load_no_tensorflow():
    code = (
        "import sys, compresskit.tflite.audit, compresskit.tflite.runtime\n"
        "print([name for name in ('tensorflow', 'keras', 'tf_keras') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"
