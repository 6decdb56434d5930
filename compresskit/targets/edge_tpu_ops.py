"""The ops of the Coral Edge TPU as a table: which, within which limits, known from where.

The rows are those of compiler 16, the last one, and of runtime 14.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from compresskit.tflite.audit import Audit, Op

# Of the vendor, of its users, or from memory with no page that confirms it.
Source = Literal["document", "issue", "recalled"]

# Numbers of the TFLite schema.
_NO_ACTIVATION = 0
_DEFAULT_WEIGHTS_FORMAT = 0

_SOFTMAX_ELEMENTS = 16_000
_LSTM_WIDTH = 900


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A constraint on an op.

    Attributes:
        broken: whether an op breaks it.
        reason: what is wrong with an op that does.
        source: where the constraint is known from.
        warning: whether the op runs all the same.
        aborts: whether the compiler stops, so that nothing of the file is mapped.
    """

    broken: Callable[[Op, Audit], bool]
    reason: str
    source: Source = "document"
    warning: bool = False
    aborts: bool = False


@dataclass(frozen=True, kw_only=True)
class Supported:
    """An op that the Edge TPU runs.

    Attributes:
        source: where it is known from that it does.
        limits: under which conditions.
    """

    op: str
    source: Source = "document"
    limits: tuple[Limit, ...] = ()


def _constant(op: Op, position: int, audit: Audit) -> Any:
    return audit.tensors[op.inputs[position]].values


def _is_vector(shape: Sequence[int]) -> bool:
    return sum(size > 1 for size in shape) <= 1


def _option(op: Op, name: str, default: int = 0) -> int:
    # A file may leave out options that all have their default.
    return int(getattr(op.options, name, default))


def _fused(op: Op, audit: Audit) -> bool:
    return _option(op, "fusedActivationFunction") != _NO_ACTIVATION


def _unequal_dilation(op: Op, audit: Audit) -> bool:
    return _option(op, "dilationHFactor", 1) != _option(op, "dilationWFactor", 1)


def _joins_constant(op: Op, audit: Audit) -> bool:
    inputs = [audit.tensors[index] for index in op.inputs]
    constants = [tensor for tensor in inputs if tensor.values is not None]
    zeros = all(tensor.sparsity == 1 for tensor in constants)
    return bool(constants) and not (len(inputs) == 2 and zeros)


def _axes(op: Op, audit: Audit) -> list[int]:
    rank = len(audit.tensors[op.inputs[0]].shape)
    axes = _constant(op, 1, audit)
    return [] if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]


def _reduces_batch(op: Op, audit: Audit) -> bool:
    return len(audit.tensors[op.inputs[0]].shape) > 1 and 0 in _axes(op, audit)


def _reduces_odd_depth(op: Op, audit: Audit) -> bool:
    shape = audit.tensors[op.inputs[0]].shape
    return len(shape) - 1 in _axes(op, audit) and shape[-1] % 4 != 0


def _packs_batch(op: Op, audit: Audit) -> bool:
    return _option(op, "axis") % len(audit.tensors[op.outputs[0]].shape) == 0


def _pads_batch(op: Op, audit: Audit) -> bool:
    paddings = _constant(op, 1, audit)
    return paddings is not None and len(paddings) > 1 and bool(paddings[0].any())


def _splits_batch(op: Op, audit: Audit) -> bool:
    axis, shape = _constant(op, 0, audit), audit.tensors[op.inputs[1]].shape
    return axis is not None and len(shape) > 1 and int(axis.reshape(-1)[0]) % len(shape) == 0


def _computed_input(position: int) -> Callable[[Op, Audit], bool]:
    def broken(op: Op, audit: Audit) -> bool:
        return len(op.inputs) > position and _constant(op, position, audit) is None

    return broken


def _strides(op: Op, audit: Audit) -> bool:
    strides = _constant(op, 3, audit)
    return strides is None or bool((strides != 1).any())


_FUSED = Limit(broken=_fused, reason="has a fused activation")
_DILATION = Limit(broken=_unequal_dilation, reason="dilates height and width unequally")
_BATCH = Limit(broken=_reduces_batch, reason="reduces the batch dimension")
_CONSTANT_AXES = Limit(broken=_computed_input(1), reason="its axes are not constant")
_CONSTANT_WEIGHTS = Limit(broken=_computed_input(1), reason="its weights are not constant")

