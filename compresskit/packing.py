"""A lossless container for .tflite files whose weights have few or unlikely values.

Every int8 tensor is coded by an entropy coder (asymmetric numeral systems: J. Duda, 2013,
https://arxiv.org/abs/1311.2540; by the library constriction) with the frequencies of its own
values, so it takes its zeroth-order entropy and hardly more. The rest of the file, with
holes where these tensors were, is compressed by LZMA. `unpack` gives back the same bytes, or
an error: the container holds their SHA-256.

Layout, little endian: 8 bytes `CKPACK\\x00\\x01`; SHA-256 of the file; three uint32: size of the
file, of the LZMA part, and how many tensors are coded; the LZMA part; the words of the coder.
The LZMA part holds a directory and the rest of the file. A directory entry is offset, size
and number of words as uint32, number of symbols less one as uint8, the symbols, and their
counts as uint32.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
from dataclasses import dataclass
from typing import Any

import constriction
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from compresskit.errors import ModelError, Problem
from compresskit.tflite.audit import Audit, audit

MAGIC = b"CKPACK\x00\x01"
_HEAD = struct.Struct("<32sIII")
_ENTRY = struct.Struct("<IIIB")
# A directory entry costs some bytes: smaller tensors stay in the rest of the file.
_LEAST = 256
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
_BYTES = (schema.TensorType.INT8, schema.TensorType.UINT8)


@dataclass(frozen=True, kw_only=True)
class _Region:
    """Bytes of a file that are coded: where they are."""

    offset: int
    size: int


def entropy_bytes(audited: Audit) -> int:
    """The zeroth-order entropy of a file's weights, in bytes, rounded up tensor by tensor.

    No code of single values in which each tensor has its own frequencies takes less.
    """
    total = 0.0
    for tensor in audited.weights:
        _, counts = np.unique(tensor.constant, return_counts=True)
        shares = counts / counts.sum()
        total += np.ceil(-(counts * np.log2(shares)).sum() / 8)
    return int(total)


def pack(content: bytes, where: str = "model.tflite") -> bytes:
    """The container of a .tflite file.

    Raises:
        ModelError: it is not one.
    """
    audit(content, where)  # says what is wrong with a file that cannot be read
    values = np.frombuffer(content, np.uint8)
    directory, words, start = [], [], 0
    rest = []
    regions = _regions(values)
    for region in regions:
        rest.append(content[start : region.offset])
        start = region.offset + region.size
        symbols, indices, counts = np.unique(
            values[region.offset : start], return_inverse=True, return_counts=True
        )
        coder = constriction.stream.stack.AnsCoder()
        if len(symbols) > 1:
            coder.encode_reverse(indices.astype(np.int32), _model(counts))
        words.append(coder.get_compressed())
        directory += [
            _ENTRY.pack(region.offset, region.size, len(words[-1]), len(symbols) - 1),
            symbols.tobytes(),
            counts.astype("<u4").tobytes(),
        ]
    rest.append(content[start:])
    packed = lzma.compress(b"".join([*directory, *rest]), lzma.FORMAT_RAW, filters=_FILTERS)
    digest = hashlib.sha256(content).digest()
    head = _HEAD.pack(digest, len(content), len(packed), len(regions))
    coded = b"".join(each.astype("<u4").tobytes() for each in words)
    return MAGIC + head + packed + coded


def unpack(packed: bytes, where: str = "container") -> bytes:
    """The file in a container, byte for byte.

    Raises:
        ModelError: it is no container, or a damaged one.
    """
    if not packed.startswith(MAGIC):
        raise ModelError(
            Problem(
                where=where,
                found="bytes that do not start as a container of compresskit does",
                expected="a file that `compresskit pack` wrote",
                fix="give the path of one",
            )
        )
    try:
        content = _unpacked(packed)
        wrong = None if _digest(packed) == hashlib.sha256(content).digest() else "another SHA-256"
    # Whatever damaged bytes lead the readers into, the coder's panics among it.
    except BaseException as cause:
        if isinstance(cause, KeyboardInterrupt | SystemExit):
            raise
        wrong = f"{type(cause).__name__}: {str(cause)[:200]}"
    if wrong is None:
        return content
    raise ModelError(
        Problem(
            where=where,
            found=f"a damaged container ({wrong})",
            expected="the bytes that `compresskit pack` wrote",
            fix="copy or pack the file again",
        )
    )


def _unpacked(packed: bytes) -> bytes:
    _, size, length, count = _HEAD.unpack_from(packed, len(MAGIC))
    start = len(MAGIC) + _HEAD.size
    coded = np.frombuffer(packed[start + length :], "<u4")
    plain = lzma.decompress(packed[start : start + length], lzma.FORMAT_RAW, filters=_FILTERS)
    position, word = 0, 0
    entries: list[tuple[_Region, np.ndarray, np.ndarray, np.ndarray]] = []
    for _ in range(count):
        offset, amount, words, last = _ENTRY.unpack_from(plain, position)
        position += _ENTRY.size
        symbols = np.frombuffer(plain, np.uint8, last + 1, position)
        counts = np.frombuffer(plain, "<u4", last + 1, position + last + 1)
        position += 5 * (last + 1)
        region = _Region(offset=offset, size=amount)
        entries.append((region, symbols, counts, coded[word : word + words]))
        word += words
    coded_bytes = sum(region.size for region, *_ in entries)
    if word != len(coded) or coded_bytes + len(plain) - position != size:
        raise ValueError("sizes that do not add up")
    content = bytearray()
    for region, symbols, counts, words in entries:
        missing = region.offset - len(content)
        content += plain[position : position + missing]
        position += missing
        indices = np.zeros(region.size, np.int32)
        if len(symbols) > 1:
            coder = constriction.stream.stack.AnsCoder(words.astype(np.uint32))
            indices = coder.decode(_model(counts), region.size)
        content += symbols[indices].tobytes()
    return bytes(content + plain[position:])


def _digest(packed: bytes) -> bytes:
    return _HEAD.unpack_from(packed, len(MAGIC))[0]


def _model(counts: np.ndarray) -> Any:
    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)


def _regions(values: np.ndarray) -> list[_Region]:
    """Where the contents of 8-bit constants are in a file, in ascending order, none twice."""
    model = schema.Model.GetRootAs(values.tobytes(), 0)
    graphs = (model.Subgraphs(index) for index in range(model.SubgraphsLength()))
    tensors = (graph.Tensors(index) for graph in graphs for index in range(graph.TensorsLength()))
    used = {tensor.Buffer() for tensor in tensors if tensor.Type() in _BYTES}
    # A view into the bytes says where they begin.
    base = np.frombuffer(model._tab.Bytes, np.uint8).__array_interface__["data"][0]
    found: dict[int, _Region] = {}
    for index in used:
        view = model.Buffers(index).DataAsNumpy()
        if isinstance(view, np.ndarray) and view.size >= _LEAST:
            offset = view.__array_interface__["data"][0] - base
            found[offset] = _Region(offset=offset, size=view.size)
    return [found[offset] for offset in sorted(found)]
