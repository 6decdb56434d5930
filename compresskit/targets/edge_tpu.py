"""The Coral Edge TPU. Its compiler is closed, so files are held to its published rules.

Where `edgetpu_compiler` is on PATH it compiles the file, and its word counts instead. Findings
of rules that no source confirms are not `confirmed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compresskit.target import Finding, Grid, Placement, Precision, Target
from compresskit.targets.edge_tpu_compiler import SUFFIX, available, compile_file
from compresskit.targets.edge_tpu_ops import OPS
from compresskit.tflite.macs import placement

if TYPE_CHECKING:
    from compresskit.tflite.audit import Audit, Op
    from compresskit.tflite.tensors import Tensor

_EIGHT_BIT = ("INT8", "UINT8")
_MAPPED_DIMENSIONS = 3
# Logs of the compiler show 7.6 to 7.9 MiB of on-chip memory left for parameters.
_PARAMETER_BYTES = 8_000_000
_LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
_LSTM_CELL_STATE = 19  # its position among the inputs

# "Op builtin_code out of range: 150": ops whose code in the TFLite schema is 150 or more.
_UNKNOWN_TO_COMPILER = (
    *("GELU", "DYNAMIC_UPDATE_SLICE", "RELU_0_TO_1", "ATAN2", "SIGN", "BITCAST", "BITWISE_XOR"),
    *("UNSORTED_SEGMENT_PROD", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_SUM"),
    *("UNSORTED_SEGMENT_MIN", "RIGHT_SHIFT", "DILATE", "REDUCE_WINDOW"),
)


@dataclass(frozen=True, kw_only=True)
class _Fault:
    """A reason against an op. `stays`: the op is left to the CPU, but ends no mapping."""

    reason: str
    confirmed: bool = True
    warning: bool = False
    aborts: bool = False
    stays: bool = False


def check(audit: Audit) -> list[Finding]:
    """What of a file the Edge TPU cannot run, in graph order.

    The compiler maps the ops up to the first one that it does not support; the finding
    of that one says how many ops it keeps from the Edge TPU.
    """
    faults = [(op, fault) for op in audit.ops for fault in _faults(op, audit)]
    stopping = [(op, fault) for op, fault in faults if not fault.warning and not fault.stays]
    # If the compiler aborts there is no mapping that could end somewhere.
    aborts = any(fault.aborts for _, fault in stopping)
    first = None if aborts or not stopping else stopping[0][1]
    findings = [
        Finding(
            index=op.index,
            op=op.name,
            reason=fault.reason + (_what_follows(op, audit) if fault is first else ""),
            confirmed=fault.confirmed,
            warning=fault.warning,
        )
        for op, fault in faults
    ]
    findings += _streamed(audit)
    return sorted(findings, key=lambda finding: finding.index)


def place(audit: Audit) -> Placement:
    """Which ops the rules map: those before the first that stops the mapping."""
    own: dict[int, str] = {}
    stopped = aborted = None
    for op in audit.ops:
        for fault in _faults(op, audit):
            if fault.warning:
                continue
            own.setdefault(op.index, fault.reason)
            if not fault.stays:
                stopped = stopped or op
                aborted = aborted or (op if fault.aborts else None)
    end = aborted or stopped
    stays = dict(own)
    for op in audit.ops if end else ():
        if end and (aborted or op.index > end.index):
            ends = "on which the compiler aborts" if aborted else "at which the mapping ends"
            stays.setdefault(
                op.index, f"nothing wrong with it, but op {end.index} {end.name}, {ends}"
            )
    return placement(audit, stays)


def _what_follows(op: Op, audit: Audit) -> str:
    after = sum(other.index > op.index for other in audit.ops)
    ops = {0: "", 1: " and the op after it"}.get(after, f" and all {after} ops after it")
    return f"; it{ops} run{'' if after else 's'} on the CPU"


def _faults(op: Op, audit: Audit) -> Iterator[_Fault]:
    if op.name in _UNKNOWN_TO_COMPILER or op.name.startswith(("STABLEHLO_", "BUILTIN_")):
        yield _Fault(
            reason="is newer than the compiler, which aborts on it: nothing of the file is mapped",
            aborts=True,
        )
        return
    if op.name == "DEQUANTIZE" and set(op.outputs) <= set(audit.outputs):
        yield _Fault(
            reason="turns an output into floats on the CPU; export the file with int8 outputs",
            stays=True,
        )
        return
    row = OPS.get(op.name)
    if row is None:
        yield _Fault(reason="is not an op of the Edge TPU")
        return
    if row.source == "recalled":
        yield _Fault(
            reason="is on no list that was read; only the compiler can tell",
            confirmed=False,
            warning=True,
        )
    if op.name == "QUANTIZE" and _reads_float_input(op, audit):
        yield _Fault(
            reason="rounds an input of floats on the CPU; export the file with int8 inputs",
            stays=True,
        )
        return
    yield from _tensor_faults(op, audit)
    for limit in row.limits:
        if limit.broken(op, audit):
            yield _Fault(
                reason=limit.reason,
                confirmed=limit.source != "recalled",
                warning=limit.warning,
                aborts=limit.aborts,
            )


def _reads_float_input(op: Op, audit: Audit) -> bool:
    return op.inputs[0] in audit.inputs and audit.tensors[op.inputs[0]].dtype == "FLOAT32"


def _tensor_faults(op: Op, audit: Audit) -> Iterator[_Fault]:
    positions = [*op.inputs, *op.outputs]
    if op.name == _LSTM and len(op.inputs) > _LSTM_CELL_STATE:
        # The one tensor of 16 bits that the integer kernel itself asks for.
        del positions[_LSTM_CELL_STATE]
    tensors = [audit.tensors[index] for index in positions if index >= 0]
    computed = [tensor for tensor in tensors if _is_computed(tensor)]
    for tensor in tensors:
        # Constants of 32 bits are biases, shapes and axes.
        allowed = _EIGHT_BIT if _is_computed(tensor) else (*_EIGHT_BIT, "INT32")
        if tensor.dtype not in allowed:
            yield _Fault(
                reason=f"has a {tensor.dtype} tensor, {tensor.name!r}; "
                "only 8-bit integers are mapped"
            )
            break
    for tensor in computed:
        if any(size < 0 for size in tensor.shape):
            yield _Fault(
                reason=f"has a tensor of dynamic shape, {tensor.name!r}: "
                "the compiler refuses the file",
                aborts=True,
            )
            break
    for tensor in computed:
        if any(size > 1 for size in tensor.shape[:-_MAPPED_DIMENSIONS]):
            yield _Fault(
                reason=f"has a tensor of shape {tensor.shape}; "
                f"only the {_MAPPED_DIMENSIONS} innermost dimensions may be larger than 1"
            )
            break


def _is_computed(tensor: Tensor) -> bool:
    # A constant without elements, such as the shape of a scalar, has no values either.
    return tensor.values is None and 0 not in tensor.shape


def _streamed(audit: Audit) -> Iterator[Finding]:
    """A warning at the op whose parameters no longer fit on the chip."""
    total, seen = 0, set()
    for op in audit.ops:
        for index in op.inputs:
            values = audit.tensors[index].values if index >= 0 else None
            if values is not None and index not in seen:
                seen.add(index)
                total += values.nbytes
        if total > _PARAMETER_BYTES:
            yield Finding(
                index=op.index,
                op=op.name,
                reason="the parameters up to here exceed the memory on the chip, about 8 MB; "
                "the rest is read over the bus at every inference, which is slow",
                warning=True,
            )
            return


TARGET = Target(
    name="edge-tpu",
    summary="Coral Edge TPU: full int8, int8 in and out, static shapes",
    precisions={
        "int8": Precision(
            weights="int8", activations="int8", io="int8", grid=Grid(per_channel_dense=False)
        ),
    },
    default="int8",
    check=check,
    place=place,
    compile=compile_file,
    available=available,
    suffix=SUFFIX,
    claim="passes the static rules of the Edge TPU (not compiled)",
    worth={
        "shrink": "smaller and faster, by as much as is removed",
        "distill": "as much smaller and faster as the student is",
        "prune": "a smaller download; the same memory and speed",
        "prune:n:m": "a smaller download; the same memory and speed",
        "prune:block": "a smaller download; the same memory and speed",
        "cluster": "a smaller download; the same memory and speed",
        "qat": "what lets the model run there at all; accuracy that rounding would lose",
    },
)
