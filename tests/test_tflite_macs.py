"""compresskit.tflite.macs: multiply-adds against numbers that were worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from compresskit.tflite.audit import audit
from compresskit.tflite.macs import multiply_adds, placement
from tests.files import int8_file, plain_file
from tests.test_targets_edge_tpu import File


def counted(name, shapes, out, *, options=None):
    """The multiply-adds of one op that reads tensors of these shapes, None for one left out."""
    file = File()
    inputs = [-1 if shape is None else file.tensor(shape) for shape in shapes]
    audited = file.op(name, inputs, [file.tensor(out)], options=options).audit()
    return multiply_adds(audited.ops[0], audited)


@pytest.mark.parametrize(
    ("name", "shapes", "out", "expected"),
    [
        # 6 x 6 places, 5 filters of 3 x 3 x 4
        ("CONV_2D", [(1, 8, 8, 4), (5, 3, 3, 4)], (1, 6, 6, 5), 36 * 5 * 36),
        # two groups: each filter sees half of the channels
        ("CONV_2D", [(1, 8, 8, 4), (6, 3, 3, 2)], (1, 6, 6, 6), 36 * 6 * 18),
        # 4 x 4 places of 8 channels, 3 x 3 each
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 4), (1, 3, 3, 8)], (1, 4, 4, 8), 16 * 8 * 9),
        # each of 4 x 4 x 3 values meets 2 x 2 weights of 5 filters
        ("TRANSPOSE_CONV", [(4,), (5, 2, 2, 3), (1, 4, 4, 3)], (1, 8, 8, 5), 48 * 4 * 5),
        ("FULLY_CONNECTED", [(1, 64), (10, 64), (10,)], (1, 10), 640),
        ("FULLY_CONNECTED", [(32, 64), (10, 64), None], (32, 10), 32 * 640),
        ("BATCH_MATMUL", [(1, 2, 32, 16), (1, 2, 16, 24)], (1, 2, 32, 24), 2 * 32 * 24 * 16),
        ("BATCH_MATMUL", [(-1, 32, 16), (-1, 16, 24)], (-1, 32, 24), 32 * 24 * 16),
        ("ADD", [(1, 8), (1, 8)], (1, 8), 0),
    ],
)
def test_by_hand(name, shapes, out, expected):
    assert counted(name, shapes, out) == expected


def test_the_adjoint_of_a_matrix():
    made = schema.BatchMatMulOptionsT()
    made.adjX = True
    shapes = [(1, 16, 32), (1, 16, 24)]
    assert counted("BATCH_MATMUL", shapes, (1, 32, 24), options=made) == 32 * 24 * 16


@pytest.mark.parametrize("left_out", [False, True], ids=["four gates", "input gate left out"])
def test_lstm(left_out):
    """40 steps; for each gate 6 x 13 weights of the data and 6 x 6 of the state."""
    first = [None] if left_out else []
    shapes = [(1, 40, 13), *first, *[(6, 13)] * (4 - left_out)]
    shapes += [*first, *[(6, 6)] * (4 - left_out), *[None] * 15]
    gates = 4 - left_out
    assert counted("UNIDIRECTIONAL_SEQUENCE_LSTM", shapes, (1, 40, 6)) == 40 * gates * 6 * (13 + 6)


def test_of_a_whole_file():
    """The perceptron of the tests: 64 to 32 to 10."""
    for content in (int8_file("mlp"), plain_file("mlp", "float32")):
        audited = audit(content)
        assert sum(multiply_adds(op, audited) for op in audited.ops) == 64 * 32 + 32 * 10


def test_placement():
    audited = audit(int8_file("mlp"))
    (last,) = [op for op in audited.ops if op.name == "FULLY_CONNECTED"][-1:]
    made = placement(audited, {last.index: "too wide"})
    assert made.npu_ops == len(audited.ops) - 1
    (left,) = made.cpu_ops
    assert (left.index, left.op, left.reason) == (last.index, "FULLY_CONNECTED", "too wide")
    assert left.multiply_adds == 320
    assert (made.multiply_adds, made.npu_multiply_adds) == (2368, 2048)


def test_values_do_not_matter():
    weights = np.zeros((10, 64), np.int8)
    file = File()
    inputs = [file.tensor((1, 64)), file.tensor(values=weights)]
    audited = file.op("FULLY_CONNECTED", inputs, [file.tensor((1, 10))]).audit()
    assert multiply_adds(audited.ops[0], audited) == 640
