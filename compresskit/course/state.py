"""What a course keeps on disk beside the states of its epochs: copies that teach."""

from __future__ import annotations

from pathlib import Path

import keras

from compresskit.checkpoint import keep, read_arrays, write_arrays
from compresskit.distillation.copies import copy_of


def clear(folder: Path) -> None:
    """Takes all files of a course away; others' stay."""
    keep(folder, 0)
    for pattern in ("baseline.npz", "previous-*.npz"):
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
        kept = read_arrays(file)
        made.set_weights([kept[str(index)] for index in range(len(kept))])
    else:
        write_arrays(file, {str(index): values for index, values in enumerate(made.get_weights())})
    return made
