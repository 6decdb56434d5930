"""What integer kernels take for granted of the scales in a file.

A file that breaks one of these loads, runs, and answers wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compresskit.errors import ConversionError, Problem
from compresskit.tflite.audit import Audit, Op

# Ops whose kernels copy integers, at most the largest of several: no scale but the input's.
_COPIES = {
    "EXPAND_DIMS",
    "GATHER",
    "MAX_POOL_2D",
    "RESHAPE",
    "REVERSE_V2",
    "SLICE",
    "SQUEEZE",
    "STRIDED_SLICE",
    "TRANSPOSE",
}
# Ops with data at input 0, a weight at input 1 and a bias at input 2.
_BIASED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_TRANSPOSED = "TRANSPOSE_CONV"  # weight at input 1, data at input 2, bias at input 3
_LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
# Its inputs: data; four input, four recurrent weights; peepholes; from 12 on four biases.
_LSTM_WEIGHTS, _LSTM_BIASES, _LSTM_STATE = range(1, 9), range(12, 16), 18


def check_scales(audit: Audit, where: str) -> None:
    """Asserts that the scales of a file are those that its kernels compute with.

    Each bias has the scale of the input times that of the weight; an LSTM's output has the
    scale of its hidden state; what only copies hands its input's scale on.

    Raises:
        ConversionError: naming every op that breaks this.
    """
    problems = [problem for op in audit.ops for problem in _problems(audit, op, where)]
    if problems:
        raise ConversionError(problems)


def _problems(audit: Audit, op: Op, where: str) -> Iterator[Problem]:
    place = f"{where} op {op.index} {op.name}"
    if op.name == _LSTM and not _alike(audit, op.inputs[_LSTM_STATE], op.outputs[0]):
        yield Problem(
            where=place,
            found="an output whose scale is not that of the hidden state",
            expected="one scale: the kernel writes both alike",
            fix="export with `lstm: while`, and please report the model",
        )
    if op.name in _COPIES and not _alike(audit, op.inputs[0], op.outputs[0]):
        yield Problem(
            where=place,
            found="an output whose scale is not that of the input",
            expected="one scale: the kernel copies integers",
            fix="please report the model: this file must not be used",
        )
    for data, weight, bias in _biased(op):
        if bias < 0 or audit.tensors[data].dtype not in ("INT8", "INT16"):
            continue
        values = audit.tensors[bias].values
        if audit.tensors[data].dtype == "INT16" and values is not None and not values.any():
            continue  # zeros, which the converter lets ops share: on any scale they are zero
        expected = audit.tensors[data].scales * audit.tensors[weight].scales
        if not np.allclose(audit.tensors[bias].scales, expected, rtol=1e-5):
            yield Problem(
                where=place,
                found="a bias whose scale is not the input's scale times the weight's",
                expected="scales that agree, or the op computes something else",
                fix="please report the model: this file must not be used",
            )


def _alike(audit: Audit, first: int, second: int) -> bool:
    one, other = audit.tensors[first], audit.tensors[second]
    return np.array_equal(one.scales, other.scales) and np.array_equal(
        one.zero_points, other.zero_points
    )


def _biased(op: Op) -> list[tuple[int, int, int]]:
    """The tensors data, weight and bias that an op adds up."""
    if op.name in _BIASED and len(op.inputs) > 2:
        return [(op.inputs[0], op.inputs[1], op.inputs[2])]
    if op.name == _TRANSPOSED and len(op.inputs) > 3:
        return [(op.inputs[2], op.inputs[1], op.inputs[3])]
    if op.name == _LSTM:
        pairs = zip(_LSTM_WEIGHTS, _LSTM_BIASES, strict=False)
        return [(op.inputs[0], op.inputs[weight], op.inputs[bias]) for weight, bias in pairs]
    return []
