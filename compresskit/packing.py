"""A lossless container for .tflite files whose weights have few or unlikely values.

The 8-bit constants are coded by an entropy coder (asymmetric numeral systems: J. Duda, 2013,
https://arxiv.org/abs/1311.2540; by the library constriction), each with the frequencies of
its own values, so they take their zeroth-order entropy and hardly more. Of the scales of
biases the container holds how they differ from the product that they are, which is hardly
ever; of other scales and of biases the lowest bytes of all, then the next. `unpack` gives
back the same bytes, or an error: the container holds their SHA-256.

Layout, little endian: 8 bytes `CKPACK\\x00\\x02`; SHA-256 of the file; two uint32: size of the
file, and of the LZMA part; the LZMA part; the words of the coder. The LZMA part holds the
file with zeros in place of what is coded elsewhere, so that its structure says where that
is; the bytes of the scales and biases; and for each coded constant 256 bytes, how frequent
each value is from -128 to 127. A file whose structure depends on its constants is held by
LZMA alone: then the first of the sizes has its highest bit set.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
from typing import Any

import constriction
import numpy as np

from compresskit.errors import ModelError, Problem
from compresskit.tflite.audit import Audit, audit
from compresskit.tflite.decode import DECODE
from compresskit.tflite.places import Places, Product, places

MAGIC = b"CKPACK\x00\x02"
_HEAD = struct.Struct("<32sII")
_PLAIN = 1 << 31
# A table of frequencies costs some bytes: LZMA takes smaller constants.
_LEAST = {"least_weights": 256, "least_words": 32}
_RAW = lzma.FORMAT_RAW
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
# A frequency is rounded to a quarter of an octave: that costs 0.003 bit a value at most, and
# saves more in the tables of frequencies.
_STEPS = 4


def entropy_bytes(audited: Audit) -> int:
    """The zeroth-order entropy of a file's weights, in bytes, rounded up tensor by tensor.

    No code of single values in which each tensor has its own frequencies takes less. What
    is stored in 8 bits or 4 counts as a weight, whatever op reads it.
    """
    # What look-up tables are made of is no weight: that is what they decode to.
    tables = {index for op in audited.ops if op.name == DECODE for index in op.inputs}
    stored = [
        tensor
        for tensor in audited.tensors
        if tensor.dtype in ("INT8", "UINT8", "INT4") and tensor.index not in tables
    ]
    weights = {id(tensor): tensor for tensor in (*audited.weights, *stored)}
    total = 0.0
    for tensor in weights.values():
        if tensor.values is not None:
            _, counts = np.unique(tensor.values, return_counts=True)
            shares = counts / counts.sum()
            total += np.ceil(-(counts * np.log2(shares)).sum() / 8)
    return int(total)


def pack(content: bytes, where: str = "model.tflite") -> bytes:
    """The container of a .tflite file.

    Raises:
        ModelError: it is not one, or is larger than 2 GiB.
    """
    audit(content, where)  # says what is wrong with a file that cannot be read
    if len(content) >= _PLAIN:
        raise ModelError(
            Problem(
                where=where,
                found=f"a file of {len(content):,} bytes",
                expected="at most 2 GiB, as much as a .tflite file may have",
                fix="check that it is whole",
            )
        )
    digest = hashlib.sha256(content).digest()
    plain, words = _coded(content)
    size = len(content)
    if _restored(plain, words, size)[0] != content:
        plain, words, size = content, b"", size | _PLAIN
    packed = lzma.compress(plain, _RAW, filters=_FILTERS)
    return MAGIC + _HEAD.pack(digest, size, len(packed)) + packed + words


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
    content, wrong = b"", "shorter than its head"
    start = len(MAGIC) + _HEAD.size
    if len(packed) >= start:
        digest, size, length = _HEAD.unpack_from(packed, len(MAGIC))
        try:
            plain = lzma.decompress(packed[start : start + length], _RAW, filters=_FILTERS)
        except lzma.LZMAError as cause:
            wrong = f"LZMA: {cause}"
        else:
            content, wrong = _restored(plain, packed[start + length :], size)
        if not wrong and hashlib.sha256(content).digest() != digest:
            wrong = "another SHA-256"
    if not wrong:
        return content
    raise ModelError(
        Problem(
            where=where,
            found=f"a damaged container ({wrong})",
            expected="the bytes that `compresskit pack` wrote",
            fix="copy or pack the file again",
        )
    )


def _coded(content: bytes) -> tuple[bytes, bytes]:
    """What of a file LZMA is to hold, and the words of the coder."""
    found = places(content, **_LEAST)
    values = np.frombuffer(content, np.uint8).copy()
    weights = [values[place.slice].copy() for place in found.weights]
    levels = [_levels(each) for each in weights]
    coder = constriction.stream.stack.AnsCoder()
    # The coder gives back last what it took first.
    for each, level in zip(reversed(weights), reversed(levels), strict=True):
        if np.count_nonzero(level) > 1:
            order = np.cumsum(level > 0) - 1
            coder.encode_reverse(order[_signed(each)].astype(np.int32), _model(level))
    products = [_product(values, product) for product in found.products]
    for product, made in zip(found.products, products, strict=True):
        values[product.bias.slice] ^= made
    planes = _planes([values[place.slice].copy() for place in found.words])
    for place in (*found.weights, *found.words):
        values[place.slice] = 0
    plain = values.tobytes() + planes + b"".join(level.tobytes() for level in levels)
    return plain, coder.get_compressed().astype("<u4").tobytes()


def _restored(plain: bytes, words: bytes, size: int) -> tuple[bytes, str]:
    """The file, or what is wrong."""
    if size & _PLAIN:
        return plain, ""
    try:
        return _decoded(plain, words, size), ""
    # Whatever wrong bytes lead the readers into, the coder's panics among it.
    except BaseException as cause:
        if isinstance(cause, KeyboardInterrupt | SystemExit):
            raise
        return b"", f"{type(cause).__name__}: {str(cause)[:200]}"


def _decoded(plain: bytes, words: bytes, size: int) -> bytes:
    """The opposite of `_coded`."""
    found = places(plain[:size], **_LEAST)
    values = np.frombuffer(plain, np.uint8, size).copy()
    amount = sum(place.size for place in found.words)
    planes = np.frombuffer(plain, np.uint8, amount, size)
    rows = np.frombuffer(plain, np.uint8, offset=size + amount).reshape(len(found.weights), 256)
    coder = constriction.stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))
    for place, level in zip(found.weights, rows, strict=True):
        symbols = np.flatnonzero(level).astype(np.uint8) ^ 128
        indices = np.zeros(place.size, np.int32)
        if len(symbols) > 1:
            indices = coder.decode(_model(level), place.size)
        values[place.slice] = symbols[indices]
    if not coder.is_empty():
        raise ValueError("more words than the constants have")
    _put_planes(values, found, planes)
    for product in found.products:
        values[product.bias.slice] ^= _product(values, product)
    return values.tobytes()


def _signed(values: np.ndarray) -> np.ndarray:
    """Bytes as their position from -128 to 127, so that near values are neighbours."""
    return values ^ 128


def _levels(values: np.ndarray) -> np.ndarray:
    """How frequent each value is: 0 for none, else a rounded logarithm; (256,) uint8."""
    counts = np.bincount(_signed(values), minlength=256)
    with np.errstate(divide="ignore"):
        levels = 1 + np.round(_STEPS * np.log2(counts))
    return np.where(counts > 0, levels, 0).astype(np.uint8)


def _model(level: np.ndarray) -> Any:
    shares = 2.0 ** (level[level > 0].astype(np.float64) / _STEPS)
    return constriction.stream.model.Categorical(shares / shares.sum(), perfect=False)


def _product(values: np.ndarray, product: Product) -> np.ndarray:
    """The bytes of the scales that a bias has if its scales are those of weight and data."""
    weight = values[product.weight.slice].view("<f4")
    with np.errstate(all="ignore"):  # a damaged file may hold any numbers
        made = (weight * values[product.data.slice].view("<f4")).astype("<f4")
    return made.view(np.uint8)


def _planes(contents: list[np.ndarray]) -> bytes:
    """The lowest byte of each 32-bit word, then the next of each."""
    if not contents:
        return b""
    return np.concatenate(contents).reshape(-1, 4).T.tobytes()


def _put_planes(values: np.ndarray, found: Places, planes: np.ndarray) -> None:
    words = np.ascontiguousarray(planes.reshape(4, -1).T).ravel()
    start = 0
    for place in found.words:
        values[place.slice] = words[start : start + place.size]
        start += place.size
