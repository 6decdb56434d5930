"""Each op of a file as a file of its own, to see what it takes. Loads no TensorFlow.

Neither of LiteRT's interpreters has a profiler in Python, so the time of an op inside a graph
cannot be read there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from compresskit.tflite.audit import Audit


def ops_alone(content: bytes, audited: Audit) -> list[tuple[int, bytes]]:
    """A file of each op that computes something of the inputs.

    Ops of constants alone, such as the DEQUANTIZE of a float16 weight, are run once by LiteRT, when
    it loads a file: they come along with the op that reads what they make.

    Args:
        audited: what `audit` found in `content`.

    Returns:
        The index of each op in the graph, and the bytes of its file, whose inputs and outputs are
        those tensors of the op that are no constants.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    makers = {output: op.index for op in audited.ops for output in op.outputs}
    constant = {tensor.index for tensor in audited.tensors if tensor.values is not None}
    for op in audited.ops:
        if all(index in constant for index in op.inputs if index >= 0):
            constant.update(op.outputs)

    def made_of(index: int) -> list[int]:
        """The ops that make an op's constants, and itself."""
        before = [makers[i] for i in audited.ops[index].inputs if i in constant and i in makers]
        return [maker for each in before for maker in made_of(each)] + [index]

    files = []
    for op in audited.ops:
        if all(output in constant for output in op.outputs):
            continue
        inputs = [i for i in op.inputs if i >= 0 and i not in constant and not _variable(graph, i)]
        chosen = [graph.operators[each] for each in dict.fromkeys(made_of(op.index))]
        files.append((op.index, _written(model, chosen, dict.fromkeys(inputs), op.outputs)))
    return files


def _variable(graph: Any, index: int) -> bool:
    """Whether a tensor is the state that an op keeps, such as that of a fused LSTM."""
    return bool(graph.tensors[index].isVariable)


def _tensors(op: Any) -> list[int]:
    return [
        int(index)
        for each in (op.inputs, op.intermediates, op.outputs)
        if each is not None
        for index in each
    ]


def _written(model: Any, ops: list[Any], inputs: Iterable[int], outputs: Iterable[int]) -> bytes:
    """A file of a few ops, with their tensors and buffers alone."""
    graph = model.subgraphs[0]
    used = [index for op in ops for index in _tensors(op) if index >= 0]
    order = {index: position for position, index in enumerate(dict.fromkeys(used))}
    order[-1] = -1
    buffers = [schema.BufferT()]  # the first is empty, by the format
    tensors = []
    for index in list(order)[:-1]:
        tensor = copy.copy(graph.tensors[index])
        data = model.buffers[tensor.buffer]
        tensor.buffer = 0
        if data.data is not None and len(data.data):
            tensor.buffer = len(buffers)
            buffers.append(data)
        tensors.append(tensor)
    cut = copy.copy(graph)
    cut.tensors = tensors
    cut.inputs, cut.outputs = [order[i] for i in inputs], [order[i] for i in outputs]
    cut.operators = []
    for op in ops:
        moved = copy.copy(op)
        moved.inputs, moved.outputs = [order[i] for i in op.inputs], [order[i] for i in op.outputs]
        if op.intermediates is not None:
            moved.intermediates = [order[i] for i in op.intermediates]
        cut.operators.append(moved)
    alone = copy.copy(model)
    alone.subgraphs, alone.buffers = [cut], buffers
    alone.signatureDefs = alone.metadata = alone.metadataBuffer = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(alone.Pack(builder), b"TFL3")
    return bytes(builder.Output())
