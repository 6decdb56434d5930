"""compresskit.tflite.tensors: values as they are stored, and what they stand for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from compresskit.tflite.audit import audit
from compresskit.tflite.tensors import Tensor, tensors_of
from tests.files import plain_file, written


class TestTensor:
    def made(self, values, scales=(), zero_points=(), axis=0):
        values = None if values is None else np.asarray(values)
        return Tensor(
            index=0,
            name="t",
            dtype="INT8",
            shape=() if values is None else values.shape,
            values=values,
            scales=np.asarray(scales, np.float32),
            zero_points=np.asarray(zero_points, np.int64),
            axis=axis,
        )

    def test_sparsity(self):
        assert self.made([0, 1, 0, 0]).sparsity == 0.75

    def test_zero_is_the_zero_point(self):
        assert self.made([3, 1, 0, 3], [0.5], [3]).sparsity == 0.5

    def test_zero_points_along_an_axis(self):
        values = [[1, 2], [1, 2], [0, 2]]
        assert self.made(values, [1, 1], [1, 2], axis=1).sparsity == pytest.approx(5 / 6)

    def test_a_tensor_that_is_computed(self):
        tensor = self.made(None)
        with pytest.raises(ValueError, match="tensor 't' is computed, not constant"):
            _ = tensor.sparsity


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=40))
def test_two_integers_in_a_byte(values):
    halves = [value & 15 for value in values] + [0] * (len(values) % 2)
    low, high = np.array(halves, np.uint8).reshape(-1, 2).T
    data = low | high << 4
    tensor = schema.TensorT()
    tensor.type, tensor.shape, tensor.buffer = schema.TensorType.INT4, [len(values)], 0
    model = SimpleNamespace(buffers=[SimpleNamespace(offset=0, data=data)])
    (read,) = tensors_of(model, SimpleNamespace(tensors=[tensor]), b"")
    assert read.constant.tolist() == values
    assert read.stored == len(data)
    assert read.dtype == "INT4"


def test_constants_behind_the_structure():
    """As files of more than 2 GB, and those of some tools, have them."""
    content = plain_file("mlp", "float32")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    moved = max(model.buffers, key=lambda each: 0 if each.data is None else len(each.data))
    data = bytes(moved.data)
    moved.data, moved.offset, moved.size = None, len(content) * 2, len(data)
    behind = written(model).ljust(len(content) * 2, b"\0") + data
    weights = zip(audit(content).weights, audit(behind).weights, strict=True)
    assert all(np.array_equal(one.values, other.values) for one, other in weights)
