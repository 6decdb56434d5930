"""compresskit.tflite.differences: how far two weights, and what two files compute, are apart."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.tflite.audit import audit
from compresskit.tflite.differences import Stored, activations, relative_error, stored, weights
from tests.files import int8_file, plain_file
from tests.training import inputs_of


def weight(name, seed=0, rows=8, columns=20, dtype="FLOAT32"):
    matrix = np.random.default_rng(seed).normal(size=(rows, columns))
    return Stored(name=name, dtype=dtype, matrix=matrix)


def changed(one, name, change):
    return Stored(name=name, dtype="INT8", matrix=change(one.matrix))


class TestWeights:
    def test_one_name(self):
        a, b = weight("w"), weight("w", seed=1)
        (made,), only_a, only_b = weights([a], [b])
        assert (made.a, made.b, made.shape, made.scaled) == ("w", "w", (8, 20), False)
        expected = np.linalg.norm(a.matrix - b.matrix) / np.linalg.norm(a.matrix)
        assert made.relative_error == pytest.approx(expected)
        assert made.sqnr_db == pytest.approx(-20 * np.log10(expected))
        assert only_a == only_b == []

    def test_other_names_are_found_by_their_values(self):
        ones = [weight("a0", 0), weight("a1", 1), weight("a2", 2)]
        others = [
            changed(ones[2], "b2", lambda m: m * (np.abs(m) > 0.5)),  # pruned
            changed(ones[0], "b0", lambda m: np.round(m, 1)),
            weight("b3", 9),
        ]
        made, only_a, only_b = weights(ones, others)
        assert [(each.a, each.b) for each in made] == [("a2", "b2"), ("a0", "b0")]
        assert made[0].relative_error > made[1].relative_error > 0
        assert not any(each.scaled for each in made)
        assert made[1].dtypes == ("FLOAT32", "INT8")
        # What is left is unrelated: further apart than the one is from zero.
        assert (only_a, only_b) == (["a1"], ["b3"])

    def test_a_folded_normalization_is_taken_out(self):
        one = weight("a")
        factors = np.linspace(-2, 3, 8).reshape(-1, 1)
        (made,), _, _ = weights([one], [changed(one, "b", lambda m: np.round(m * factors, 2))])
        assert made.scaled
        assert made.relative_error < 0.02

    def test_equal(self):
        one = weight("a")
        (made,), _, _ = weights([one], [changed(one, "b", np.copy)])
        assert made.relative_error == 0.0
        assert made.sqnr_db is None

    def test_a_name_that_stands_twice_says_nothing(self):
        ones = [weight("w", 0), weight("w", 1)]
        others = [changed(ones[1], "w", np.copy), changed(ones[0], "w", np.copy)]
        made, _, _ = weights(ones, others)
        assert [each.relative_error for each in made] == [0.0, 0.0]

    def test_other_shapes_are_no_pair(self):
        made, only_a, only_b = weights([weight("w")], [weight("w", columns=21)])
        assert (made, only_a, only_b) == ([], ["w"], ["w"])

    def test_against_zeros(self):
        zeros = changed(weight("w"), "w", np.zeros_like)
        (made,), _, _ = weights([zeros], [weight("w")])
        assert made.relative_error is None
        assert made.sqnr_db is None


def test_relative_error():
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 3.0])) == pytest.approx(0.2)
    assert relative_error(np.zeros(2), np.zeros(2)) == 0.0


@pytest.mark.parametrize("name", ["cnn_bn", "depthwise"])
def test_weights_of_files_are_in_real_units(name):
    whole, rounded = audit(plain_file(name, "float32")), audit(plain_file(name, "float16"))
    made, only_a, only_b = weights(stored(whole), stored(rounded))
    assert len(made) == len(whole.weights) >= 4
    assert only_a == only_b == []
    for each in made:
        assert each.dtypes == ("FLOAT32", "FLOAT16")
        # Half a unit in the last place of 11 bits, less on average.
        assert 0 < each.relative_error < 2**-11


def test_int8_weights_are_their_scales_apart():
    whole = stored(audit(plain_file("mlp", "dynamic")))
    for each, tensor in zip(whole, audit(plain_file("mlp", "dynamic")).weights, strict=True):
        if tensor.dtype == "INT8":
            steps = each.matrix / tensor.scales.reshape(-1, 1)
            np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)


class TestActivations:
    def test_of_two_precisions(self):
        a, b = plain_file("cnn_bn", "float32"), plain_file("cnn_bn", "float16")
        made = activations((a, audit(a)), (b, audit(b)), inputs_of("cnn_bn", 4))
        # The converter calls some otherwise once weights are dequantized.
        assert len(made) >= 4
        assert made[-1].shape == (1, 10)
        for each in made:
            assert each.a == each.b
            assert each.relative_error < 0.01
        assert any(each.relative_error > 0 for each in made)

    def test_of_one_file_nothing_differs(self):
        a = int8_file("mlp")
        made = activations((a, audit(a)), (a, audit(a)), inputs_of("mlp", 2))
        assert [each.relative_error for each in made] == [0.0] * len(audit(a).ops)
