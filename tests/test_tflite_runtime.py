"""compresskit.tflite.runtime: a file, run with LiteRT one sample at a time."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.errors import DataError, ModelError
from compresskit.tflite.audit import audit
from compresskit.tflite.runtime import Runner
from tests.files import int8_file, plain_file, token_file
from tests.models import TOKENS, VOCABULARY
from tests.training import inputs_of


class TestPredict:
    @pytest.mark.parametrize("threads", [1, 2])
    def test_in_real_units(self, threads):
        x = inputs_of("mlp", 5)
        given = Runner(int8_file("mlp"), threads=threads).predict(x)
        assert given.dtype == np.float32
        assert given.shape == (5, 10)
        np.testing.assert_allclose(given.sum(axis=1), 1.0, atol=0.05)
        np.testing.assert_allclose(given * 256, np.round(given * 256), atol=1e-4)

    def test_samples_do_not_depend_on_each_other(self):
        x = inputs_of("cnn", 4)
        runner = Runner(int8_file("cnn"))
        together = runner.predict(x)
        alone = [runner.predict(x[index : index + 1])[0] for index in (2, 0, 3, 1)]
        np.testing.assert_array_equal(np.stack(alone), together[[2, 0, 3, 1]])

    def test_inputs_beyond_the_range_are_clipped(self):
        runner = Runner(int8_file("mlp"))
        read = audit(int8_file("mlp"))
        tensor = read.tensors[read.inputs[0]]
        top = (127 - tensor.zero_points[0]) * tensor.scales[0]
        x = np.abs(inputs_of("mlp", 2)) + np.float32(top)
        np.testing.assert_array_equal(runner.predict(x), runner.predict(x * 100))

    def test_other_types_of_numbers(self):
        x = np.round(inputs_of("mlp", 2))
        runner = Runner(plain_file("mlp", "float32"))
        np.testing.assert_array_equal(runner.predict(x.astype(np.int64)), runner.predict(x))
        np.testing.assert_array_equal(runner.predict(x.astype(np.float64)), runner.predict(x))

    def test_progress(self):
        done = []
        Runner(plain_file("mlp", "float32")).predict(inputs_of("mlp", 3), done.append)
        assert done == [1, 2, 3]

    @pytest.mark.parametrize("shape", [(2, 8, 8), (2, 8, 8, 3), (2, 64)])
    def test_samples_of_another_shape(self, shape):
        runner = Runner(plain_file("mlp", "float32"), where="runs/x/model.tflite")
        with pytest.raises(DataError) as raised:
            runner.predict(np.zeros(shape, np.float32))
        (problem,) = raised.value.problems
        assert problem.where == "runs/x/model.tflite"
        assert problem.found == f"samples of shape {shape[1:]}"
        assert problem.expected == "samples of shape (8, 8, 1), which the file takes"


class TestFeed:
    def test_each_call_takes_the_next_sample_and_is_a_time(self):
        x = inputs_of("mlp", 2)
        runner = Runner(plain_file("mlp", "float32"))
        expected = runner.predict(x)
        call = runner.feed(x)
        for index in (0, 1, 0):
            assert 0 < call() < 100
            read = runner._interpreter.get_tensor(runner._output["index"])
            np.testing.assert_array_equal(read[0], expected[index])

    def test_samples_of_another_shape(self):
        with pytest.raises(DataError):
            Runner(plain_file("mlp", "float32")).feed(np.zeros((1, 3), np.float32))


class TestMadeUp:
    def test_floats(self):
        runner = Runner(plain_file("mlp", "float32"))
        (made,) = runner.made_up().values()
        assert made.shape == (1, 8, 8, 1)
        assert made.dtype == np.float32
        assert made.std() > 0.5
        assert np.isfinite(runner.predict({"image": made})).all()

    def test_quantized_inputs_take_the_whole_range(self):
        runner = Runner(int8_file("mlp"))
        (given,) = runner._inputs.values()
        scale, zero = given["quantization"]
        stored = np.round(runner.made_up()["image"] / scale) + zero
        assert stored.min() < -100
        assert stored.max() > 100
        assert np.abs(stored).max() <= 128

    def test_ids_stay_within_their_table(self):
        runner = Runner(token_file())
        np.testing.assert_array_equal(runner.made_up()["tokens"], np.zeros((1, *TOKENS)))
        made = runner.made_up({"tokens": VOCABULARY})["tokens"]
        assert made.dtype == np.int32
        assert 0 <= made.min() < made.max() < VOCABULARY


class TestDamaged:
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_cut_short(self, share):
        content = plain_file("mlp", "float32")
        with pytest.raises(ModelError) as raised:
            Runner(content[: int(len(content) * share)], where="x.tflite")
        (problem,) = raised.value.problems
        assert problem.where == "x.tflite"
        assert problem.found.startswith("LiteRT cannot load the file: ")

    @pytest.mark.parametrize("content", [b"", b"text", b"\x00" * 100])
    def test_no_file_of_the_kind(self, content):
        with pytest.raises(ModelError):
            Runner(content)


def test_ids_that_the_table_does_not_have():
    x = np.full((1, *inputs_of("tiny_bert", 1).shape[1:]), 10_000, np.int32)
    with pytest.raises(DataError, match="a sample that it cannot run: gather index") as raised:
        Runner(int8_file("tiny_bert"), where="m.tflite").predict(x)
    (problem,) = raised.value.problems
    assert problem.where == "m.tflite"
    assert "tokenizer" in problem.fix
