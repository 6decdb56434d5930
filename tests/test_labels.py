"""compresskit.labels: classes, numbers, yes or no, for each sample or each step."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.labels import (
    are_classes,
    check_labels,
    label_of,
    plain_labels,
    signature_name,
)

SEVERAL = np.array([[0, 1, 1], [0, 0, 0], [1, 1, 1]])


@pytest.mark.parametrize(
    ("given", "dtype", "shape"),
    [
        (np.array([1, 2], np.uint8), np.int64, (2,)),
        (np.array([[1], [2]], np.int32), np.int32, (2,)),
        (np.array([0.5, 2.0]), np.float32, (2,)),
        (np.array([[0.5, 1.0], [1, 2]]), np.float32, (2, 2)),
        (np.array([True, False]), np.int64, (2,)),
    ],
)
def test_plain(given, dtype, shape):
    made = plain_labels(given)
    assert (made.dtype, made.shape) == (dtype, shape)


def test_several_outputs():
    made = plain_labels({"a": [1, 2], "b": [[0.5], [1.5]]})
    assert made["a"].dtype == np.int64
    assert made["b"].shape == (2,)
    assert label_of(made, "b") is made["b"]
    assert label_of(made, None) is made["a"]


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.array([0, 1, 2]), True),
        (np.array([[0, 5], [2, 1]]), True),
        (SEVERAL, False),
        (np.array([0.5, 1.0]), False),
        ({"a": np.array([0, 1])}, False),
    ],
)
def test_what_is_a_class(y, classes):
    assert are_classes(y) is classes


@pytest.mark.parametrize(
    "y",
    [
        np.array([0, 1, 2]),
        np.array([[0, 5], [2, 1]]),
        SEVERAL,
        SEVERAL.astype(np.float32),
        np.array([-0.5, 7.25], np.float32),
        {"a": np.array([0, 1]), "b": np.array([0.5, -1.0], np.float32)},
    ],
    ids=["classes", "steps", "several", "several floats", "numbers", "outputs"],
)
def test_nothing_is_wrong(y):
    assert check_labels(y, "y") == []


@pytest.mark.parametrize(
    ("y", "found", "fix"),
    [
        (np.array([-1, 2]), "label -1", "number the classes from 0"),
        (np.array([]), "no labels", "check what wrote the array"),
        (np.array(["cat"]), "type <U3", "number the classes from 0"),
        (np.eye(3, dtype=int), "one-hot rows, shape (3, 3)", "y.argmax(axis=-1)"),
        (np.eye(3, dtype=np.float32), "one-hot rows, shape (3, 3)", "y.argmax(axis=-1)"),
        (
            np.array([1.0, np.nan]),
            "NaN or infinite values in 1 labels, first at index 1",
            "fill in",
        ),
        (np.int64(3), "shape ()", "a label for each sample"),
    ],
)
def test_what_is_wrong(y, found, fix):
    (problem,) = check_labels(np.asarray(y), "data.y_train")
    assert (problem.where, problem.found) == ("data.y_train", found)
    assert fix in problem.fix


def test_of_one_output():
    (problem,) = check_labels({"a": np.array([0]), "b": np.array([-1])}, "data.y_train")
    assert problem.where == "data.y_train.b"


def test_names_of_classes():
    (problem,) = check_labels(np.array([0, 2]), "y", ("a", "b"))
    assert problem.found == "label 2, but 2 class names"
    assert check_labels(np.array([0.5, 2]), "y", ("a",)) == []


def test_names_in_a_file():
    assert signature_name("head/logits:0") == "head_logits_0"
