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
from compresskit.tflite.tensors import ARRAYS, Tensor, tensors_of

_OPS = {number: name for name, number in vars(schema.BuiltinOperator).items() if name.isupper()}
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
        tensors = _decoded(tensors_of(model, graph, content), ops)
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


def _decoded(tensors: list[Tensor], ops: Iterable[Op]) -> tuple[Tensor, ...]:
    """The tensors, with the values of those that are decoded from constants."""
    for op in ops:
        if op.name != DECODE:
            continue
        for position, output in enumerate(op.outputs):
            encoded, tables = (tensors[index] for index in op.inputs[2 * position :][:2])
            tensor = tensors[output]
            values = look_up(encoded.constant, tables.constant, tensor.shape, ARRAYS[tensor.dtype])
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
