"""compresskit.tflite.places: where constants and scales are in the bytes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from compresskit.tflite.audit import audit
from compresskit.tflite.places import places
from tests.files import int8_file, plain_file
from tests.models import MODELS, SEQUENCE_MODELS


def found_in(content):
    return places(content, least_weights=1, least_words=1)


def constants(content, dtype):
    """The tensors of a file that have contents."""
    tensors = [tensor for tensor in audit(content).tensors if tensor.dtype == dtype]
    return [tensor for tensor in tensors if tensor.values is not None]


@pytest.mark.parametrize("name", {**MODELS, **SEQUENCE_MODELS})
class TestEveryModel:
    def test_weights_are_the_8_bit_constants(self, name):
        content = int8_file(name)
        expected = {tensor.constant.tobytes() for tensor in constants(content, "INT8")}
        assert {content[place.slice] for place in found_in(content).weights} == expected

    def test_rows_are_those_of_the_tensor(self, name):
        content = int8_file(name)
        rows = {
            tensor.constant.tobytes(): next((size for size in tensor.shape if size > 1), 1)
            for tensor in constants(content, "INT8")
        }
        for place in found_in(content).weights:
            assert place.shape == (rows[content[place.slice]], place.size // place.rows)

    def test_integers_are_the_32_bit_constants(self, name):
        content = int8_file(name)
        expected = {tensor.values.tobytes() for tensor in constants(content, "INT32")}
        assert {content[place.slice] for place in found_in(content).integers} == expected

    def test_nothing_overlaps(self, name):
        found = found_in(int8_file(name))
        biases = tuple(product.bias for product in found.products)
        everything = sorted(
            (*found.weights, *found.integers, *found.scales, *biases),
            key=lambda place: place.offset,
        )
        for first, second in itertools.pairwise(everything):
            assert first.offset + first.size <= second.offset

    def test_a_product_is_what_the_scales_of_a_bias_are(self, name):
        content = int8_file(name)
        for product in found_in(content).products:
            bias, weight, data = (
                np.frombuffer(content[place.slice], "<f4")
                for place in (product.bias, product.weight, product.data)
            )
            np.testing.assert_allclose(bias, weight * data, rtol=1e-6)


def test_every_weighted_op_of_a_cnn_has_a_product():
    content = int8_file("cnn")
    ops = [op for op in audit(content).ops if op.name in ("CONV_2D", "FULLY_CONNECTED")]
    assert len(found_in(content).products) == len(ops) > 1


def test_a_float_file_has_none():
    found = found_in(plain_file("cnn", "float32"))
    assert found.weights == found.products == ()


def test_small_ones_do_not_count():
    content = int8_file("cnn")
    every = found_in(content).weights
    largest = max(place.size for place in every)
    some = places(content, least_weights=largest, least_words=1)
    assert len(some.weights) == sum(place.size == largest for place in every) < len(every)