OPS: dict[str, Supported] = {
    row.op: row
    for row in (
        Supported(op="ADD"),
        Supported(op="AVERAGE_POOL_2D", limits=(_FUSED,)),
        Supported(
            op="CONCATENATION",
            limits=(
                _FUSED,
                Limit(
                    broken=_joins_constant,
                    reason="joins a constant, other than one of zeros to one other input",
                ),
            ),
        ),
        Supported(
            op="CONV_2D",
            limits=(
                _DILATION,
                _CONSTANT_WEIGHTS,
                Limit(
                    broken=lambda op, audit: op.version >= 6,
                    reason="has version 6 or newer, on which the compiler aborts",
                    source="issue",
                    aborts=True,
                ),
            ),
        ),
        Supported(op="DEPTHWISE_CONV_2D", limits=(_DILATION, _CONSTANT_WEIGHTS)),
        Supported(op="EXPAND_DIMS"),
        Supported(
            op="FULLY_CONNECTED",
            limits=(
                _CONSTANT_WEIGHTS,
                Limit(
                    broken=lambda op, _: _option(op, "weightsFormat") != _DEFAULT_WEIGHTS_FORMAT,
                    reason="its weights are not in the default format",
                ),
                Limit(
                    broken=lambda op, audit: not _is_vector(audit.tensors[op.outputs[0]].shape),
                    reason="its output has more than one dimension",
                ),
                # TFLite learned of several scales here after the last compiler came out.
                Limit(
                    broken=lambda op, audit: audit.tensors[op.inputs[1]].scales.size > 1,
                    reason="its weights have a scale for every channel, not one",
                    source="recalled",
                ),
            ),
        ),
        Supported(op="L2_NORMALIZATION"),
        Supported(op="LOGISTIC"),
        Supported(op="MAXIMUM"),
        Supported(op="MAX_POOL_2D", limits=(_FUSED,)),
        Supported(
            op="MEAN",
            limits=(
                _CONSTANT_AXES,
                _BATCH,
                Limit(
                    broken=_reduces_odd_depth,
                    reason="reduces a depth that is not a multiple of 4",
                ),
            ),
        ),
        Supported(op="MINIMUM"),
        Supported(op="MUL"),
        Supported(
            op="PACK", limits=(Limit(broken=_packs_batch, reason="packs the batch dimension"),)
        ),
        Supported(
            op="PAD",
            limits=(
                Limit(broken=_computed_input(1), reason="its paddings are not constant"),
                Limit(broken=_pads_batch, reason="pads the batch dimension"),
            ),
        ),
        Supported(
            op="PRELU",
            limits=(
                Limit(
                    broken=lambda op, audit: prod(audit.tensors[op.inputs[1]].shape[:-1]) > 1,
                    reason="its slopes differ along more than the last dimension "
                    "(Keras: shared_axes=[1, 2])",
                ),
            ),
        ),
        Supported(op="QUANTIZE"),
        Supported(op="REDUCE_MAX", limits=(_CONSTANT_AXES, _BATCH)),
        Supported(op="REDUCE_MIN", limits=(_CONSTANT_AXES, _BATCH)),
        Supported(op="RELU"),
        Supported(op="RELU6"),
        Supported(op="RELU_N1_TO_1"),
        Supported(
            op="RESHAPE",
            limits=(Limit(broken=_computed_input(1), reason="its new shape is not constant"),),
        ),
        Supported(op="RESIZE_BILINEAR"),
        Supported(op="RESIZE_NEAREST_NEIGHBOR"),
        Supported(op="RSQRT", source="recalled"),
        Supported(op="SLICE"),
        Supported(
            op="SOFTMAX",
            limits=(
                Limit(
                    broken=lambda op, audit: not _is_vector(audit.tensors[op.inputs[0]].shape),
                    reason="its input has more than one dimension",
                ),
                Limit(
                    broken=lambda op, audit: (
                        prod(audit.tensors[op.inputs[0]].shape) > _SOFTMAX_ELEMENTS
                    ),
                    reason=f"its input has more than {_SOFTMAX_ELEMENTS:,} elements",
                ),
            ),
        ),
        Supported(op="SPACE_TO_DEPTH"),
        Supported(
            op="SPLIT",
            limits=(
                Limit(broken=_splits_batch, reason="splits the batch dimension", source="recalled"),
            ),
        ),
        Supported(op="SQUARED_DIFFERENCE", source="recalled"),
        Supported(op="SQUEEZE"),
        Supported(
            op="STRIDED_SLICE",
            limits=(
                Limit(broken=_strides, reason="has a stride other than 1"),
                Limit(
                    broken=lambda op, _: bool(
                        _option(op, "ellipsisMask") or _option(op, "newAxisMask")
                    ),
                    reason="has an ellipsis or a new axis",
                ),
            ),
        ),
        Supported(op="SUB"),
        Supported(op="SUM", source="recalled", limits=(_CONSTANT_AXES, _BATCH)),
        Supported(op="TANH"),
        Supported(op="TRANSPOSE"),
        Supported(op="TRANSPOSE_CONV", source="recalled", limits=(_CONSTANT_WEIGHTS,)),
        Supported(
            op="UNIDIRECTIONAL_SEQUENCE_LSTM",
            limits=(
                Limit(
                    broken=lambda op, audit: audit.tensors[op.inputs[0]].shape[-1] > _LSTM_WIDTH,
                    reason=f"its input is wider than {_LSTM_WIDTH}: the compiler has failed "
                    "without a word on such",
                    source="issue",
                    warning=True,
                ),
            ),
        ),
    )
}
