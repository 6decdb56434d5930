"""Which units go first, and how many must go."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from compresskit.structure.structure import Structure


def candidates(
    structure: Structure, taken: Iterable[int], ignored: Iterable[int], named: Iterable[int]
) -> np.ndarray:
    """The units that may be removed: bool, one for each label, true for those that stand for one.

    What is joined goes together, so a unit comes along with any that is taken, and stays with any
    that is ignored.

    Args:
        taken, ignored: identities of variables that make units.
        named: those that were asked for by name; only they may be normalized, since a removed unit
            changes the mean and the variance of the others.
    """
    may = np.zeros(len(structure.units), dtype=bool)
    stays = np.zeros(len(structure.units), dtype=bool)
    asked = np.zeros(len(structure.units), dtype=bool)
    for source in structure.sources.values():
        roots = structure.units.find(source.labels)
        may[roots] |= bool(source.makers & set(taken))
        stays[roots] |= bool(source.makers & set(ignored))
        asked[roots] |= bool(source.makers & set(named))
    stays[structure.units.pinned] = True
    for labels in structure.measured:
        roots = structure.units.find(labels)
        stays[roots] |= ~asked[roots]
    return may & ~stays


def order(
    structure: Structure, free: np.ndarray, scores: np.ndarray, *, everywhere: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The units that may be removed, the least important first. One of each layer is left out.

    Args:
        free: of `candidates`.
        scores: one for each label; of joined ones, that of the one that stands for them counts.
            What has an infinite one stays.
        everywhere: rank all units together; else each layer loses the same share of its own.

    Returns:
        labels, and what share of the units is gone with each: of all or, if not `everywhere`, of
        those of its layer.
    """
    free = free & (scores < np.inf)
    groups: dict[frozenset[int], list[int]] = {}
    makers: dict[int, set[int]] = {}
    last: set[int] = set()
    for number, source in enumerate(structure.sources.values()):
        roots = np.unique(structure.units.find(source.labels))
        for root in roots:
            makers.setdefault(int(root), set()).add(number)
        if free[roots].all():
            last.add(int(roots[np.argmax(scores[roots])]))
    for root in np.flatnonzero(free):
        groups.setdefault(frozenset(makers[int(root)]), []).append(int(root))
    ranked: list[tuple[float, int]] = []
    sets = [np.flatnonzero(free).tolist()] if everywhere else list(groups.values())
    for members in sets:
        rising = sorted(members, key=lambda root: (scores[root], root))
        ranked += [(place / len(rising), root) for place, root in enumerate(rising, start=1)]
    ordered = [(share, root) for share, root in sorted(ranked) if root not in last]
    return (
        np.array([root for _, root in ordered], dtype=np.int64),
        np.array([share for share, _ in ordered]),
    )


def without(structure: Structure, gone: np.ndarray) -> np.ndarray:
    """The choice that keeps all but these units; see `Structure.left`."""
    kept = structure.all_kept()
    kept[gone] = False
    return kept


def how_many(ordered: np.ndarray, reached: Callable[[np.ndarray], bool]) -> int:
    """How many of them must go, from the first, until a goal is reached; all, if it never is.

    Args:
        reached: whether removing these is enough; more are enough, too.
    """
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high) // 2
        if reached(ordered[:middle]):
            high = middle
        else:
            low = middle + 1
    return low
