""".tflite files of the shared models, each converted once."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import flatbuffers
import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from compresskit.graph import operations
from compresskit.methods.quantize import Quantization
from compresskit.ranges import Range
from compresskit.stages import QAT
from compresskit.target import Grid, Precision
from compresskit.tflite.convert import convert
from compresskit.weights import weights_of
from tests.models import bidirectional, sequences, tiny_bert
from tests.training import compressed, inputs_of, length, trained

PRECISIONS = {
    "float32": Precision(weights="float32", activations="float32", io="float32"),
    "float16": Precision(weights="float16", activations="float32", io="float32"),
    "dynamic": Precision(weights="int8", activations="float32", io="float32"),
}


def shared(make: Callable[..., bytes]) -> Callable[..., bytes]:
    """Made once for all processes that run tests at a time."""

    @functools.cache
    @functools.wraps(make)
    def read(*args: object, **changes: object) -> bytes:
        name = "-".join(map(str, (make.__name__, *args, *changes.items())))
        path = Path(os.environ["COMPRESSKIT_TEST_FILES"], name)
        if not path.exists():
            mine = path.with_name(f"{name}.{os.getpid()}")
            mine.write_bytes(make(*args, **changes))
            mine.replace(path)
        return path.read_bytes()

    return read


@shared
def plain_file(name: str, precision: str) -> bytes:
    """A plain model's file."""
    return convert(trained(name), PRECISIONS[precision], sample=inputs_of(name, 1))


@shared
def token_file() -> bytes:
    """A float16 file that looks token ids up, with two fused LSTMs; untrained."""
    return convert(bidirectional(), PRECISIONS["float16"], sample=sequences("bidirectional", 1))


@shared
def int8_file(name: str, per_channel_dense: bool = True, io: str = "int8") -> bytes:
    """The file of a model that was pruned and quantized."""
    done = compressed(name, per_channel_dense)
    grid = Grid(per_channel_dense=per_channel_dense)
    precision = Precision(weights="int8", activations="int8", io=io, grid=grid)
    return convert(
        done.model, precision, sample=done.x[:1], calibration=done.x[:16], ranges=done.ranges
    )


@functools.cache
def folded_tables(precision: str, segments: int = 2) -> tuple[keras.Model, bytes]:
    """A tiny BERT on the grid of training, a third of its tables zero, and its file.

    The converter looks up the rows of positions and of segments beforehand.
    """
    keras.utils.set_random_seed(0)
    model, x = tiny_bert(segments=segments), inputs_of("tiny_bert")
    for weight in weights_of(model):
        if weight.layout.table:
            zero = np.random.default_rng(0).random(weight.shape) < 1 / 3
            weight.variable.assign(np.where(zero, 0.0, weight.variable.numpy()))
    ranges = Quantization(QAT()).attach(model, x[:2], Grid(), length()).detach()["ranges"]
    if precision != "int8":
        return model, convert(model, PRECISIONS[precision], sample=x[:1])
    # As training would learn them. Without, the additions become one, of a sum of tables.
    ranges += tuple(
        Range(operation=index, name=each.name, place="output", low=-0.2, high=0.2, bits=8)
        for index, each in enumerate(operations(model))
        if each.name in ("position_add", "segment_add")
    )
    int8 = Precision(weights="int8", activations="int8", io="int8")
    return model, convert(model, int8, sample=x[:1], calibration=x, ranges=ranges)


def changed(content: bytes, change) -> bytes:
    """A file after `change` was called with its first graph, as flatbuffer objects."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model.subgraphs[0])
    return written(model)


def written(model) -> bytes:
    """The file of flatbuffer objects."""
    builder = flatbuffers.Builder(1024)
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
