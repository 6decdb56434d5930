"""compresskit.coding: every matrix comes back; uneven ones take less than their entropy."""

from __future__ import annotations

import numpy as np
import pytest
from constriction import stream
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from compresskit.coding import Alphabet, decode, encode


def coded(*matrices):
    """The words of matrices, one after the other."""
    encoder = stream.queue.RangeEncoder()
    for matrix in matrices:
        encode(matrix, Alphabet.of(matrix), encoder)
    return encoder.get_compressed()


def decoded(words, *matrices):
    """As many matrices of these shapes and alphabets; and whether words are left."""
    decoder = stream.queue.RangeDecoder(words)
    made = [decode(matrix.shape, Alphabet.of(matrix), decoder) for matrix in matrices]
    return made, not decoder.maybe_exhausted()


def entropy(matrix):
    """In bytes."""
    _, counts = np.unique(matrix, return_counts=True)
    return -(counts * np.log2(counts / counts.sum())).sum() / 8


def matrices(few=False):
    shapes = array_shapes(min_dims=2, max_dims=2, max_side=70)
    elements = st.sampled_from([0, 3, 255]) if few else st.integers(0, 255)
    return arrays(np.uint8, shapes, elements=elements)


@settings(deadline=None)
@given(first=matrices(), second=matrices(few=True))
def test_round_trip(first, second):
    made, left = decoded(coded(first, second), first, second)
    np.testing.assert_array_equal(made[0], first)
    np.testing.assert_array_equal(made[1], second)
    assert not left


@pytest.mark.parametrize("shape", [(1, 40_000), (40_000, 1), (700, 900), (3, 17), (1, 1)])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_every_shape(shape, share):
    random = np.random.default_rng(0)
    matrix = (random.random(shape) < share) * random.integers(0, 256, shape, np.uint8)
    made, left = decoded(coded(matrix), matrix)
    np.testing.assert_array_equal(made[0], matrix)
    assert not left


def test_one_value_takes_nothing():
    assert len(coded(np.full((300, 300), 7, np.uint8))) == 0


@pytest.mark.parametrize("values", [2, 16, 256])
def test_even_ones_take_hardly_more_than_their_entropy(values):
    """Learning costs half the logarithm of their number for each value: Krichevsky, Trofimov."""
    random = np.random.default_rng(0)
    matrix = random.integers(0, values, (400, 500)).astype(np.uint8)
    learning = values * np.log2(matrix.size) / 2 / 8
    assert 4 * len(coded(matrix)) <= 1.003 * entropy(matrix) + learning + 100


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)], ids=["rows", "columns", "both"])
def test_uneven_ones_take_less(axes):
    """Near the entropy of a coder who is told how thick each row and column is."""
    random = np.random.default_rng(0)
    shape = (300, 400)
    odds = np.full(shape, 0.1)
    for axis in axes:
        thick = np.exp(random.normal(0, 1, shape[axis]))
        odds = odds * (thick[:, None] if axis == 0 else thick[None, :])
    chance = odds / (1 + odds)
    matrix = (random.random(shape) < chance).astype(np.uint8)
    told = -np.log2(np.where(matrix, chance, 1 - chance)).sum() / 8
    size = 4 * len(coded(matrix))
    assert size < 0.97 * entropy(matrix)
    assert size < 1.1 * told


def test_the_words_are_those_of_every_machine():
    """Containers that were written before are read: a change here is another version of them."""
    matrix = (np.add.outer(np.arange(40) ** 2, np.arange(50) * 3) % 11 % 5).astype(np.uint8)
    words = coded(matrix)
    assert len(words) == 150
    assert words[:3].tolist() == [3220984831, 815455705, 3321607386]
    assert words[-3:].tolist() == [3787855331, 1058559621, 1563243089]
