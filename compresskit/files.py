"""Puts files in their place, each whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder to write into; its files move to `out` when the block ends well.

    The folder stands beside `out`, on the same file system, so that each move is one
    rename: a reader, or a run that is killed at any moment, finds an old file or a new
    one, never half of one. Files of `out` that the block does not write stay. A folder
    that a killed run left is emptied first; on an error it is removed and `out` stays
    as it was.
    """
    folder = out.parent / f".{out.name}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        out.mkdir(parents=True, exist_ok=True)
        # The report last: who finds it finds what it speaks of.
        for file in sorted(folder.iterdir(), key=lambda file: file.name.startswith("report")):
            os.replace(file, out / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reported_files(out: Path) -> set[Path]:
    """The artifacts that the report in a folder speaks of; none if there is no report."""
    try:
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        return {
            out / Path(name).name
            for made in report["artifacts"]
            # A report of an earlier version has neither C sources nor compiled files.
            for name in (
                made["path"],
                *made.get("c_array", ()),
                *([made["compiled"]["path"]] if made.get("compiled") else ()),
            )
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # No report, or a file of that name that is none: nothing of ours to clear away.
        return set()


def write_file(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(content)
    os.replace(temporary, path)
