"""compresskit.evaluation: the metric of a file."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.data import Dataset
from compresskit.errors import DataError, ModelError
from compresskit.evaluation import evaluate
from tests.runs import digits
from tests.test_inspection import written
from tests.training import answers, trained


def pictures(*shape):
    x, y = np.zeros((4, *shape), dtype=np.float32), np.arange(4)
    return Dataset(name="d", x_train=x, y_train=y, x_test=x, y_test=y)


@pytest.fixture(params=["tflite", "keras"])
def path(request, tmp_path):
    """The path of one model in each format."""
    if request.param == "tflite":
        return written(tmp_path)
    trained("mlp").save(tmp_path / "m.keras")
    return tmp_path / "m.keras"


def test_both_formats_measure_what_the_model_does(path):
    data = digits()
    expected = np.mean(answers(trained("mlp"), data.x_test).argmax(-1) == data.y_test)
    made = evaluate(path, data)
    assert made["samples"] == 64
    assert made["accuracy"] == pytest.approx(expected)
    assert ("latency_ms" in made) == (path.suffix == ".tflite")
    assert all(type(value) in (int, float) for value in made.values())


def test_another_metric(path):
    made = evaluate(path, digits(), metric="top_5_accuracy", threads=2)
    assert made["top_5_accuracy"] >= evaluate(path, digits())["accuracy"]


def test_unknown_metric(path):
    with pytest.raises(DataError) as raised:
        evaluate(path, digits(), metric="acuracy")
    (one,) = raised.value.problems
    assert one.found == "unknown metric 'acuracy'"
    assert one.fix == "did you mean 'accuracy'?"


@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 8, 3), (64,)])
def test_samples_of_another_shape(path, shape):
    with pytest.raises(DataError) as raised:
        evaluate(path, pictures(*shape))
    (one,) = raised.value.problems
    assert str(path) in one.where
    assert f"samples of shape {shape}" in one.found
    assert "\n" not in one.found


@pytest.mark.parametrize("suffix", ["tflite", "keras"])
def test_missing(suffix, tmp_path):
    with pytest.raises(ModelError) as raised:
        evaluate(tmp_path / f"nowhere.{suffix}", digits())
    assert "nowhere" in str(raised.value)


def test_a_metric_that_does_not_fit_the_answers(path):
    with pytest.raises(DataError) as raised:
        evaluate(path, digits(), metric="mean_squared_error")
    (one,) = raised.value.problems
    assert "mean_squared_error of outputs of shape (10,)" in one.found
