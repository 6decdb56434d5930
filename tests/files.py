""".tflite files of the shared models, each converted once."""

from __future__ import annotations

import functools

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from compresskit.target import Grid, Precision
from compresskit.tflite.convert import convert
from tests.training import compressed, inputs_of, trained

PRECISIONS = {
    "float32": Precision(weights="float32", activations="float32", io="float32"),
    "float16": Precision(weights="float16", activations="float32", io="float32"),
    "dynamic": Precision(weights="int8", activations="float32", io="float32"),
}


@functools.cache
def plain_file(name: str, precision: str) -> bytes:
    """A plain model's file."""
    return convert(trained(name), PRECISIONS[precision], sample=inputs_of(name, 1))


@functools.cache
def int8_file(name: str, per_channel_dense: bool = True, io: str = "int8") -> bytes:
    """The file of a model that was pruned and quantized."""
    done = compressed(name, per_channel_dense)
    grid = Grid(per_channel_dense=per_channel_dense)
    precision = Precision(weights="int8", activations="int8", io=io, grid=grid)
    return convert(
        done.model, precision, sample=done.x[:1], calibration=done.x[:16], ranges=done.ranges
    )


def changed(content: bytes, change) -> bytes:
    """A file after `change` was called with its first graph, as flatbuffer objects."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model.subgraphs[0])
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def bias_with_another_scale(graph) -> None:
    """Damages a file as a wrong conversion does: it loads, runs, and answers wrongly."""
    for tensor in graph.tensors:
        scales = tensor.quantization.scale if tensor.quantization is not None else None
        if tensor.type == schema.TensorType.INT32 and scales is not None and len(scales):
            tensor.quantization.scale = np.asarray(scales) * 2
            return
    raise AssertionError("no bias in the file")
