"""How good answers are. The same figures for a Keras model and for a file; NumPy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples whose largest output is the label; one output is yes or no.

    Args:
        outputs: probabilities or logits, shape (n, classes) or (n, 1).
        labels: integers, shape (n,) or (n, 1).
    """
    return float(np.mean(answers(outputs) == labels.reshape(-1)))


def answers(outputs: np.ndarray) -> np.ndarray:
    """The label that each sample is given, shape (n,)."""
    if outputs.shape[-1] > 1:
        return outputs.argmax(axis=-1).reshape(-1)
    # Logits leave the unit interval; probabilities do not.
    logits = outputs.min() < 0 or outputs.max() > 1
    return (outputs.reshape(-1) > (0.0 if logits else 0.5)).astype(np.int64)


def top_5_accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples whose label is among the five largest outputs."""
    best = np.argsort(-outputs, axis=-1, kind="stable")[:, :5]
    return float(np.mean((best == labels.reshape(-1, 1)).any(axis=1)))


def mean_squared_error(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the squared differences, in the square of the label's unit."""
    return float(np.mean((outputs.reshape(labels.shape) - labels) ** 2))


def mean_absolute_error(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the absolute differences, in the label's unit."""
    return float(np.mean(np.abs(outputs.reshape(labels.shape) - labels)))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "top_5_accuracy": top_5_accuracy,
    "mean_squared_error": mean_squared_error,
    "mean_absolute_error": mean_absolute_error,
}
