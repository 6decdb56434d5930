"""compresskit.tflite.match: which constant of a file is a Keras weight?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compresskit.tflite.audit import Audit, audit
from compresskit.tflite.match import TOLERANCE, find, looked_up
from compresskit.tflite.tensors import Tensor
from compresskit.weights import weights_of
from tests.files import PRECISIONS, folded_tables, int8_file, plain_file
from tests.models import MODELS
from tests.training import compressed, trained


def matrices(model):
    """Every weight as output channels by inputs, by path."""
    return {weight.path: weight.matrix(weight.variable.numpy()) for weight in weights_of(model)}


def scaled(stored, matrix):
    """`stored` with each row's largest value that of `matrix`."""
    largest = [np.abs(each).max(axis=1, keepdims=True) for each in (matrix, stored)]
    return stored * (largest[0] / np.maximum(largest[1], 1e-9))


class Constants(Audit):
    """A file of weights alone, in the order of `matrix`, or of other constants alone."""

    def __init__(self, *values, weights=True):
        tensors = tuple(
            Tensor(
                index=index,
                name=f"t{index}",
                dtype="FLOAT32",
                shape=each.shape,
                values=each.astype(np.float32),
                scales=np.zeros(0),
                zero_points=np.zeros(0),
                axis=0,
            )
            for index, each in enumerate(values)
        )
        object.__setattr__(self, "tensors", tensors)
        object.__setattr__(self, "weights", tensors if weights else ())

    def matrix(self, tensor):
        return tensor.constant


