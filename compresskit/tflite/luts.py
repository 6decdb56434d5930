"""Weights as indices into look-up tables, which TensorFlow Lite Micro decodes as it runs.

The encoding is described in `decode.py`.
"""

from __future__ import annotations

import numpy as np

from compresskit.errors import ConversionError, Problem
from compresskit.tflite.audit import Audit, audit
from compresskit.tflite.decode import HEADER_BYTES
from compresskit.tflite.micro import package
from compresskit.tflite.tensors import Tensor

_MOST_BITS = 7
# A tensor of tables, an op and its output cost some bytes in the file, too.
_LEAST_SAVING = 512


def with_luts(content: bytes, where: str) -> bytes:
    """A file whose int8 weights are decoded from look-up tables where that is smaller.

    Raises:
        ConversionError: there is no such weight.
        ModelError: `tflite-micro` is not installed.
    """
    found = audit(content, where)
    compression = package("compression", where)
    specs = [
        compression.spec.Tensor(
            subgraph=0,
            tensor=tensor.index,
            compression=[
                compression.spec.LookUpTableCompression(
                    index_bitwidth=bits,
                    mode=compression.spec.PerTensor()
                    if axis is None
                    else compression.spec.PerChannel(axis),
                )
            ],
        )
        for tensor, axis, bits in _worthwhile(found)
    ]
    if not specs:
        raise ConversionError(
            Problem(
                where=where,
                found="no weight that look-up tables would make smaller",
                expected=f"int8 weights of at most {2**_MOST_BITS} values each, better 16",
                fix="add a stage `cluster`, or remove `compress: lut`",
            )
        )
    return bytes(compression.compress(content, specs))


def _worthwhile(found: Audit) -> list[tuple[Tensor, int | None, int]]:
    """The weights that get smaller, the axis of their tables, and the bits of an index."""
    chosen = []
    for tensor in found.weights:
        if tensor.dtype != "INT8":
            continue
        # The kernel reads the tables by the scales of the tensor: one each.
        axis = tensor.axis if tensor.scales.size > 1 else None
        tables = [tensor.constant] if axis is None else np.moveaxis(tensor.constant, axis, 0)
        most = max(np.unique(table).size for table in tables)
        bits = max(1, int(most - 1).bit_length())
        size = tensor.constant.size
        saved = size - (-(-size * bits // 8) + HEADER_BYTES + len(tables) * most)
        if bits <= _MOST_BITS and saved >= _LEAST_SAVING:
            chosen.append((tensor, axis, bits))
    return chosen
