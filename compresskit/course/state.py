"""What a course keeps on disk, so that another process can go on with it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import keras
import numpy as np

from compresskit.distillation.copies import copy_of
from compresskit.files import write_file
from compresskit.method import State

_NAME = "epoch-{}.npz"
_PATTERN = r"epoch-(\d+)\.npz"
# A process may be killed between this file and the weights that belong to it, whichever is first.
_KEPT = 2


def save(folder: Path, epoch: int, state: State) -> None:
    """Writes the state after so many epochs; of older ones the last stays."""
    _write(folder / _NAME.format(epoch), state)
    for old in sorted(saved(folder))[:-_KEPT]:
        (folder / _NAME.format(old)).unlink(missing_ok=True)


def load(folder: Path, epoch: int) -> State:
    """The state after so many epochs."""
    return _read(folder / _NAME.format(epoch))


def saved(folder: Path) -> list[int]:
    """After how many epochs states were written, in ascending order."""
    names = [file.name for file in folder.glob(_NAME.format("*"))]
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(_PATTERN, name)))


def clear(folder: Path) -> None:
    """Takes all files away; others' stay."""
    for pattern in (_NAME.format("*"), "baseline.npz", "previous-*.npz"):
        for file in folder.glob(pattern):
            file.unlink()


def kept_copy(model: keras.Model, folder: Path | None, name: str) -> keras.Model:
    """A copy of the model, with the weights that an earlier process has kept under that name.

    Raises:
        ModelError: it cannot be copied.
    """
    made = copy_of(model)
    if folder is None:
        return made
    file = folder / f"{name}.npz"
    if file.exists():
        kept = _read(file)
        made.set_weights([kept[str(index)] for index in range(len(kept))])
    else:
        _write(file, {str(index): values for index, values in enumerate(made.get_weights())})
    return made


def _write(file: Path, arrays: State) -> None:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_file(file, content.getvalue())


def _read(file: Path) -> State:
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}
