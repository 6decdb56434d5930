"""Names that a recipe may use: methods, pruning criteria, targets, models, data sets.

An entry is known by name and summary alone; what it stands for is imported when it
is asked for. So `compresskit list` and `--help` load no TensorFlow. Packages add
entries of their own through the entry point groups `compresskit.methods`,
`compresskit.criteria`, `compresskit.targets`, `compresskit.models` and
`compresskit.datasets`, or by calling `register`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from compresskit.errors import CompressKitError, Problem, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A name, what it is in one line, and where it is found.

    Attributes:
        name: the word that recipes use.
        summary: one line for `compresskit list`.
        target: the object itself, or `module:attribute` to import it from.
    """

    name: str
    summary: str
    target: Any

    def load(self) -> Any:
        """The object that the name stands for, imported if need be."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


class Registry:
    """The entries of one kind, its own and those of installed packages."""

    def __init__(self, kind: str, group: str, error: type[CompressKitError]):
        self.kind = kind
        self._group = group
        self._error = error
        self._entries: dict[str, Entry] = {}
        self._discovered = False

    def register(self, name: str, target: Any, *, summary: str) -> None:
        """Adds an entry.

        Raises:
            ValueError: the name is taken by another target.
        """
        known = self._entries.get(name)
        if known is not None and known.target != target:
            raise ValueError(f"{self.kind} {name!r} is already registered as {known.target!r}")
        self._entries[name] = Entry(name=name, summary=summary, target=target)

    def decorator(self, name: str, *, summary: str) -> Callable[[Any], Any]:
        """`register` as a decorator."""

        def add(target: Any) -> Any:
            self.register(name, target, summary=summary)
            return target

        return add

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for point in metadata.entry_points(group=self._group):
            if point.name not in self._entries:
                summary = f"from {point.dist.name}" if point.dist else "from another package"
                self.register(point.name, point.value, summary=summary)

    def names(self) -> list[str]:
        """All names, sorted."""
        return [entry.name for entry in self.entries()]

    def entries(self) -> list[Entry]:
        """All entries, sorted by name."""
        self._discover()
        return sorted(self._entries.values(), key=lambda entry: entry.name)

    def __contains__(self, name: str) -> bool:
        self._discover()
        return name in self._entries

    def get(self, name: str, *, where: str = "") -> Any:
        """The object that `name` stands for.

        Args:
            where: where the name was read, for the error.

        Raises:
            CompressKitError: there is no such name; the registry's own subclass of it.
        """
        if name not in self:
            raise self._error(self.unknown(name, where=where))
        return self._entries[name].load()

    def unknown(self, name: str, *, where: str = "") -> Problem:
        """The problem of a name that is not registered."""
        return Problem(
            where=where or f"{self.kind} {name!r}",
            found=f"unknown {self.kind} {name!r}",
            expected=f"one of: {', '.join(self.names())}",
            fix=did_you_mean(name, self.names()),
        )
