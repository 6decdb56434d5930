"""compresskit.exporting: a model exported as it is."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from compresskit import catalog
from compresskit.data import Dataset
from compresskit.errors import DataError, ModelError, TargetError
from compresskit.evaluation import evaluate
from compresskit.exporting import export
from compresskit.inspection import inspect
from tests.models import mlp, subclassed
from tests.runs import digits, names_in
from tests.training import answers, compressed, inputs_of, trained


def problem(kind, model=None, **arguments):
    with pytest.raises(kind) as raised:
        export(model or mlp(), **arguments)
    (one,) = raised.value.problems
    return one


class TestExport:
    @pytest.mark.parametrize("precision", ["float32", "float16", "dynamic"])
    def test_floats_need_no_data(self, tmp_path, precision):
        path = tmp_path / "new" / "m.tflite"
        made = export(trained("mlp"), target="edge-cpu", precision=precision, path=path)
        assert replace(made, claim="", findings=()) == inspect(path)
        assert names_in(path.parent) == ["m.tflite"]
        data = digits()
        expected = np.mean(answers(trained("mlp"), data.x_test).argmax(-1) == data.y_test)
        assert evaluate(path, data)["accuracy"] == pytest.approx(expected, abs=0.05)

    @pytest.mark.parametrize("target", catalog.targets.names())
    def test_the_default_of_each_target(self, tmp_path, target):
        record = catalog.targets.get(target)
        if record.requires is not None:
            pytest.importorskip(record.requires.module)
        made = export(
            trained("mlp"),
            target=target,
            path=tmp_path / "m.tflite",
            representative_data=inputs_of("mlp"),
        )
        if record.precisions[record.default].integer:
            assert made.float_ops == 0
        assert made.findings == ()
        assert (made.compiled is not None) == (record.compiler is not None)
        assert made.claim == (made.compiled.claim if made.compiled else record.claim)
        beside = [made.compiled.path] if made.compiled else []
        assert names_in(tmp_path) == sorted(["m.tflite", *beside])
        placed = made.compiled or made.placement
        if placed is not None:
            assert (placed.npu_ops, placed.cpu_ops) == (sum(made.ops.values()), ())
            assert placed.npu_multiply_adds == placed.multiply_adds == 64 * 32 + 32 * 10

    def test_what_the_target_does_not_run(self, tmp_path):
        done = compressed("tiny_bert")
        path = tmp_path / "m.tflite"
        made = export(done.model, target="edge-tpu", path=path, representative_data=done.x)
        assert made.claim == ""
        reasons = {each.op: each.reason for each in made.findings}
        assert reasons["GATHER"] == "is not an op of the Edge TPU"
        assert reasons["BATCH_MATMUL"] == "is not an op of the Edge TPU"
        assert "aborts" in reasons["GELU"]

    def test_what_its_runtime_cannot_load_is_not_written(self, tmp_path):
        pytest.importorskip("tflite_micro")
        done = compressed("tiny_bert")
        path = tmp_path / "m.tflite"
        with pytest.raises(ModelError, match="GELU"):
            export(done.model, target="micro", path=path, representative_data=done.x)
        assert not path.exists()

    def test_ranges_that_training_learned(self, tmp_path):
        done = compressed("mlp")
        path = tmp_path / "m.tflite"
        export(
            done.model,
            target="edge-cpu",
            path=path,
            representative_data=done.x[:2],  # too few to measure ranges on
            ranges=done.ranges,
        )
        few = evaluate(path, _labelled(done.x, done.trained.argmax(-1)))
        assert few["accuracy"] > 0.95

    def test_the_model_is_not_changed(self, tmp_path):
        model = mlp()
        before = model.get_weights()
        export(model, target="edge-cpu", path=tmp_path / "m", representative_data=inputs_of("mlp"))
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        assert all("call" not in layer.__dict__ for layer in model._flatten_layers())

    def test_an_existing_file_is_replaced(self, tmp_path):
        path = tmp_path / "m.tflite"
        path.write_bytes(b"old")
        export(mlp(), target="edge-cpu", precision="float32", path=path)
        assert path.read_bytes()[4:8] == b"TFL3"
        assert names_in(tmp_path) == ["m.tflite"]

    def test_sequential_without_data(self, tmp_path):
        layers = [keras.Input((6, 4)), keras.layers.Flatten(), keras.layers.Dense(3)]
        path = tmp_path / "m.tflite"
        made = export(keras.Sequential(layers), target="edge-cpu", precision="float32", path=path)
        assert made.inputs[0].shape == (1, 6, 4)

    def test_subclassed_with_data(self, tmp_path):
        made = export(
            subclassed(),
            target="edge-cpu",
            precision="dynamic",
            path=tmp_path / "m.tflite",
            representative_data=inputs_of("subclassed", 1),
        )
        assert made.inputs[0].shape == (1, 8, 8, 1)


class TestErrors:
    def test_integers_without_data(self, tmp_path):
        path = tmp_path / "m.tflite"
        one = problem(DataError, target="edge-cpu", path=path)
        assert one.where == f"export to {path}"
        assert one.found == "no representative data for int8"
        assert "--data" in one.fix
        assert "representative_data=" in one.fix
        assert not path.exists()

    def test_an_unknown_target(self, tmp_path):
        one = problem(TargetError, target="edge-gpu", path=tmp_path / "m")
        assert one.where == "target"
        assert one.found == "unknown target 'edge-gpu'"
        assert "did you mean 'edge-" in one.fix

    def test_an_unknown_precision(self, tmp_path):
        one = problem(TargetError, target="edge-cpu", precision="int9", path=tmp_path / "m")
        assert one.found == "precision 'int9' for target 'edge-cpu'"
        assert one.expected == "one of: float32, float16, dynamic, int8, int16x8, int4"
        assert "did you mean 'int8'?" in one.fix

    def test_subclassed_without_data(self, tmp_path):
        one = problem(
            DataError, subclassed(), target="edge-cpu", precision="dynamic", path=tmp_path / "m"
        )
        assert one.where == "model 'subclassed'"
        assert "declares no input shape" in one.found

    @pytest.mark.parametrize("shape", [(28, 28, 1), (64,)])
    def test_data_of_another_shape(self, tmp_path, shape):
        one = problem(
            DataError,
            target="edge-cpu",
            path=tmp_path / "m",
            representative_data=np.zeros((4, *shape), dtype=np.float32),
        )
        assert f"samples of shape {shape}" in one.found
        assert names_in(tmp_path) == []

    def test_data_without_a_sample(self, tmp_path):
        empty = np.zeros((0, 8, 8, 1), dtype=np.float32)
        one = problem(DataError, target="edge-cpu", path=tmp_path / "m", representative_data=empty)
        assert one.found == "representative data without a sample"


def _labelled(x, y):
    return Dataset(name="d", x_train=x, y_train=y, x_test=x, y_test=y)
