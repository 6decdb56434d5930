"""Units that live and die together: filters, neurons, heads, and whatever is joined to them.

Every index along an axis of a variable has a label. Joining two labels says that neither
can be removed without the other; pinning one says that it cannot be removed at all.
Label 0 is always pinned.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np

FIXED = 0


@final
class Units:
    """A union-find over labels, with the reason of whatever is pinned."""

    def __init__(self) -> None:
        self._parent = np.zeros(1, dtype=np.int64)
        self._reasons: dict[int, str] = {FIXED: "not a unit"}
        #: Of each variable, by identity, the labels along its axes.
        self.axes: dict[int, dict[int, np.ndarray]] = {}
        self._variables: dict[int, Any] = {}

    def __len__(self) -> int:
        """How many labels there are; they count from 0."""
        return len(self._parent)

    def new(self, number: int) -> np.ndarray:
        """Fresh labels, shape (number,)."""
        start = len(self._parent)
        made = np.arange(start, start + number)
        self._parent = np.concatenate([self._parent, made])
        return made

    def along(self, variable: Any, axis: int, labels: np.ndarray) -> None:
        """Says which unit each index along an axis of a variable belongs to.

        Said again, of a layer that is called twice, both are joined.
        """
        known = self.axes.setdefault(id(variable), {}).setdefault(axis, labels)
        self._variables[id(variable)] = variable
        if known is not labels:
            self.join(known, labels, "is read by a layer together with what stays")

    @property
    def variables(self) -> list[Any]:
        """The variables that have units."""
        return list(self._variables.values())

    def find(self, labels: np.ndarray) -> np.ndarray:
        """The label that stands for all that each of these is joined to."""
        roots = self._parent[labels]
        while True:
            above = self._parent[roots]
            if (above == roots).all():
                return roots
            roots = above

    def join(self, one: np.ndarray, other: np.ndarray, reason: str) -> None:
        """Joins labels pair by pair; what is joined to 0 is pinned for this reason."""
        pairs = np.unique(np.stack([one, other], axis=-1).reshape(-1, 2), axis=0)
        for left, right in pairs:
            if FIXED in (left, right):
                self.pin(np.array([left, right]), reason)
                continue
            low, high = sorted(self.find(np.array([left, right])).tolist())
            if low != high:
                self._parent[high] = low
                if high in self._reasons:
                    self._reasons.setdefault(low, self._reasons[high])
        self._parent = self.find(np.arange(len(self._parent)))

    def pin(self, labels: np.ndarray, reason: str) -> None:
        """Says that these cannot be removed."""
        for root in np.unique(self.find(labels)):
            self._reasons.setdefault(int(root), reason)

    def reason(self, label: int) -> str | None:
        """Why a unit cannot be removed, or None."""
        return self._reasons.get(int(self.find(np.array([label]))[0]))

    @property
    def pinned(self) -> np.ndarray:
        """The labels that stand for what cannot be removed."""
        return np.unique(self.find(np.array(sorted(self._reasons))))
