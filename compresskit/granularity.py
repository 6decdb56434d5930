"""What is pruned as one: single weights, N of every M, or blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

GRANULARITIES = (
    "`unstructured`, `N:M` with 1 <= N < M <= 64 (N of every M are kept), or `block(RxC)`"
)


@dataclass(frozen=True, kw_only=True)
class Unstructured:
    """Each weight by itself."""


@dataclass(frozen=True, kw_only=True)
class NM:
    """At most `n` of every `m` consecutive weights are not zero: 2:4 keeps two of four."""

    n: int
    m: int


@dataclass(frozen=True, kw_only=True)
class Block:
    """Blocks of `rows` x `columns` weights, kept or zeroed together."""

    rows: int
    columns: int


def parse_granularity(text: str) -> Unstructured | NM | Block:
    """The record that a recipe's `granularity` stands for.

    ```python
    parse_granularity("2:4")  # NM(n=2, m=4)
    parse_granularity("block(1x16)")  # Block(rows=1, columns=16)
    ```

    Raises:
        ValueError: the text is none of the known forms.
    """
    if text == "unstructured":
        return Unstructured()
    if match := re.fullmatch(r"([1-9][0-9]?):([1-9][0-9]?)", text):
        n, m = (int(number) for number in match.groups())
        if n < m <= 64:
            return NM(n=n, m=m)
    if match := re.fullmatch(r"block\(([1-9][0-9]{0,4})x([1-9][0-9]{0,4})\)", text):
        rows, columns = (int(number) for number in match.groups())
        return Block(rows=rows, columns=columns)
    raise ValueError(f"{text!r} is not {GRANULARITIES}")
