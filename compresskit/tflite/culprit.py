"""Which layer of a model a conversion fails on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from compresskit.graph import recording


def culprit(model: keras.Model, sample: Any, fails: Callable[[int], bool]) -> str | None:
    """The operation with which a conversion begins to fail, for people.

    The calls of a model's innermost operations have an order, and what their first n make
    can be converted by itself. If that fails, it fails for more than n, too: the least n is
    found in as many steps as its number has binary digits. Works for any model, nested and
    subclassed ones.

    Args:
        sample: a batch of inputs as the model takes them.
        fails: whether the first so many calls cannot be converted.

    Returns:
        Its type and path, or None if the calls can be converted, all of them: then it is
        something between layers or about the outputs.
    """
    with recording(model) as calls:
        model(sample, training=False)
    good, bad = 0, len(calls)
    if not bad or not fails(bad):
        return None
    while bad - good > 1:
        middle = (good + bad) // 2
        if fails(middle):
            bad = middle
        else:
            good = middle
    operation = calls[bad - 1].operation
    return f"{type(operation).__name__} {getattr(operation, 'path', operation.name)!r}"
