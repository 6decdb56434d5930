"""Whole runs of other tasks than one class a sample: numbers, several labels, steps, outputs."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers

import compresskit as ck
from compresskit.data import load
from compresskit.errors import DataError, RecipeError
from compresskit.evaluation import evaluate
from compresskit.preparation import prepare
from tests.runs import PRUNE, command, settings

RANDOM = np.random.default_rng(2)
X = RANDOM.normal(size=(320, 6, 4)).astype(np.float32)
NUMBERS = X[:, :, 0].mean(axis=1) * 3 + X[:, 0, 1]
YES = (X.mean(axis=1)[:, :3] > 0).astype(np.int64)
STEPS = X.argmax(axis=-1)
Y = {
    "numbers": NUMBERS,
    "yes": YES,
    "steps": STEPS,
    "outputs": {"b": STEPS[:, 0], "a": NUMBERS},
}
METRIC = {
    "numbers": ("mean_absolute_error", "min"),
    "yes": ("binary_accuracy", "max"),
    "steps": ("accuracy", "max"),
    "outputs": ("accuracy", "max"),
}

# What a model reaches that says the same of every sample is worse.
KNOWN = {"numbers": 0.8, "yes": 0.6, "steps": 0.5, "outputs": 0.4}


def model_for(task, units=24):
    inputs = keras.Input((6, 4), name="signal")
    if task == "steps":
        x = layers.Dense(units, activation="relu", name="fc1")(inputs)
        outputs = layers.Dense(4, activation="softmax", name="logits")(x)
        return keras.Model(inputs, outputs, name=task)
    x = layers.Dense(units, activation="relu", name="fc1")(layers.Flatten(name="flat")(inputs))
    heads = {
        "numbers": lambda: layers.Dense(1, name="logits")(x),
        "yes": lambda: layers.Dense(3, activation="sigmoid", name="logits")(x),
        # The order of the names is not that of the outputs.
        "outputs": lambda: [
            layers.Dense(4, activation="softmax", name="b")(x),
            layers.Dense(1, name="a")(x),
        ],
    }
    return keras.Model(inputs, heads[task](), name=task)


def small(task):
    return model_for(task, units=8)


def data_for(task):
    y = Y[task]
    if isinstance(y, dict):
        train, test = ({key: each[part] for key, each in y.items()} for part in _PARTS)
    else:
        train, test = (y[part] for part in _PARTS)
    return load(((X[:256], train), (X[256:], test)))


def outputs():
    return data_for("outputs")


_PARTS = (slice(256), slice(256, None))


def recipe_for(task, *stages, **changes):
    metric, mode = METRIC[task]
    evaluate = {"metric": metric, "mode": mode, **changes.pop("evaluate", {})}
    plain = settings(
        stages=list(stages),
        evaluate=evaluate,
        baseline={"epochs": 8, "learning_rate": 0.01, "batch_size": 32},
        export=[{"target": "edge-cpu", "precision": "float32", "parity": {"min_agreement": 1.0}}],
        **changes,
    )
    return ck.Recipe.from_dict(plain)


@pytest.mark.parametrize("task", Y)
def test_a_student_learns_it_and_the_file_does_it(task, tmp_path):
    student = {"builder": "tests.test_tasks:small", "args": {"task": task}}
    stages = [
        {"type": "distill", "student": student, "epochs": 15, "learning_rate": 0.01},
        {**PRUNE, "distill": {"teacher": "previous"}},
    ]
    data = data_for(task)
    made = ck.compress(model_for(task), recipe_for(task, *stages), data=data, out=tmp_path / "out")
    assert made.report.broken == ()
    metric, mode = METRIC[task]
    (artifact,) = made.report.artifacts
    reached = artifact.metrics[metric]
    assert reached < KNOWN[task] if mode == "min" else reached > KNOWN[task]
    assert artifact.parity.agreement == 1.0
    output = "b" if task == "outputs" else None
    for file in ("edge-cpu-float32.tflite", "model.keras"):
        figures = evaluate(tmp_path / "out" / file, data, metric=metric, output=output)
        assert figures[metric] == pytest.approx(reached, rel=1e-4)


def test_quantized_numbers(tmp_path):
    plain = recipe_for("numbers", {"type": "qat", "epochs": 3})
    plain = plain.model_copy(
        update={
            "export": ck.Recipe.from_dict(
                settings(export=[{"target": "edge-cpu", "precision": "int8"}])
            ).export
        }
    )
    made = ck.compress(model_for("numbers"), plain, data=data_for("numbers"), out=tmp_path / "o")
    (artifact,) = made.report.artifacts
    # A number agrees that is within a twentieth of the standard deviation.
    assert artifact.parity.agreement > 0.95
    assert made.report.broken == ()


def test_the_other_output_is_measured():
    plain = recipe_for(
        "outputs", PRUNE, evaluate={"output": "a", "metric": "mean_absolute_error", "mode": "min"}
    )
    made = ck.compress(model_for("outputs"), plain, data=data_for("outputs"))
    outputs = made.model(X[256:])[1].numpy()[:, 0]
    expected = np.abs(outputs - NUMBERS[256:]).mean()
    assert made.report.stages[0].metrics["mean_absolute_error"] == pytest.approx(expected, rel=1e-3)
    (artifact,) = made.report.artifacts
    assert artifact.metrics["mean_absolute_error"] == pytest.approx(expected, rel=1e-3)


class TestErrors:
    def problem(self, task, model, data, **changes):
        made = prepare(recipe_for(task, PRUNE, **changes), model=model, data=data)
        (one,) = made.problems
        return made.error, one

    def test_an_output_that_is_not_there(self):
        error, one = self.problem(
            "outputs", model_for("outputs"), data_for("outputs"), evaluate={"output": "c"}
        )
        assert error is RecipeError
        assert (one.where, one.found, one.expected) == (
            "evaluate.output",
            "output 'c'",
            "one of: b, a",
        )

    def test_labels_of_one_output_for_two(self):
        error, one = self.problem("outputs", model_for("outputs"), data_for("steps"))
        assert error is DataError
        assert one.found == "labels: one array; outputs of outputs: b, a"
        assert "y_train.NAME" in one.fix

    def test_a_measure_of_classes_for_numbers(self):
        metric = {"metric": "top_5_accuracy", "mode": "max"}
        error, one = self.problem("yes", model_for("yes"), data_for("yes"), evaluate={**metric})
        assert error is RecipeError
        assert one.where == "evaluate.metric"
        assert "binary_accuracy" in one.fix

    def test_accuracy_of_numbers(self):
        data = load(((X[:256], NUMBERS[:256]), (X[256:], NUMBERS[256:])))
        metric = {"metric": "accuracy", "mode": "max"}
        error, one = self.problem("numbers", model_for("numbers"), data, evaluate=metric)
        assert error is RecipeError
        assert one.found == "accuracy of labels of type float32"
        assert "astype('int64')" in one.fix

    def test_which_of_several(self, tmp_path):
        model_for("outputs").save(tmp_path / "m.keras")
        told = command("evaluate", tmp_path / "m.keras", "--data", "tests.test_tasks:outputs")
        assert told.exit_code == 2
        assert "give --output NAME" in told.stderr
        words = ("--data", "tests.test_tasks:outputs", "--output", "b", "--json")
        told = command("evaluate", tmp_path / "m.keras", *words)
        assert 0.0 <= json.loads(told.stdout)["accuracy"] <= 1.0
        with pytest.raises(DataError) as caught:
            evaluate(tmp_path / "m.keras", data_for("outputs"))
        assert "give --output NAME" in str(caught.value)
        with pytest.raises(DataError) as caught:
            evaluate(tmp_path / "m.keras", data_for("outputs"), output="bb")
        assert "did you mean 'b'?" in str(caught.value)

    def test_a_file_of_other_outputs(self, tmp_path):
        ck.export(
            model_for("outputs"), target="edge-cpu", precision="float32", path=tmp_path / "m.tflite"
        )
        x, y = X[:4], {"c": NUMBERS[:4]}
        data = load(((x, y), (x, y)))
        with pytest.raises(DataError) as caught:
            evaluate(tmp_path / "m.tflite", data, output="c", metric="mean_absolute_error")
        assert caught.value.problems[0].found == "no output 'c'"
        model_for("outputs").save(tmp_path / "m.keras")
        with pytest.raises(DataError) as caught:
            evaluate(tmp_path / "m.keras", data, output="c", metric="mean_absolute_error")
        assert caught.value.problems[0].found == "labels: c; outputs of outputs: b, a"


def test_labels_of_several_outputs_in_a_file(tmp_path):
    arrays = {}
    for key, each in Y["outputs"].items():
        arrays[f"y_train.{key}"], arrays[f"y_test.{key}"] = (each[part] for part in _PARTS)
    np.savez(tmp_path / "d.npz", x_train=X[:256], x_test=X[256:], **arrays)
    from compresskit.recipe_fields import NpzData

    read = load(NpzData(npz="d.npz"), base=tmp_path)
    assert set(read.y_train) == {"a", "b"}
    np.testing.assert_array_equal(read.y_test["b"], Y["outputs"]["b"][256:])
