"""A lossless container for .tflite files whose weights have few or unlikely values.

The 8-bit constants are coded by an entropy coder (`compresskit.coding`) that learns how often
each value comes, and which rows and columns of a matrix have fewer zeros: so they take about
their zeroth-order entropy, and less where zeros are uneven. One that repeats itself, such as
an embedding of one segment, is left to LZMA. Of the scales of biases the container holds how
they differ from the product that they are, which is hardly ever; of biases and of other scales
the lowest bytes of all, then the next. `unpack` gives back the same bytes, or an error: the
container holds a SHA-256.

Layout, little endian: 8 bytes `CKPACK\\x00\\x03`; SHA-256 of all that follows and of the file;
two uint32: size of the file, and of the LZMA part; the LZMA part; the words of the coder. The
LZMA part holds the file with zeros in place of what is coded elsewhere, so that its structure
says where that is; the bytes of the biases and scales; and for each 8-bit constant 256 bits,
which values from -128 to 127 it holds, none if it is left where it is, and its commonest value.
A file whose structure depends on its constants is held by LZMA alone: then the first of the
sizes has its highest bit set.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from constriction import stream

from compresskit.coding import Alphabet, decode, encode
from compresskit.errors import ModelError, Problem
from compresskit.tflite.audit import Audit, audit
from compresskit.tflite.decode import DECODE
from compresskit.tflite.places import Place, Product, places

_NAME = b"CKPACK\x00"
MAGIC = _NAME + b"\x03"
_DIGEST_SIZE = 32
_SIZES = struct.Struct("<II")
_PLAIN = 1 << 31
# Which values there are costs some bytes: LZMA takes smaller constants.
_LEAST = {"least_weights": 256, "least_words": 32}
_RAW = lzma.FORMAT_RAW
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
# Of each constant: a bit for each value, and its commonest.
_BITS, _ROW = 32, 33


def entropy_bytes(audited: Audit) -> int:
    """The zeroth-order entropy of a file's weights, in bytes, rounded up tensor by tensor.

    No code takes less that knows of a value only how frequent it is in its tensor. What is
    stored in 8 bits or 4 counts as a weight, whatever op reads it.
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
            total += np.ceil(_entropy(tensor.values))
    return int(total)


def _entropy(values: np.ndarray) -> float:
    """In bytes."""
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


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
    plain, words = _coded(content)
    size = len(content)
    if _restored(plain, words, size)[0] != content:
        plain, words, size = content, b"", size | _PLAIN
    packed = lzma.compress(plain, _RAW, filters=_FILTERS)
    rest = _SIZES.pack(size, len(packed)) + packed + words
    return MAGIC + _digest(rest, content) + rest


def unpack(packed: bytes, where: str = "container") -> bytes:
    """The file in a container, byte for byte.

    Raises:
        ModelError: it is no container, or a damaged one.
    """
    if not packed.startswith(MAGIC):
        raise ModelError(_unknown(packed, where))
    content, wrong = b"", "shorter than its head"
    digest, rest = packed[len(MAGIC) :][:_DIGEST_SIZE], packed[len(MAGIC) + _DIGEST_SIZE :]
    if len(rest) >= _SIZES.size:
        size, length = _SIZES.unpack_from(rest)
        end = _SIZES.size + length
        try:
            plain = lzma.decompress(rest[_SIZES.size : end], _RAW, filters=_FILTERS)
        except lzma.LZMAError as cause:
            wrong = f"LZMA: {cause}"
        else:
            content, wrong = _restored(plain, rest[end:], size)
        if not wrong and _digest(rest, content) != digest:
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


def _unknown(packed: bytes, where: str) -> Problem:
    """What is wrong with bytes that do not start as containers of this version do."""
    if packed.startswith(_NAME):
        return Problem(
            where=where,
            found="a container of another version",
            expected=f"one of version {MAGIC[-1]}",
            fix="unpack it with the compresskit that wrote it",
        )
    return Problem(
        where=where,
        found="bytes that do not start as a container of compresskit does",
        expected="a file that `compresskit pack` wrote",
        fix="give the path of one",
    )


def _digest(rest: bytes, content: bytes) -> bytes:
    """Of the container, too: the coder does not read all bits of its last words."""
    return hashlib.sha256(rest + content).digest()


