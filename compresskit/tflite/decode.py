"""The values that the operator DECODE of TensorFlow Lite Micro makes of look-up tables.

It stands as a custom op in front of each op that reads such a weight. Its inputs are the
packed indices, highest bit first, and a header with the tables:

    byte 0      what the op decodes; 0: look-up tables
    byte 1      version of the header, 1
    byte 4      version of the tables, 1
    byte 5      high half: the axis that has a table for each position, 15: one table;
                low half: bits of an index, 1 to 7
    byte 6      values of a table
    byte 16...  the tables

Source: the package `tflite-micro`, https://github.com/tensorflow/tflite-micro.
"""

from __future__ import annotations

from typing import Any

import numpy as np

DECODE = "TFLM_DECODE"
HEADER_BYTES = 16
_ONE_TABLE = 15


def look_up(
    encoded: np.ndarray, header: np.ndarray, shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
    """The decoded tensor.

    Args:
        encoded: the packed indices, any type.
        header: uint8, the header and the tables behind it.
        shape, dtype: of the decoded tensor.

    Raises:
        ValueError: it is not encoded by look-up tables, or in a version that is not known.
    """
    given = np.ascontiguousarray(header).view(np.uint8).ravel()
    if (given[0], given[1], given[4]) != (0, 1, 1):
        raise ValueError(f"an encoding that is not known: {given[:HEADER_BYTES].tobytes().hex()}")
    axis, bits, length = int(given[5]) >> 4, int(given[5]) & 7, int(given[6])
    size = int(np.prod(shape))
    stream = np.unpackbits(np.ascontiguousarray(encoded).view(np.uint8).ravel())
    indices = stream[: size * bits].reshape(size, bits) @ (1 << np.arange(bits)[::-1])
    tables = given[HEADER_BYTES:].view(dtype)
    if axis != _ONE_TABLE:
        positions = np.arange(shape[axis]).reshape([-1] + [1] * (len(shape) - 1 - axis))
        indices = indices.reshape(shape) + positions * length
    return tables[indices].reshape(shape)
