"""compresskit.tflite.scales: a file whose scales its kernels do not compute with."""

from __future__ import annotations

import dataclasses
import functools

import keras
import pytest
from keras import layers

from compresskit.errors import ConversionError
from compresskit.target import Precision
from compresskit.tflite.audit import audit
from compresskit.tflite.convert import convert
from compresskit.tflite.scales import check_scales
from tests.files import bias_with_another_scale, changed, int8_file, plain_file
from tests.models import FEATURES, sequences

FUSED = "UNIDIRECTIONAL_SEQUENCE_LSTM"
COPIES = ["GATHER", "RESHAPE", "STRIDED_SLICE", "TRANSPOSE"]


def recurrent(x):
    both = layers.Bidirectional(layers.LSTM(4, name="lstm"), name="both")
    return layers.Dense(5, activation="softmax", name="logits")(both(x))


def copying(x):
    # No two copies in a row: what one hands on, another op rounds.
    x = keras.ops.tanh(keras.ops.take(x, [2, 0, 1, 5], axis=1))
    x = keras.ops.tanh(x[:, 1:])
    x = keras.ops.softmax(keras.ops.transpose(x, (0, 2, 1)))
    x = keras.ops.softmax(keras.ops.reshape(x, (-1, 18)))
    return layers.Dense(5, bias_initializer="ones", name="last")(x)


@functools.cache
def read(make):
    """What is in the integer file of a model."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(FEATURES, name="inputs")
    x = sequences("lstm")
    precision = Precision(weights="int8", activations="int8", io="int8")
    model = keras.Model(inputs, make(inputs))
    return audit(convert(model, precision, sample=x[:1], calibration=x))


def first(audited, name):
    return next(op for op in audited.ops if op.name == name)


def damaged(audited, *tensors, **change):
    """The same with some tensors changed: on a scale twice as large, or as given."""
    found = list(audited.tensors)
    for index in tensors:
        wrong = change or {"scales": found[index].scales * 2}
        found[index] = dataclasses.replace(found[index], **wrong)
    return dataclasses.replace(audited, tensors=tuple(found))


def problems(audited, where="x.tflite"):
    with pytest.raises(ConversionError) as raised:
        check_scales(audited, where)
    return raised.value.problems


class TestBiasScales:
    @pytest.mark.parametrize("name", ["cnn", "mlp", "transpose", "depthwise"])
    def test_a_file_that_breaks_them(self, name):
        broken = audit(changed(int8_file(name), bias_with_another_scale))
        (problem,) = problems(broken, "runs/x/model.tflite")
        assert problem.where.startswith("runs/x/model.tflite op ")
        assert "scale is not the input's" in problem.found

    def test_writing_a_file_again_breaks_nothing(self):
        again = changed(int8_file("cnn"), lambda graph: None)
        assert audit(again).counts == audit(int8_file("cnn")).counts
        check_scales(audit(again), "file")

    @pytest.mark.parametrize("precision", ["float32", "float16", "dynamic"])
    def test_floats_have_none(self, precision):
        assert check_scales(audit(plain_file("cnn", precision)), "file") is None


class TestRecurrent:
    def test_a_good_file(self):
        assert read(recurrent).counts[FUSED] == 2
        assert check_scales(read(recurrent), "x.tflite") is None

    def test_an_output_on_another_scale_than_the_state(self):
        op = first(read(recurrent), FUSED)
        # The op that reads it copies it on, and is broken with it.
        (problem, reader) = problems(damaged(read(recurrent), op.outputs[0]))
        assert reader.where.endswith("STRIDED_SLICE")
        assert "not that of the hidden state" in problem.found
        assert problem.where == f"x.tflite op {op.index} {FUSED}"
        assert "lstm: while" in problem.fix

    def test_another_zero_point(self):
        op = first(read(recurrent), FUSED)
        zeros = read(recurrent).tensors[op.outputs[0]].zero_points
        (problem, _) = problems(damaged(read(recurrent), op.outputs[0], zero_points=zeros + 1))
        assert "not that of the hidden state" in problem.found

    @pytest.mark.parametrize("position", [12, 13, 14, 15])
    def test_a_bias_on_another_scale(self, position):
        op = first(read(recurrent), FUSED)
        (problem,) = problems(damaged(read(recurrent), op.inputs[position]))
        assert problem.where == f"x.tflite op {op.index} {FUSED}"
        assert "a bias whose scale is not the input's" in problem.found


class TestCopies:
    def test_a_good_file(self):
        assert {*COPIES} < {*read(copying).counts}
        assert check_scales(read(copying), "x.tflite") is None

    @pytest.mark.parametrize("side", ["inputs", "outputs"])
    @pytest.mark.parametrize("what", ["scales", "zero_points"])
    @pytest.mark.parametrize("name", COPIES)
    def test_another_scale_or_zero_point_on_one_side(self, name, what, side):
        op = first(read(copying), name)
        tensor = getattr(op, side)[0]
        wrong = {what: getattr(read(copying).tensors[tensor], what) + 1}
        (problem,) = problems(damaged(read(copying), tensor, **wrong))
        assert problem.where == f"x.tflite op {op.index} {name}"
        assert problem.found == "an output whose scale is not that of the input"
        assert "must not be used" in problem.fix


class TestSeveral:
    def test_all_are_named(self):
        wrong = [first(read(copying), name) for name in COPIES]
        found = problems(damaged(read(copying), *(op.outputs[0] for op in wrong)))
        assert {problem.where for problem in found} == {
            f"x.tflite op {op.index} {op.name}" for op in wrong
        }

    def test_of_one_op(self):
        op = first(read(recurrent), FUSED)
        found = problems(damaged(read(recurrent), *op.inputs[12:16]))
        assert [problem.where for problem in found] == [f"x.tflite op {op.index} {FUSED}"] * 4

    def test_of_different_kinds(self):
        op, copy = first(read(copying), "FULLY_CONNECTED"), first(read(copying), "GATHER")
        found = problems(damaged(read(copying), op.inputs[2], copy.outputs[0]))
        assert [problem.found.split(" whose")[0] for problem in found] == ["an output", "a bias"]
        assert str(found[0]) in str(ConversionError(found))
