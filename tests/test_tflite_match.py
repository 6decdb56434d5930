"""compresskit.tflite.match: which constant of a file is a Keras weight?"""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.tflite.audit import Audit, Tensor, audit
from compresskit.tflite.match import TOLERANCE, find
from compresskit.weights import weights_of
from tests.files import PRECISIONS, int8_file, plain_file
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
    """A file of weights alone, in the order of `matrix`."""

    def __init__(self, *values):
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
        object.__setattr__(self, "weights", tensors)

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