def weight(seed=0, shape=(6, 20)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class TestFind:
    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("name", MODELS)
    def test_every_weight_of_every_model(self, name, precision):
        read = audit(plain_file(name, precision))
        found = {path: find(matrix, read) for path, matrix in matrices(trained(name)).items()}
        assert all(stored is not None for stored in found.values())
        for path, matrix in matrices(trained(name)).items():
            stored = scaled(found[path].astype(np.float32), matrix)
            # BatchNormalization may have turned a row's sign.
            np.testing.assert_allclose(np.abs(stored), np.abs(matrix), atol=0.01)

    @pytest.mark.parametrize("name", MODELS)
    def test_zeros_lie_where_they_were(self, name):
        done = compressed(name)
        read = audit(int8_file(name))
        for path, matrix in matrices(done.model).items():
            stored = find(matrix, read)
            assert stored.dtype == np.int8
            if path in done.masks:
                assert np.all(stored[matrix == 0] == 0)

    def test_each_row_may_have_another_scale_and_sign(self):
        kernel = weight()
        folded = kernel * np.linspace(-3, 5, 6)[:, np.newaxis]
        stored = find(kernel, Constants(weight(1), folded))
        np.testing.assert_allclose(stored, folded, rtol=1e-6)

    def test_the_nearest_of_several(self):
        kernel = weight()
        near = np.round(kernel, 3)
        np.testing.assert_array_equal(find(kernel, Constants(np.round(kernel, 1), near)), near)

    def test_a_row_of_zeros(self):
        kernel = weight()
        kernel[2] = 0.0
        assert find(kernel, Constants(kernel)) is not None


class TestParts:
    """A weight that a file may have cut into pieces, as the gates of an LSTM."""

    def test_pieces_in_any_order(self):
        kernel = weight()
        stored = find(kernel, Constants(kernel[4:], kernel[:2], weight(1), kernel[2:4]), parts=3)
        np.testing.assert_array_equal(stored, kernel)

    def test_in_one_piece(self):
        kernel = weight()
        np.testing.assert_array_equal(find(kernel, Constants(kernel), parts=3), kernel)

    def test_a_piece_that_is_missing(self):
        kernel = weight()
        assert find(kernel, Constants(kernel[:2], kernel[2:4]), parts=3) is None


class TestNone:
    def test_another_shape(self):
        assert find(weight(), Constants(weight()[:, :10], weight().T)) is None

    def test_other_values(self):
        assert find(weight(0), Constants(weight(1))) is None

    def test_zeros_instead(self):
        assert find(weight(), Constants(np.zeros((6, 20)))) is None

    def test_an_empty_file(self):
        assert find(weight(), Constants()) is None

    def test_the_weight_of_another_model(self):
        (first, *_) = matrices(trained("concat")).values()
        assert find(first, audit(plain_file("mlp", "float32"))) is None

    def test_tolerance(self):
        kernel = np.ones((4, 50), dtype=np.float32)
        near, far = kernel.copy(), kernel.copy()
        near[:, 1:] -= 0.8 * TOLERANCE
        far[:, 1:] -= 1.2 * TOLERANCE
        assert find(kernel, Constants(near)) is not None
        assert find(kernel, Constants(far)) is None


# Which rows of which table a file holds: token ids come in later, the others are constants.
ROWS = {"position_embedding/embeddings": list(range(12)), "segment_embedding/embeddings": [0]}


class TestLookedUp:
    @pytest.mark.parametrize(
        ("precision", "segments"),
        [
            ("int8", 2),
            ("float32", 0),
            ("float16", 0),
            ("dynamic", 0),
        ],
    )
    def test_the_tables_of_a_model(self, precision, segments):
        model, content = folded_tables(precision, segments)
        read, tables = audit(content), matrices(model)
        for path in list(ROWS)[: 2 if segments else 1]:
            stored, rows = looked_up(tables[path], read)
            assert stored is not None
            assert sorted({*rows}) == ROWS[path]
            assert find(tables[path], read) is None
            held = tables[path][rows]
            np.testing.assert_array_equal(stored == 0, held == 0)
            assert 0.1 < np.mean(stored == 0) < 0.6
            np.testing.assert_allclose(scaled(stored, held), held, atol=1e-3)

    @pytest.mark.parametrize("path", ROWS)
    @pytest.mark.parametrize("precision", ["float32", "dynamic"])
    def test_not_two_that_the_converter_added_up(self, precision, path):
        """Where nothing is rounded, (x + positions) + segments becomes x + one constant."""
        model, content = folded_tables(precision)
        assert looked_up(matrices(model)[path], audit(content))[0] is None

    @pytest.mark.parametrize("path", ROWS)
    def test_has_the_integers_of_training(self, path):
        model, content = folded_tables("int8")
        table = matrices(model)[path]
        stored, rows = looked_up(table, audit(content))
        np.testing.assert_array_equal(stored, np.round(table[rows] * 127 / np.abs(table).max()))

    @pytest.mark.parametrize("precision", ["int8", "float32"])
    def test_not_one_that_the_file_looks_up(self, precision):
        model, content = folded_tables(precision)
        table = matrices(model)["token_embedding/embeddings"]
        assert find(table, audit(content)) is not None
        assert looked_up(table, audit(content))[0] is None

    @pytest.mark.parametrize("precision", ["int8", "float32"])
    def test_not_another_table(self, precision):
        stored, rows = looked_up(weight(shape=(16, 16)), audit(folded_tables(precision)[1]))
        assert stored is None
        assert rows.size == 0

    @pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1], [5], [2, 2, 2]], ids=str)
    def test_the_rows_index_the_table(self, order):
        table = weight()
        stored, rows = looked_up(table, Constants(3 * table[order][np.newaxis], weights=False))
        assert list(rows) == order
        np.testing.assert_allclose(stored, 3 * table[order])

    def test_zero_is_the_zero_point(self):
        table = np.round(50 * weight())
        (tensor,) = Constants(table + 7, weights=False).tensors
        read = Constants(weights=False)
        moved = dataclasses.replace(tensor, scales=np.ones(1), zero_points=np.array([7]))
        object.__setattr__(read, "tensors", (moved,))
        np.testing.assert_array_equal(looked_up(table, read)[0], table)

    @pytest.mark.parametrize("zeros_first", [False, True])
    def test_rows_before_zeros(self, zeros_first):
        """Zeros, as a normalization may have them, are like any row that is zero."""
        table = weight()
        table[0] = 0.0
        given = [np.round(table[:3], 2), np.zeros((1, 20))]
        read = Constants(*(given[::-1] if zeros_first else given), weights=False)
        stored, rows = looked_up(table, read)
        np.testing.assert_allclose(stored, given[0], rtol=1e-6)
        assert list(rows) == [0, 1, 2]

    def test_zeros_if_there_is_nothing_else(self):
        table = weight()
        table[0] = 0.0
        stored, rows = looked_up(table, Constants(weight(1), np.zeros((2, 20)), weights=False))
        assert not stored.any()
        assert list(rows) == [0, 0]

    @pytest.mark.parametrize(
        "given",
        [weight()[:, :10], weight().T, weight()[0], weight(1)],
        ids=["width", "turned", "rank one", "other values"],
    )
    def test_none(self, given):
        assert looked_up(weight(), Constants(given, weights=False))[0] is None

    def test_not_a_weight(self):
        assert looked_up(weight(), Constants(weight()))[0] is None
