"""Progress on a terminal; nothing in a pipe, and nothing when it is not wanted."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Update = Callable[..., None]


@contextmanager
def muted() -> Iterator[Callable[[], str]]:
    """Inside, what native libraries print on standard error is kept for who asks for it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile(mode="w+", errors="replace") as said:

        def words() -> str:
            said.seek(0)
            return " ".join(said.read().split())

        os.dup2(said.fileno(), 2)
        try:
            yield words
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@final
class Bars:
    """Bars for the long parts of a run, on standard error.

    Args:
        quiet: show nothing. A stream that is no terminal shows nothing either.
    """

    def __init__(self, *, quiet: bool = True):
        console = Console(stderr=True)
        self._quiet = quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=quiet or not console.is_terminal,
        )

    def say(self, text: str) -> None:
        """Prints a line, also into a pipe."""
        if not self._quiet:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Update]:
        """A bar; call what it gives with `done=` steps and a short `note=`."""
        with self._progress:
            task = self._progress.add_task(description, total=total, note="")

            def update(done: int, note: str | None = None) -> None:
                # A field that is not given keeps what it shows.
                fields: dict[str, Any] = {} if note is None else {"note": note}
                self._progress.update(task, completed=done, **fields)

            yield update
            if total is None:
                self._progress.update(task, total=1, completed=1)
