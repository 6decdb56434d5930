"""compresskit.comparison: two models side by side."""

from __future__ import annotations

import json

import numpy as np
import pytest

import compresskit as ck
from compresskit.data import Dataset
from compresskit.errors import DataError, ModelError
from compresskit.packing import pack
from compresskit.tflite.runtime import Runner
from tests.files import int8_file, plain_file
from tests.models import lstm
from tests.runs import command, digits
from tests.test_package import heavy_after_command
from tests.training import answers, trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("models")
    trained("mlp").save(made / "m.keras")
    for precision in ("float32", "dynamic"):
        (made / f"{precision}.tflite").write_bytes(plain_file("mlp", precision))
    (made / "int8.tflite").write_bytes(int8_file("mlp"))
    (made / "cnn.tflite").write_bytes(plain_file("cnn_bn", "float32"))
    trained("cnn_bn").save(made / "cnn.keras")
    return made


@pytest.fixture(scope="module")
def made(folder):
    """A float file and one of a model that was pruned and quantized."""
    return ck.compare(folder / "float32.tflite", folder / "int8.tflite", data=digits())


class TestTwoFiles:
    def test_sides(self, made, folder):
        assert made.a.kind == made.b.kind == "tflite"
        assert made.a.bytes == (folder / "float32.tflite").stat().st_size
        assert made.a.packed_bytes is None
        assert made.b.packed_bytes == len(pack(int8_file("mlp")))
        assert made.b.gzip_bytes == ck.inspect(folder / "int8.tflite").gzip_bytes
        assert made.a.dtypes == {"FLOAT32": 32 * 64 + 32 * 10}
        assert made.b.dtypes == {"INT8": 32 * 64 + 32 * 10}
        assert made.b.sparsity > made.a.sparsity
        assert made.a.ops == made.b.ops

    def test_answers(self, made):
        x, y = digits().x_test, digits().y_test
        a = Runner(plain_file("mlp", "float32")).predict(x)
        b = Runner(int8_file("mlp")).predict(x)
        first, second = a.argmax(-1), b.argmax(-1)
        given = made.answers
        assert made.a.metrics == {"accuracy": np.mean(first == y)}
        assert made.b.metrics == {"accuracy": np.mean(second == y)}
        assert (given.data, given.samples) == ("few digits", 64)
        assert given.agreement == np.mean(first == second) < 1  # it was pruned after training
        assert given.mean_abs_error == pytest.approx(np.abs(a - b).mean())
        assert given.max_abs_error == pytest.approx(np.abs(a - b).max())
        assert [each.index for each in given.changed] == list(np.flatnonzero(first != second))
        for each in given.changed:
            assert (each.label, each.a, each.b) == (
                y[each.index],
                first[each.index],
                second[each.index],
            )

    def test_activations(self, made):
        assert made.activations[-1].shape == (1, 10)
        assert all(each.relative_error > 0 for each in made.activations[1:])

    def test_without_data(self, folder):
        made = ck.compare(folder / "float32.tflite", folder / "dynamic.tflite")
        assert made.answers is None
        assert made.activations == ()
        assert made.a.metrics == {}
        assert len(made.weights) == 2
        assert made.only_a == made.only_b == ()


