"""The four metrics: their values, and that recipes know the same names."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from compresskit.metrics import (
    METRICS,
    accuracy,
    binary_accuracy,
    mean_absolute_error,
    mean_squared_error,
    reading,
    top_5_accuracy,
)
from compresskit.recipe import Evaluate

LABELS = np.array([1, 0, 1, 0])
ONE_OUTPUT = {
    "probabilities": [0.9, 0.1, 0.4, 0.6],
    # The same answers as logits: 0.4 is a yes here.
    "logits": [2.0, -2.0, -0.4, 0.4],
}


def test_recipes_know_the_same_names():
    assert set(get_args(Evaluate.model_fields["metric"].annotation)) == set(METRICS)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_accuracy_is_the_share_of_largest_outputs(shape):
    outputs = np.array([[0.1, 0.8, 0.1], [0.5, 0.2, 0.3], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])
    assert accuracy(outputs, LABELS.reshape(shape)) == 0.5
    assert accuracy(10 * outputs - 5, LABELS.reshape(shape)) == 0.5


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("kind", ONE_OUTPUT)
def test_one_output_is_yes_or_no(kind, shape):
    outputs = np.array(ONE_OUTPUT[kind]).reshape(-1, 1)
    assert accuracy(outputs, np.array([1, 0, 0, 0]).reshape(shape)) == 0.75


def test_each_step_counts():
    outputs = np.eye(6)[[[0, 1], [2, 5]]]
    assert accuracy(outputs, np.array([[0, 1], [2, 3]])) == 0.75
    assert top_5_accuracy(outputs, np.array([[0, 1], [2, 5]])) == 1.0
    assert top_5_accuracy(-outputs, np.array([[0, 1], [2, 5]])) == 0.0


@pytest.mark.parametrize("logits", [False, True])
def test_binary_accuracy(logits):
    outputs = np.array([[0.9, 0.2], [0.6, 0.4]])
    outputs = np.log(outputs / (1 - outputs)) if logits else outputs
    assert binary_accuracy(outputs, np.array([[1, 0], [0, 0]])) == 0.75


@pytest.mark.parametrize(
    ("outputs", "labels", "expected"),
    [
        ([[0.2, 0.8]], [0, 1, 3], "probabilities"),
        ([[0.2, 0.9]], [0, 1, 3], "logits"),
        ([[2.0, -1.0]], [0, 1, 3], "logits"),
        ([[0.7]], [0, 1], "shares"),
        ([[3.0]], [0, 1], "scores"),
        ([[0.7, 0.9]], [[0, 1], [1, 1]], "shares"),
        ([[0.7, -0.9]], [[0.0, 1.0], [1.0, 1.0]], "scores"),
        ([[0.7]], [0.5, 2.0], "numbers"),
        ([[0.7, 1.0]], [[0.5, 2.0]], "numbers"),
        ([[[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]], [[0, 2]], "probabilities"),
    ],
)
def test_how_outputs_are_read(outputs, labels, expected):
    assert reading(np.array(outputs), np.array(labels)) == expected


def test_top_5_accuracy():
    outputs = np.tile(np.arange(7.0), (3, 1))
    assert top_5_accuracy(outputs, np.array([6, 2, 1])) == pytest.approx(2 / 3)
    assert top_5_accuracy(outputs, np.array([[0], [1], [1]])) == 0
    assert top_5_accuracy(outputs[:, :3], np.array([0, 1, 2])) == 1


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_errors_of_numbers(shape):
    outputs = np.array([[1.0], [2.0], [3.0]])
    labels = np.array([1.0, 0.0, 6.0]).reshape(shape)
    assert mean_squared_error(outputs, labels) == pytest.approx(13 / 3)
    assert mean_absolute_error(outputs, labels) == pytest.approx(5 / 3)


def test_errors_of_vectors():
    outputs, labels = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 4.0]])
    assert mean_squared_error(outputs, labels) == pytest.approx(13 / 4)
    assert mean_absolute_error(outputs, labels) == pytest.approx(5 / 4)


@pytest.mark.parametrize("name", METRICS)
def test_figures_are_plain_floats(name):
    outputs = np.array([[0.25, 0.75]] * 2, dtype=np.float32)
    classes = name in ("accuracy", "top_5_accuracy")
    labels = np.array([1, 1]) if classes else (outputs > 0.5) * 1.0
    assert type(METRICS[name](outputs, labels)) is float