def _coded(content: bytes) -> tuple[bytes, bytes]:
    """What of a file LZMA is to hold, and the words of the coder."""
    found = places(content, **_LEAST)
    values = np.frombuffer(content, np.uint8).copy()
    encoder = stream.queue.RangeEncoder()
    rows = np.zeros((len(found.weights), _ROW), np.uint8)
    for place, row in zip(found.weights, rows, strict=True):
        matrix = _signed(values[place.slice]).reshape(place.shape)
        if not _repeats(matrix):
            alphabet = Alphabet.of(matrix)
            row[:] = _row(alphabet)
            encode(matrix, alphabet, encoder)
            values[place.slice] = 0
    products = [_product(values, product) for product in found.products]
    for product, made in zip(found.products, products, strict=True):
        values[product.bias.slice] ^= made
    planes = _planes(values, found.integers, folded=True) + _planes(values, found.scales)
    for words in (*found.integers, *found.scales):
        values[words.slice] = 0
    plain = values.tobytes() + planes + rows.tobytes()
    return plain, encoder.get_compressed().astype("<u4").tobytes()


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
    start = _put_planes(values, found.integers, plain, size, folded=True)
    start = _put_planes(values, found.scales, plain, start)
    rows = np.frombuffer(plain, np.uint8, offset=start).reshape(len(found.weights), _ROW)
    decoder = stream.queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))
    for place, row in zip(found.weights, rows, strict=True):
        if row.any():
            values[place.slice] = _signed(decode(place.shape, _alphabet(row), decoder)).ravel()
    if not decoder.maybe_exhausted():
        raise ValueError("more words than the constants have")
    for product in found.products:
        values[product.bias.slice] ^= _product(values, product)
    return values.tobytes()


def _signed(values: np.ndarray) -> np.ndarray:
    """Bytes as their position from -128 to 127, so that near values are neighbours."""
    return values ^ 128


def _repeats(matrix: np.ndarray) -> bool:
    """Whether LZMA, of which zlib is a quick guess, takes less than the entropy."""
    return len(zlib.compress(matrix.tobytes(), 1)) < _entropy(matrix)


def _row(alphabet: Alphabet) -> np.ndarray:
    held = np.zeros(256, bool)
    held[alphabet.others] = held[alphabet.common] = True
    return np.append(np.packbits(held), np.uint8(alphabet.common))


def _alphabet(row: np.ndarray) -> Alphabet:
    common = int(row[_BITS])
    held = np.flatnonzero(np.unpackbits(row[:_BITS])).astype(np.uint8)
    return Alphabet(common=common, others=held[held != common])


def _product(values: np.ndarray, product: Product) -> np.ndarray:
    """The bytes of the scales that a bias has if its scales are those of weight and data."""
    weight = values[product.weight.slice].view("<f4")
    with np.errstate(all="ignore"):  # a damaged file may hold any numbers
        made = (weight * values[product.data.slice].view("<f4")).astype("<f4")
    return made.view(np.uint8)


def _planes(values: np.ndarray, found: Sequence[Place], folded: bool = False) -> bytes:
    """The lowest byte of each 32-bit word, then the next of each.

    Args:
        folded: the sign goes to the lowest bit, so that the upper bytes of small numbers are 0.
    """
    words = np.concatenate([values[place.slice] for place in found] or [values[:0]]).view("<i4")
    if folded:
        words = (words << 1) ^ (words >> 31)
    return words.view(np.uint8).reshape(-1, 4).T.tobytes()


def _put_planes(
    values: np.ndarray, found: Sequence[Place], plain: bytes, start: int, folded: bool = False
) -> int:
    """Puts back what `_planes` made, which begins at `start`; gives where it ends."""
    amount = sum(place.size for place in found)
    planes = np.frombuffer(plain, np.uint8, amount, start).reshape(4, -1)
    words = np.ascontiguousarray(planes.T).view("<i4").ravel()
    if folded:
        words = (words.view("<u4") >> 1).view("<i4") ^ -(words & 1)
    taken = words.view(np.uint8)
    done = 0
    for place in found:
        values[place.slice] = taken[done : done + place.size]
        done += place.size
    return start + amount
