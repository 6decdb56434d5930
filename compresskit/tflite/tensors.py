"""A tensor of a .tflite file: its values as they are stored, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_TYPES = {number: name for name, number in vars(schema.TensorType).items() if name.isupper()}
_PACKED = "INT4"  # two in a byte, the first in its lower half
ARRAYS = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Tensor:
    """A tensor of the file.

    Attributes:
        values: its constant content in the file's own type (4-bit integers as int8), or None
            if it is computed; what a TFLM_DECODE makes of constants is constant, too.
        encoded: how many bytes of the file it is decoded from, if it is.
        scales, zero_points: of its quantization; empty if it has none. Of blocks, shape
            (channels, blocks) and empty.
        axis: the axis along which several scales run.
        block: how many values along the last axis share a scale, if they do.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    values: np.ndarray | None
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int
    encoded: int | None = None
    block: int | None = None

    @property
    def stored(self) -> int:
        """How many bytes of the file hold the values."""
        if self.encoded is not None:
            return self.encoded
        if self.values is None:
            return 0
        return -(-self.values.size // 2) if self.dtype == _PACKED else self.values.nbytes

    @property
    def constant(self) -> np.ndarray:
        """The content of a constant.

        Raises:
            ValueError: the tensor is computed.
        """
        if self.values is None:
            raise ValueError(f"tensor {self.name!r} is computed, not constant")
        return self.values

    @property
    def sparsity(self) -> float:
        """Share of a constant's values that are zero: that stand for zero if quantized."""
        if self.zero_points.size > 1:
            shape = [1] * self.constant.ndim
            shape[self.axis] = -1
            return float(np.mean(self.constant == self.zero_points.reshape(shape)))
        zero = self.zero_points[0] if self.zero_points.size else 0
        return float(np.mean(self.constant == zero))

    @property
    def distinct(self) -> int:
        """Number of distinct values of a constant, as they are stored."""
        return int(np.unique(self.constant).size)


def tensors_of(model: Any, graph: Any, content: bytes) -> list[Tensor]:
    """The tensors of a graph, in the order of their indices.

    Args:
        model, graph: objects of the schema.
        content: the file.
    """
    tensors = [_tensor(index, raw, model, content) for index, raw in enumerate(graph.tensors)]
    found = list(tensors)
    for index, raw in enumerate(graph.tensors):
        details = raw.quantization.details if raw.quantization is not None else None
        if isinstance(details, schema.BlockwiseQuantizationT):
            scales = tensors[details.scales].constant.astype(np.float32)
            found[index] = replace(tensors[index], scales=scales, block=int(details.blockSize))
    return found


def _tensor(index: int, raw: Any, model: Any, content: bytes) -> Tensor:
    dtype = _TYPES[raw.type]
    # A dynamic dimension is -1 in the signature and 1 in the shape.
    sizes = raw.shapeSignature if raw.shapeSignature is not None else raw.shape
    shape = tuple(int(size) for size in (sizes if sizes is not None else ()))
    data = _data(model.buffers[raw.buffer], content)
    values: np.ndarray | None = None
    if data is not None and len(data) and dtype == _PACKED:
        values = _unpacked(np.asarray(data, dtype=np.uint8), shape)
    elif data is not None and len(data) and dtype in ARRAYS:
        values = np.asarray(data, dtype=np.uint8).view(ARRAYS[dtype]).reshape(shape)
    quantization = raw.quantization
    scales = quantization.scale if quantization is not None else None
    zeros = quantization.zeroPoint if quantization is not None else None
    return Tensor(
        index=index,
        name=raw.name.decode(errors="replace") if raw.name else f"tensor_{index}",
        dtype=dtype,
        shape=shape,
        values=values,
        scales=np.asarray(scales if scales is not None else [], dtype=np.float32),
        zero_points=np.asarray(zeros if zeros is not None else [], dtype=np.int64),
        axis=int(quantization.quantizedDimension) if quantization is not None else 0,
    )


def _data(buffer: Any, content: bytes) -> Any:
    """The bytes of a constant, which may lie behind the structure of the file."""
    if buffer.offset > 1:
        return np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    return buffer.data


def _unpacked(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """4-bit integers as int8."""
    halves = np.stack([data & 15, data >> 4], axis=-1).reshape(-1).astype(np.int8)
    size = int(np.prod(shape))
    return np.where(halves > 7, halves - 16, halves)[:size].astype(np.int8).reshape(shape)