class TestKeras:
    def test_against_its_file(self, folder):
        made = ck.compare(folder / "m.keras", folder / "float32.tflite", data=digits())
        assert (made.a.kind, made.b.kind) == ("keras", "tflite")
        assert made.answers.agreement == 1.0
        assert made.answers.changed == ()
        assert made.answers.max_abs_error < 1e-5
        assert made.activations == ()
        assert [each.a for each in made.weights] == ["fc1/kernel", "logits/kernel"]
        assert [each.relative_error for each in made.weights] == [0.0, 0.0]
        expected = np.mean(answers(trained("mlp"), digits().x_test).argmax(-1) == digits().y_test)
        assert made.a.metrics == {"accuracy": expected}

    def test_folded_normalization(self, folder):
        made = ck.compare(folder / "cnn.keras", folder / "cnn.tflite")
        assert {each.a for each in made.weights} >= {"conv1/kernel", "logits/kernel"}
        by_name = {each.a: each for each in made.weights}
        assert by_name["conv1/kernel"].scaled
        assert not by_name["logits/kernel"].scaled
        assert all(each.relative_error < 1e-5 for each in made.weights)
        assert made.only_a == made.only_b == ()

    def test_gates_of_an_lstm(self, tmp_path):
        model = lstm()
        model.save(tmp_path / "m.keras")
        ck.export(model, target="edge-cpu", precision="dynamic", path=tmp_path / "m.tflite")
        made = ck.compare(tmp_path / "m.keras", tmp_path / "m.tflite")
        names = {each.a.split("/", 1)[-1] for each in made.weights}
        gates = ("input", "forget", "cell", "output")
        kernels = ("kernel", "recurrent_kernel")
        assert {f"lstm_cell/{kernel}, {gate} gate" for gate in gates for kernel in kernels} <= names
        assert all(each.relative_error < 0.02 for each in made.weights)
        assert made.only_a == ()

    def test_two_models(self, folder):
        made = ck.compare(folder / "m.keras", folder / "m.keras", data=digits())
        assert [each.sqnr_db for each in made.weights] == [None, None]
        assert made.answers.agreement == 1.0


def test_numbers_and_several_yes_or_no(folder):
    x = digits().x_test
    y = Runner(plain_file("mlp", "float32")).predict(x)
    numbers = Dataset(name="n", x_train=x, y_train=y, x_test=x, y_test=y)
    paths = folder / "float32.tflite", folder / "int8.tflite"
    made = ck.compare(*paths, data=numbers, metric="mean_squared_error")
    assert made.a.metrics["mean_squared_error"] == 0.0 < made.b.metrics["mean_squared_error"]
    assert len(made.answers.changed[0].label) == len(made.answers.changed[0].a) == 10
    yes = (y > 0.3).astype(np.int64)
    several = Dataset(name="y", x_train=x, y_train=yes, x_test=x, y_test=yes)
    made = ck.compare(*paths, data=several, metric="binary_accuracy")
    for each in made.answers.changed:
        assert set(each.a) | set(each.b) <= {0, 1}
        assert each.a != each.b


class TestErrors:
    def test_both_files_are_named(self, folder, tmp_path):
        (tmp_path / "text.tflite").write_bytes(b"no model")
        with pytest.raises(ModelError) as raised:
            ck.compare(tmp_path / "text.tflite", tmp_path / "nowhere.tflite")
        found = [each.where for each in raised.value.problems]
        assert found == [str(tmp_path / "text.tflite"), str(tmp_path / "nowhere.tflite")]

    def test_unknown_metric(self, folder):
        with pytest.raises(DataError) as raised:
            ck.compare(folder / "m.keras", folder / "m.keras", metric="acuracy")
        assert raised.value.problems[0].fix == "did you mean 'accuracy'?"

    def test_samples_of_another_shape(self, folder):
        x, y = np.zeros((4, 3), np.float32), np.arange(4)
        with pytest.raises(DataError) as raised:
            ck.compare(folder / "float32.tflite", folder / "int8.tflite", data=((x, y), (x, y)))
        assert "samples of shape (3,)" in raised.value.problems[0].found


class TestCommand:
    def test_table(self, folder):
        words = ["--data", "digits", "--show", 2]
        done = command("compare", folder / "float32.tflite", folder / "int8.tflite", *words)
        assert done.exit_code == 0, done.output
        for text in ("weights in INT8", "agreement", "answer of A", "weights, the worst first"):
            assert text in done.stdout

    def test_json(self, folder):
        done = command("compare", folder / "float32.tflite", folder / "int8.tflite", "--json")
        made = json.loads(done.stdout)
        assert made["answers"] is None
        assert [each["dtypes"] for each in made["weights"]] == [["FLOAT32", "INT8"]] * 2

    def test_loads_no_tensorflow_for_two_files(self, folder):
        paths = (folder / "float32.tflite", folder / "int8.tflite")
        assert heavy_after_command("compare", *paths, "--data", "digits") == []
