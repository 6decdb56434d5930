"""A code for matrices of bytes of which most are one value, more so in some rows and columns.

Pruning leaves the weights of an unimportant input or unit thinner than others. So for each
place it is coded first whether it holds the commonest value, with a chance that follows from
how many others the places before it held in its row and in its column; and then, where it
does not, which other, with the frequencies of those before. Nothing of this is stored but
which values there are: the decoder counts along. The words are a range coder's (G. N. N.
Martin, 1979), that of the library constriction.

All chances are made of exact counts by sums, products and quotients of float64, which IEEE
754 defines to the last bit: a container is read on another machine than wrote it. Logarithms
and powers are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from constriction import stream

# Counts are brought up to date after each tile: smaller ones learn sooner, and take longer.
_SIDE, _MOST_TILES = 16, 1024
# So many other values more than expected double a row's or a column's odds, at the start.
_TRUST = 4.0
# Chances that the coder can tell from 0 and 1.
_LEAST_CHANCE = 2.0**-14
# The estimator of R. E. Krichevsky and V. K. Trofimov, 1981.
_SEEN_BEFORE = 0.5
_OTHERWISE = stream.model.Bernoulli(perfect=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class Alphabet:
    """What a matrix holds.

    Attributes:
        common: the value of most places.
        others: those of the other places, ascending, shape (others,), uint8.
    """

    common: int
    others: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray) -> Alphabet:
        """That of a matrix of uint8."""
        values, counts = np.unique(matrix, return_counts=True)
        most = counts.argmax()
        return cls(common=int(values[most]), others=np.delete(values, most))


def encode(matrix: np.ndarray, alphabet: Alphabet, encoder: stream.queue.RangeEncoder) -> None:
    """Codes a matrix of uint8, shape (rows, columns)."""
    others = alphabet.others
    position = np.zeros(256, np.int32)
    position[others] = np.arange(len(others))
    chances, frequencies = _Chances(matrix.shape), np.full(len(others), _SEEN_BEFORE)
    for tile in _tiles(matrix.shape) if len(others) else ():
        part = matrix[tile]
        other = part != alphabet.common
        encoder.encode(other.ravel().astype(np.int32), _OTHERWISE, chances.of(tile))
        which = position[part[other]]
        if len(which) and len(others) > 1:
            encoder.encode(which, _model(frequencies))
            frequencies += np.bincount(which, minlength=len(others))
        chances.saw(tile, other)


def decode(
    shape: tuple[int, int], alphabet: Alphabet, decoder: stream.queue.RangeDecoder
) -> np.ndarray:
    """The opposite of `encode`."""
    others = alphabet.others
    matrix = np.full(shape, alphabet.common, np.uint8)
    chances, frequencies = _Chances(shape), np.full(len(others), _SEEN_BEFORE)
    for tile in _tiles(shape) if len(others) else ():
        part = matrix[tile]
        other = decoder.decode(_OTHERWISE, chances.of(tile)).reshape(part.shape) == 1
        number = np.count_nonzero(other)
        which = np.zeros(number, np.int32)
        if number and len(others) > 1:
            which = decoder.decode(_model(frequencies), number)
            frequencies += np.bincount(which, minlength=len(others))
        part[other] = others[which]
        chances.saw(tile, other)
    return matrix


_Tile = tuple[slice, slice]


def _tiles(shape: tuple[int, int]) -> Iterator[_Tile]:
    rows, columns = shape
    side = _SIDE
    while rows * columns > _MOST_TILES * side * side:
        side *= 2
    high = min(side, rows)
    wide = max(side, side * side // high)
    for top in range(0, rows, high):
        for left in range(0, columns, wide):
            yield slice(top, min(top + high, rows)), slice(left, min(left + wide, columns))


@final
class _Chances:
    """How likely each place holds another value than the commonest, by what was seen so far."""

    def __init__(self, shape: tuple[int, int]):
        # Of each row and each column: how many places were seen, and others among them.
        self._seen = tuple(np.zeros(size) for size in shape)
        self._others = tuple(np.zeros(size) for size in shape)
        self._all, self._all_others = 4.0, 1.0

    def of(self, tile: _Tile) -> np.ndarray:
        """Shape (places of the tile,), float64."""
        share = self._all_others / self._all
        rows, columns = (
            (others[part] + _TRUST) / (seen[part] * share + _TRUST)
            for others, seen, part in zip(self._others, self._seen, tile, strict=True)
        )
        odds = share / (1.0 - share) * np.outer(rows, columns).ravel()
        return np.clip(odds / (1.0 + odds), _LEAST_CHANCE, 1.0 - _LEAST_CHANCE)

    def saw(self, tile: _Tile, other: np.ndarray) -> None:
        """Counts the others of a tile, shape (rows, columns), bool."""
        for axis, part in enumerate(tile):
            self._others[axis][part] += np.count_nonzero(other, axis=1 - axis)
            self._seen[axis][part] += other.shape[1 - axis]
        self._all += other.size
        self._all_others += np.count_nonzero(other)


def _model(frequencies: np.ndarray) -> stream.model.Categorical:
    return stream.model.Categorical(frequencies / frequencies.sum(), perfect=False)
