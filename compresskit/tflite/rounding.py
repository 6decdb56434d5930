"""Rounds the weights of a float file with litert-quantizer, in the process that converts.

TensorFlow's converter writes neither 4-bit weights nor 16-bit activations of models that
take tokens; this library does, and knows more ways to choose a scale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from compresskit.tflite.audit import audit
from compresskit.tflite.tensors import Tensor

_SIGNATURE = "serving_default"
_ALGORITHMS = {
    "min-max": "min_max_uniform_quantize",
    "mse": "MSE",
    "octav": "OCTAV",
    "gptq": "GPTQ",
}
# Ops with a kernel for weights of 4 bits, and those whose weights keep 8.
_NARROW = ("FULLY_CONNECTED", "CONV_2D")
_WIDE = ("DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "BATCH_MATMUL")


def round_weights(
    content: bytes,
    samples: dict[str, np.ndarray],
    *,
    bits: int,
    algorithm: str,
    block: int | None,
) -> bytes:
    """A float file with its weights as integers; activations stay floats between ops.

    Tables have 8 bits, and what is looked up is turned into floats behind the lookup.

    Args:
        samples: inputs by their names, for `gptq` and tables.
        bits: 4 or 8, of convolutions and dense layers; other kernels have 8.
        algorithm: how scales and integers are chosen.
        block: how many inputs of a dense layer share a scale; None: all of a channel.
    """
    from litert_quantizer import qtyping, quantizer

    ops = qtyping.TFLOperationName
    granularity = qtyping.QuantGranularity
    made = quantizer.Quantizer(bytearray(content))
    audited = audit(content)
    for name in (*_WIDE, *_NARROW):
        made.add_dynamic_config(
            ".*",
            ops(name),
            bits if name in _NARROW else 8,
            # Of GPTQ only dense layers are known, of the others no product of two tensors.
            algorithm_key=_ALGORITHMS[
                "min-max"
                if name == "BATCH_MATMUL" or (algorithm == "gptq" and name != "FULLY_CONNECTED")
                else algorithm
            ],
        )
    tables: list[tuple[Tensor, Tensor]] = []
    for op in audited.ops:
        output = _whole(audited.tensors[op.outputs[0]].name)
        first = audited.tensors[op.inputs[0]] if op.inputs else None
        if op.name == "FULLY_CONNECTED" and block is not None:
            weight = audited.tensors[op.inputs[1]]
            if weight.values is not None and weight.shape[-1] % block == 0:
                made.add_dynamic_config(
                    output,
                    ops.FULLY_CONNECTED,
                    bits,
                    granularity(f"BLOCKWISE_{block}"),
                    _ALGORITHMS[algorithm],
                )
        elif op.name == "GATHER" and first is not None and _is_table(first):
            made.add_static_config(
                output, ops.GATHER, 8, 8, weight_granularity=granularity.TENSORWISE
            )
            tables.append((first, audited.tensors[op.outputs[0]]))
    calibrated: Any = None
    if made.need_calibration:
        calibrated = made.calibrate({_SIGNATURE: list(_each(samples))}, num_threads=1)
        # A lookup copies rows: not what the samples looked up, but the table sets the scale.
        for table, rows in tables:
            step = np.abs(table.constant).max() / 127
            for name in (table.name, rows.name):
                calibrated.setdefault(name, {}).update(
                    min=np.array([[-128 * step]], np.float32),
                    max=np.array([[127 * step]], np.float32),
                )
    return _done(made, calibrated)


def _is_table(tensor: Tensor) -> bool:
    return tensor.values is not None and tensor.dtype == "FLOAT32" and len(tensor.shape) == 2


def round_all(content: bytes, samples: dict[str, np.ndarray]) -> bytes:
    """A float file with weights of 8 bits and activations of 16, which inputs of floats and
    outputs have, too.

    Args:
        samples: inputs by their names, on which the ranges of activations are measured.
    """
    from litert_quantizer import qtyping, quantizer

    made = quantizer.Quantizer(bytearray(content))
    made.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 16, 8)
    # Called with all samples it averages their ranges, and clips: an extreme is the whole range.
    ranges: dict[str, Any] = {}
    for sample in _each(samples):
        for name, seen in made.calibrate({_SIGNATURE: [sample]}, num_threads=1).items():
            known = ranges.setdefault(name, dict(seen))
            if "min" in seen:
                known["min"] = np.minimum(known["min"], seen["min"])
                known["max"] = np.maximum(known["max"], seen["max"])
    return _done(made, ranges)


def _done(made: Any, calibrated: Any) -> bytes:
    result = made.quantize(calibrated, enable_progress_bar=False, enable_progress_report=False)
    return _in_one(bytes(result.quantized_model))


def _in_one(content: bytes) -> bytes:
    """The file with its constants inside the structure: the library puts those of all but small
    models behind it, where tools that read the structure alone find none."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    behind = [buffer for buffer in model.buffers if buffer.offset > 1]
    if not behind:
        return content
    for buffer in behind:
        buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _whole(name: str) -> str:
    # The library calls an op by the names of its outputs, each with a semicolon behind it.
    return f"^{re.escape(name)};?$"


def _each(samples: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    for index in range(len(next(iter(samples.values())))):
        yield {
            name: array[index : index + 1].astype(
                np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32
            )
            for name, array in samples.items()
        }
