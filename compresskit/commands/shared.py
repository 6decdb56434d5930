"""What commands have in common: options, and how errors are told."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from compresskit import catalog
from compresskit.errors import CompressKitError, Problem

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
UNSAFE = click.option(
    "--unsafe-load",
    is_flag=True,
    help="Load .keras files that hold Python code (Lambda layers), and run that code.",
)


def reported(command: Callable[..., Any]) -> Callable[..., Any]:
    """Prints the problems of an error instead of a traceback, and leaves with its status."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except CompressKitError as error:
            count = len(error.problems)
            click.echo(f"{count} problem{'s' if count > 1 else ''}:", err=True)
            click.echo(str(error), err=True)
            sys.exit(error.exit_code)
        except OSError as error:
            click.echo(f"1 problem:\n{_disk_problem(error)}", err=True)
            sys.exit(1)

    return run


def _disk_problem(error: OSError) -> Problem:
    """A full disk, a folder that may not be written, and the like."""
    return Problem(
        where=str(error.filename or "file system"),
        found=error.strerror or str(error),
        expected="a file or folder that can be read and written",
        fix="give another path, or make room",
    )


def load_tensorflow() -> None:
    """Imports TensorFlow without what its libraries print of the machine while they load."""
    from compresskit.progress import muted

    with muted():
        import tensorflow  # noqa: F401


def echo_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2))


def data_spec(text: str) -> Any:
    """What a recipe writes for the data set that a word on the command line stands for."""
    if text not in catalog.datasets:
        if text.endswith(".npz"):
            return {"npz": str(Path(text).resolve())}
        if Path(text).is_dir():
            return {"directory": str(Path(text).resolve())}
        if ":" in text:
            return {"builder": text}
    return text


def load_data(text: str) -> Any:
    """The data set that a word on the command line stands for."""
    from compresskit import data
    from compresskit.recipe_fields import Builder, DirectoryData, NpzData

    spec = data_spec(text)
    if not isinstance(spec, dict):
        return data.load(text, where="--data")
    if "npz" in spec:
        return data.load(NpzData(npz=text), where="--data")
    if "directory" in spec:
        return data.load(DirectoryData(directory=text), where="--data")
    return data.load(Builder(builder=text), where="--data")
