"""Multiply-adds of each op, counted from the shapes in a file.

Additions of biases, activations and whatever else takes no product of weights and data, or
of two computed matrices, count as none.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from compresskit.target import CpuOp, Placement
from compresskit.tflite.audit import Audit, Op

_LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
# Its inputs: data; four input, four recurrent weights; ...; a projection of what it gives.
_LSTM_WEIGHTS = (*range(1, 9), 16)


def multiply_adds(op: Op, audit: Audit) -> int:
    """Of one op, for the batch that the file takes, usually 1.

    A dimension that is not known counts as 1.
    """

    def shape(index: int) -> tuple[int, ...]:
        return tuple(max(size, 1) for size in audit.tensors[index].shape)

    if op.name == "CONV_2D":  # filter: outputs, height, width, inputs of a group
        return prod(shape(op.outputs[0])) * prod(shape(op.inputs[1])[1:])
    if op.name == "DEPTHWISE_CONV_2D":  # filter: 1, height, width, outputs
        return prod(shape(op.outputs[0])) * prod(shape(op.inputs[1])[1:3])
    if op.name == "TRANSPOSE_CONV":  # each value of the data meets the filter of its channel
        filters = shape(op.inputs[1])
        return prod(shape(op.inputs[2])) * filters[0] * prod(filters[1:3])
    if op.name == "FULLY_CONNECTED":  # weights: outputs, inputs
        return prod(shape(op.outputs[0])) * shape(op.inputs[1])[-1]
    if op.name == "BATCH_MATMUL":
        first = shape(op.inputs[0])
        return prod(shape(op.outputs[0])) * first[-2 if getattr(op.options, "adjX", False) else -1]
    if op.name == _LSTM:
        weights = [op.inputs[place] for place in _LSTM_WEIGHTS if place < len(op.inputs)]
        steps = prod(shape(op.inputs[0])[:-1])
        return steps * sum(prod(shape(index)) for index in weights if index >= 0)
    return 0


def placement(audit: Audit, stays: Mapping[int, str]) -> Placement:
    """Where the ops of a file run.

    Args:
        stays: position of each op that is left to the CPU, with the reason.
    """
    counts = [multiply_adds(op, audit) for op in audit.ops]
    left = tuple(
        CpuOp(index=op.index, op=op.name, reason=stays[op.index], multiply_adds=counts[position])
        for position, op in enumerate(audit.ops)
        if op.index in stays
    )
    total = sum(counts)
    return Placement(
        npu_ops=len(audit.ops) - len(left),
        cpu_ops=left,
        multiply_adds=total,
        npu_multiply_adds=total - sum(op.multiply_adds for op in left),
    )
