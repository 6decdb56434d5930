"""How good answers are. The same figures for a Keras model and for a file; NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

# How the outputs of a model are to be read: `probabilities` or `logits` of classes, one of which
# is right; `shares` (probabilities) or `scores` (logits) of yes-or-no questions; `numbers`.
Answers = Literal["probabilities", "logits", "shares", "scores", "numbers"]
# Numbers agree that differ by at most this share of their standard deviation.
_CLOSE = 0.05


def reading(outputs: np.ndarray, labels: np.ndarray) -> Answers:
    """How outputs are to be read, by their labels.

    Args:
        outputs: answers to some samples.
        labels: those of any samples of the same data set, the more the better.
    """
    within = bool(outputs.min() >= 0.0 and outputs.max() <= 1.0)
    if labels.shape[1:] == outputs.shape[1:] or outputs.shape[1:] == (*labels.shape[1:], 1):
        if not np.isin(labels, (0, 1)).all():
            return "numbers"
        return "shares" if within else "scores"
    if not np.issubdtype(labels.dtype, np.integer):
        return "numbers"
    sums = outputs.sum(axis=-1)
    return "probabilities" if within and np.allclose(sums, 1.0, atol=1e-3) else "logits"


def agreement(outputs: np.ndarray, reference: np.ndarray, answers_are: Answers) -> float:
    """Share of equal answers: classes, yes or no, or numbers that are close."""
    if answers_are == "numbers":
        return float(np.mean(close(outputs, reference)))
    if answers_are in ("shares", "scores"):
        least = 0.5 if answers_are == "shares" else 0.0
        return float(np.mean((outputs > least) == (reference > least)))
    return float(np.mean(answers(outputs) == answers(reference)))


def close(outputs: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Which numbers differ by at most a twentieth of the reference's standard deviation."""
    return np.abs(outputs - reference) <= _CLOSE * np.std(reference, axis=0)


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples whose largest output is the label; one output is yes or no.

    Args:
        outputs: probabilities or logits, shape (n, classes) or (n, 1); for each step (n, steps,
            classes).
        labels: integers, shape (n,), (n, 1) or (n, steps).
    """
    return float(np.mean(answers(outputs) == labels.reshape(-1)))


def answers(outputs: np.ndarray) -> np.ndarray:
    """The label that each sample, or each step of one, is given, flat."""
    if outputs.shape[-1] > 1:
        return outputs.argmax(axis=-1).reshape(-1)
    # Logits leave the unit interval; probabilities do not.
    logits = outputs.min() < 0 or outputs.max() > 1
    return (outputs.reshape(-1) > (0.0 if logits else 0.5)).astype(np.int64)


def binary_accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of yes-or-no questions that are answered right, over all labels of a sample.

    Args:
        outputs: probabilities or logits, shape (n, ...).
        labels: 0 or 1, of the same shape.
    """
    least = 0.0 if outputs.min() < 0 or outputs.max() > 1 else 0.5
    return float(np.mean((outputs.reshape(labels.shape) > least) == (labels > 0.5)))


def top_5_accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples whose label is among the five largest outputs."""
    best = np.argsort(-outputs, axis=-1, kind="stable")[..., :5]
    return float(np.mean((best.reshape(-1, best.shape[-1]) == labels.reshape(-1, 1)).any(axis=1)))


def mean_squared_error(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the squared differences, in the square of the label's unit."""
    return float(np.mean((outputs.reshape(labels.shape) - labels) ** 2))


def mean_absolute_error(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the absolute differences, in the label's unit."""
    return float(np.mean(np.abs(outputs.reshape(labels.shape) - labels)))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "binary_accuracy": binary_accuracy,
    "top_5_accuracy": top_5_accuracy,
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
}
