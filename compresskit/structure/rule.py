"""What operations do to the labels of their inputs: the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from compresskit.structure.flow import Flow
from compresskit.structure.structure import Structure

# Called with the structure, the operation, its arguments, its keyword arguments and its outputs.
Rule = Callable[[Structure, Any, tuple[Any, ...], dict[str, Any], Sequence[Any]], "Sequence[Flow]"]
RULES: dict[type, Rule] = {}


def rule(*kinds: type) -> Callable[[Rule], Rule]:
    """Registers a function as what these operations, and those that derive from them, do."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return register


def flows_in(*arguments: Any) -> list[Flow]:
    """The tensors among arguments."""
    return [each for each in keras.tree.flatten(arguments) if isinstance(each, Flow)]
