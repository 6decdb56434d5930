"""What a .tflite file holds, read from its bytes.

Loads neither TensorFlow nor an interpreter.
"""

from __future__ import annotations

import gzip
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from compresskit.errors import ModelError, Problem
from compresskit.tflite.decode import DECODE, look_up

_TYPES = {number: name for name, number in vars(schema.TensorType).items() if name.isupper()}
_OPS = {number: name for name, number in vars(schema.BuiltinOperator).items() if name.isupper()}
_PACKED = "INT4"  # two in a byte, the first in its lower half
_ARRAYS = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
# Ops with a weight at input 1 and a bias at input 2, and the axis of the output channels.
_WEIGHTED = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
# What the generated reader raises on bytes that lead it astray.
_DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
)
_TRANSPOSED = "TRANSPOSE_CONV"  # weight at input 1, data at input 2, bias at input 3
_LOOKUP = "GATHER"  # table at input 0
_PRODUCT = "BATCH_MATMUL"  # a constant at input 1 is a weight, inputs by outputs
_LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
# Its inputs: data; four input, four recurrent weights; others.
_LSTM_WEIGHTS = range(1, 9)


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


@final
@dataclass(frozen=True, kw_only=True)
class Op:
    """An op of the file, with the indices of its tensors (-1 for one left out)."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    version: int
    options: Any


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """Everything that is in a file, in its order.

    Attributes:
        answers: position in `outputs` of each output that has a name in the signature.
    """

    size: int
    gzip_size: int
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    answers: dict[str, int]

    @cached_property
    def counts(self) -> dict[str, int]:
        """How often each op occurs."""
        return dict(sorted(Counter(op.name for op in self.ops).items()))

    @cached_property
    def weights(self) -> tuple[Tensor, ...]:
        """The constants that the weighted ops multiply by, each once, in graph order."""
        found: dict[int, Tensor] = {}
        for op in self.ops:
            for position in _weights_at(op):
                tensor = self._constant_behind(op.inputs[position])
                if tensor is not None and len(tensor.shape) > 1:
                    found.setdefault(tensor.index, tensor)
        return tuple(found.values())

    def _constant_behind(self, index: int) -> Tensor | None:
        """The constant itself, or the one that a DEQUANTIZE widens (float16 weights)."""
        tensor = self.tensors[index]
        if tensor.values is not None:
            return tensor
        for op in self.ops:
            if op.name == "DEQUANTIZE" and index in op.outputs:
                return self._constant_behind(op.inputs[0])
        return None

    def matrix(self, tensor: Tensor) -> np.ndarray:
        """A weight as output channels by inputs, the order of `Weight.matrix`.

        Values are those of the file, less the zero point: zero means zero.
        """
        values = tensor.constant
        if tensor.zero_points.any():
            shape = [1] * values.ndim
            shape[tensor.axis if tensor.zero_points.size > 1 else 0] = -1
            values = values.astype(np.int32) - tensor.zero_points.reshape(shape)
        for op in self.ops:
            if _WEIGHTED.get(op.name) == 3 and self._constant_behind(op.inputs[1]) is tensor:
                return np.moveaxis(values, 3, 0).reshape(tensor.shape[3], -1)
            if op.name == _PRODUCT and self._constant_behind(op.inputs[1]) is tensor:
                return values.reshape(-1, tensor.shape[-1]).T
        return values.reshape(tensor.shape[0], -1)

    def computed_in_float(self) -> list[Op]:
        """Ops that read or write a float tensor."""
        return [
            op
            for op in self.ops
            if any(
                index >= 0 and self.tensors[index].dtype.startswith("FLOAT")
                for index in (*op.inputs, *op.outputs)
            )
        ]

    def requantized(self) -> list[Op]:
        """QUANTIZE and DEQUANTIZE ops: changes of scale or type inside the graph."""
        return [op for op in self.ops if op.name in ("QUANTIZE", "DEQUANTIZE")]


def _weights_at(op: Op) -> Iterable[int]:
    """At which inputs an op takes weights."""
    if op.name in _WEIGHTED or op.name in (_TRANSPOSED, _PRODUCT):
        return (1,)
    if op.name == _LSTM:
        return [position for position in _LSTM_WEIGHTS if op.inputs[position] >= 0]
    return (0,) if op.name == _LOOKUP else ()


def audit(content: bytes, where: str = "model.tflite") -> Audit:
    """Reads a .tflite file.

    Raises:
        ModelError: it is not one.
    """
    if content[4:8] != b"TFL3":
        raise ModelError(
            Problem(
                where=where,
                found=f"{len(content)} bytes that do not start as a TFLite file does",
                expected="a .tflite file",
                fix="give the path of a file that `compresskit apply` or `export` wrote",
            )
        )
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        graph = model.subgraphs[0]
        ops = tuple(_op(index, raw, model) for index, raw in enumerate(graph.operators))
        tensors = _decoded(
            _blocks(
                [_tensor(index, raw, model, content) for index, raw in enumerate(graph.tensors)],
                graph,
            ),
            ops,
        )
        inputs, outputs = (tuple(int(i) for i in ends) for ends in (graph.inputs, graph.outputs))
        answers = _answers(model, outputs)
    except _DAMAGE as error:
        raise ModelError(
            Problem(
                where=where,
                found=f"a damaged TFLite file ({type(error).__name__}: {error})",
                expected="a whole .tflite file",
                fix="export it again",
            )
        ) from error
    return Audit(
        size=len(content),
        gzip_size=len(gzip.compress(content, compresslevel=9, mtime=0)),
        tensors=tensors,
        ops=ops,
        inputs=inputs,
        outputs=outputs,
        answers=answers,
    )


def _answers(model: Any, outputs: tuple[int, ...]) -> dict[str, int]:
    """The converter shuffles several outputs: only the signature tells them apart."""
    signatures = getattr(model, "signatureDefs", None) or ()
    ends = signatures[0].outputs or () if signatures else ()
    return {
        end.name.decode(): outputs.index(end.tensorIndex)
        for end in ends
        if end.tensorIndex in outputs
    }


def _data(buffer: Any, content: bytes) -> Any:
    """The bytes of a constant, which may lie behind the structure of the file."""
    if buffer.offset > 1:
        return np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    return buffer.data


def _tensor(index: int, raw: Any, model: Any, content: bytes) -> Tensor:
    dtype = _TYPES[raw.type]
    # A dynamic dimension is -1 in the signature and 1 in the shape.
    sizes = raw.shapeSignature if raw.shapeSignature is not None else raw.shape
    shape = tuple(int(size) for size in (sizes if sizes is not None else ()))
    data = _data(model.buffers[raw.buffer], content)
    values: np.ndarray | None = None
    if data is not None and len(data) and dtype == _PACKED:
        values = _unpacked(np.asarray(data, dtype=np.uint8), shape)
    elif data is not None and len(data) and dtype in _ARRAYS:
        values = np.asarray(data, dtype=np.uint8).view(_ARRAYS[dtype]).reshape(shape)
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


def _unpacked(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """4-bit integers as int8."""
    halves = np.stack([data & 15, data >> 4], axis=-1).reshape(-1).astype(np.int8)
    size = int(np.prod(shape))
    return np.where(halves > 7, halves - 16, halves)[:size].astype(np.int8).reshape(shape)


def _blocks(tensors: list[Tensor], graph: Any) -> list[Tensor]:
    """The tensors, with the scales of those that have one for each block of values."""
    found = list(tensors)
    for index, raw in enumerate(graph.tensors):
        details = raw.quantization.details if raw.quantization is not None else None
        if isinstance(details, schema.BlockwiseQuantizationT):
            scales = tensors[details.scales].constant.astype(np.float32)
            found[index] = replace(tensors[index], scales=scales, block=int(details.blockSize))
    return found


def _decoded(tensors: list[Tensor], ops: Iterable[Op]) -> tuple[Tensor, ...]:
    """The tensors, with the values of those that are decoded from constants."""
    for op in ops:
        if op.name != DECODE:
            continue
        for position, output in enumerate(op.outputs):
            encoded, tables = (tensors[index] for index in op.inputs[2 * position :][:2])
            tensor = tensors[output]
            values = look_up(encoded.constant, tables.constant, tensor.shape, _ARRAYS[tensor.dtype])
            size = encoded.stored + tables.stored
            tensors[output] = replace(tensor, values=values, encoded=size)
    return tuple(tensors)


def _op(index: int, raw: Any, model: Any) -> Op:
    code = model.operatorCodes[raw.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    custom = code.customCode.decode(errors="replace") if code.customCode else ""
    return Op(
        index=index,
        name=custom or _OPS.get(number, f"BUILTIN_{number}"),
        inputs=tuple(int(i) for i in (raw.inputs if raw.inputs is not None else ())),
        outputs=tuple(int(i) for i in (raw.outputs if raw.outputs is not None else ())),
        version=code.version,
        options=raw.builtinOptions,
    )
