"""What a model shows inside: the outputs of layers, and where attention looks."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, final

import keras

from compresskit.attention import attentions, hide_far, written_out
from compresskit.errors import did_you_mean
from compresskit.parametrize import hook, settle

OUTPUT = "output"
ATTENTION = "attention"
# What is shown of which layer: OUTPUT or ATTENTION, and the layer's name or path.
Place = tuple[str, str]


class UnknownLayer(LookupError):
    """A name that is no layer's, or not the one of an attention layer.

    Attributes:
        expected, fix: words for an error.
    """

    def __init__(self, expected: str, fix: str):
        super().__init__(expected)
        self.expected = expected
        self.fix = fix


@final
class Taps:
    """Writes down what a model shows at some places while it is called.

    Attributes:
        shown: the tensor of each place, of the last call in this thread: replicas of a strategy
            have one each.
    """

    def __init__(self, model: keras.Model, places: Iterable[Place]):
        """
        Raises:
            UnknownLayer: a place names no layer, or no attention.
        """
        self._thread = threading.local()
        self._undo = ExitStack()
        found = [(place, _layer(model, *place)) for place in dict.fromkeys(places)]
        for place, layer in found:
            operation = layer
            if place[0] == ATTENTION:
                operation = layer._softmax
                if "_compute_attention" not in vars(layer):
                    # In one piece Keras may not compute its weights at all.
                    self._undo.enter_context(written_out({layer: hide_far}))
            self._tap(place, operation)

    @property
    def shown(self) -> dict[Place, Any]:
        return self._thread.__dict__.setdefault("shown", {})

    def close(self) -> None:
        """Leaves the model as it was."""
        self._undo.close()

    def _tap(self, place: Place, operation: Any) -> None:
        def show(values: Any) -> Any:
            self.shown[place] = values
            return values

        outputs = hook(operation).outputs
        outputs.append(show)

        def take_away() -> None:
            outputs.remove(show)
            settle(operation)

        self._undo.callback(take_away)


def _layer(model: keras.Model, kind: str, name: str) -> Any:
    if kind == ATTENTION:
        known, expected = attentions(model), "a MultiHeadAttention layer"
    else:
        known = list(model._flatten_layers(include_self=False))
        expected = "a layer"
    for layer in known:
        if name in (layer.name, layer.path):
            return layer
    names = {layer.name for layer in known}
    fix = did_you_mean(name, names) if names else "the model has none: remove this loss"
    raise UnknownLayer(f"the name or path of {expected} of {model.name}", fix)
