"""compresskit.tflite.luts, decode and micro: weights that are decoded while the file runs."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from compresskit import installed
from compresskit.errors import ConversionError, ModelError
from compresskit.packing import entropy_bytes, pack, unpack
from compresskit.tflite import luts
from compresskit.tflite.audit import audit
from compresskit.tflite.decode import DECODE, look_up
from compresskit.tflite.luts import with_luts
from compresskit.tflite.runtime import Runner
from tests.files import int8_file, written
from tests.training import inputs_of

MICRO = pytest.mark.skipif(find_spec("tflite_micro") is None, reason="tflite-micro is missing")
# How many values the weights of each have: a channel of `depthwise` has nine weights.
NAMES = {"cnn": 16, "depthwise": 2, "mlp": 16, "lstm": 16}


def few_values(name, count=None):
    """A file whose weights have few values each."""
    count = count or NAMES[name]
    model = schema.ModelT.InitFromPackedBuf(int8_file(name), 0)
    random = np.random.default_rng(0)
    weights = {tensor.index for tensor in audit(int8_file(name)).weights}
    for index in weights:
        tensor = model.subgraphs[0].tensors[index]
        size = int(np.prod(tensor.shape))
        values = random.choice(np.arange(-120, 120, 240 // count)[:count], size).astype(np.int8)
        model.buffers[tensor.buffer].data = values.view(np.uint8)
    return written(model)


@MICRO
@pytest.mark.parametrize("name", NAMES)
class TestFile:
    @pytest.fixture(autouse=True)
    def small_models_too(self, monkeypatch):
        monkeypatch.setattr(luts, "_LEAST_SAVING", 0)

    def test_answers_are_the_same_bit_for_bit(self, name):
        x = inputs_of(name, 8)
        plain = few_values(name)
        expected = Runner(plain, runtime="tflite-micro").predict(x)
        made = Runner(with_luts(plain, "x"), runtime="tflite-micro").predict(x)
        np.testing.assert_array_equal(made, expected)
        assert len(np.unique(expected)) > 1

    def test_it_holds_the_same_weights(self, name):
        plain = few_values(name)
        made = with_luts(plain, "x")
        before, after = audit(plain), audit(made)
        assert DECODE in after.counts
        assert len(before.weights) == len(after.weights)
        for one, other in zip(before.weights, after.weights, strict=True):
            np.testing.assert_array_equal(one.constant, other.constant)
            assert one.distinct == other.distinct
            assert other.stored <= one.stored
        assert sum(t.stored for t in after.weights) < sum(t.stored for t in before.weights)

    def test_what_is_in_it_has_the_same_entropy_and_packs(self, name):
        plain = few_values(name)
        made = with_luts(plain, "x")
        assert entropy_bytes(audit(made)) == entropy_bytes(audit(plain))
        assert unpack(pack(made)) == made

    def test_litert_does_not_run_it(self, name):
        with pytest.raises(ModelError, match="LiteRT cannot load"):
            Runner(with_luts(few_values(name), "x"), where="m.tflite")


@MICRO
def test_the_file_is_smaller():
    plain = few_values("cnn")
    assert len(with_luts(plain, "x")) < len(plain)


@MICRO
def test_as_litert_answers():
    """Two implementations of the same integer kernels."""
    x = inputs_of("cnn", 32)
    content = int8_file("cnn")
    micro = Runner(content, runtime="tflite-micro").predict(x)
    np.testing.assert_allclose(micro, Runner(content).predict(x), atol=2.01 / 256)


@MICRO
def test_weights_of_many_values_stay():
    with pytest.raises(ConversionError) as raised:
        with_luts(few_values("mlp", 240), "m.tflite")
    (problem,) = raised.value.problems
    assert problem.where == "m.tflite"
    assert problem.found == "no weight that look-up tables would make smaller"
    assert "cluster" in problem.fix


@MICRO
def test_an_op_that_it_does_not_have():
    model = schema.ModelT.InitFromPackedBuf(int8_file("mlp"), 0)
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.SOFTMAX:
            code.builtinCode = schema.BuiltinOperator.GELU
            code.deprecatedBuiltinCode = 127
    with pytest.raises(ModelError, match=r"(?s)Micro cannot run the file.*GELU") as raised:
        Runner(written(model), where="m.tflite", runtime="tflite-micro")
    assert raised.value.problems[0].where == "m.tflite"


def test_without_the_package(monkeypatch):
    lost = installed.Package(module="not_there", install="pip install it")
    monkeypatch.setattr("compresskit.tflite.micro.TFLITE_MICRO", lost)
    for needs in (
        lambda: Runner(int8_file("mlp"), where="m.tflite", runtime="tflite-micro"),
        lambda: with_luts(int8_file("mlp"), "m.tflite"),
    ):
        with pytest.raises(ModelError) as raised:
            needs()
        (problem,) = raised.value.problems
        assert problem.found == "the package not_there is not installed"
        assert problem.fix == "pip install it"


class TestLookUp:
    @settings(max_examples=50, deadline=None)
    @given(data=st.data())
    def test_what_was_encoded(self, data):
        bits = data.draw(st.integers(1, 7))
        shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
        axis = data.draw(st.sampled_from([15, 0, len(shape) - 1]))
        random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        length = random.integers(1, 2**bits + 1)
        count = 1 if axis == 15 else shape[axis]
        tables = random.integers(-128, 128, (count, length)).astype(np.int8)
        indices = random.integers(0, length, shape)
        if axis == 15:
            expected = tables[0][indices]
        else:
            moved = np.moveaxis(indices, axis, 0)
            rows = [table[row] for table, row in zip(tables, moved, strict=True)]
            expected = np.moveaxis(np.stack(rows), 0, axis)
        digits = "".join(f"{index:0{bits}b}" for index in indices.ravel())
        encoded = np.packbits(np.array([int(digit) for digit in digits], np.uint8))
        header = np.zeros(16, np.uint8)
        header[[1, 4, 5, 6]] = 1, 1, axis << 4 | bits, length
        header = np.concatenate([header, tables.ravel().view(np.uint8)])
        np.testing.assert_array_equal(look_up(encoded, header, shape, np.int8), expected)

    @pytest.mark.parametrize("byte", [0, 1, 4])
    def test_other_encodings(self, byte):
        header = np.zeros(32, np.uint8)
        header[[1, 4, 5, 6]] = 1, 1, 0xF1, 2
        header[byte] = 9
        with pytest.raises(ValueError, match="an encoding that is not known"):
            look_up(np.zeros(4, np.uint8), header, (8,), np.int8)
