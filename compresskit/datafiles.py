"""Data sets in files: one `.npz` archive, or a folder of pictures.

Both give a mapping with `x_train`, `y_train`, `x_test`, `y_test` and perhaps
`classes`; whether the arrays are a data set is for `data` to check.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from compresskit import builders
from compresskit.errors import DataError, Problem, did_you_mean

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
# One wrong setting makes every picture wrong: this many of them are shown.
_SHOWN = 10


@contextmanager
def open_npz(
    path: str | os.PathLike[str], *, where: str, base: Path | None
) -> Iterator[Mapping[str, Any]]:
    """The arrays of an archive of `np.savez`, each read when it is asked for.

    Nothing pickled is loaded: asking for such an array raises ValueError.

    Raises:
        DataError: the file is missing, or is no such archive.
    """
    file = _existing(path, where, base)
    with ExitStack() as stack:
        try:
            # Opened here, since np.load leaves a damaged archive open.
            archive = np.load(stack.enter_context(file.open("rb")), allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as cause:
            raise DataError(_no_archive(file, builders.describe(cause), where)) from cause
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(_no_archive(file, "it holds a single array", where))
        yield stack.enter_context(archive)


def read_directory(
    path: str | os.PathLike[str],
    *,
    image_size: tuple[int, int] | None,
    grayscale: bool,
    where: str,
    base: Path | None,
) -> dict[str, Any]:
    """The pictures of `PATH/train/CLASS/*` and `PATH/test/CLASS/*`.

    The folders under `train` name the classes; their sorted order numbers them.

    Args:
        image_size: (height, width) that every picture is resized to, bilinear; None if
            all pictures have one size already.
        grayscale: one channel instead of three.

    Returns:
        x: float32 in 0..1, shape (n, height, width, channels); y: int64, shape (n,);
        `classes`: a tuple of names.

    Raises:
        DataError: Pillow is not installed, a folder or picture is missing or damaged,
            or sizes differ; every problem at once.
    """
    root = _existing(path, where, base)
    image = _pillow(where)
    problems: list[Problem] = []
    classes = tuple(folder.name for folder in _folders(root / "train"))
    if not classes:
        problems.append(_no_classes(root / "train", where))
    pictures: dict[str, list[np.ndarray]] = {}
    labels: dict[str, list[int]] = {}
    sizes: dict[tuple[int, ...], Path] = {}
    for split in ("train", "test"):
        pictures[split], labels[split] = [], []
        folders = _folders(root / split)
        if split == "test" and not folders:
            problems.append(_no_classes(root / split, where))
        for folder in folders:
            if folder.name not in classes:
                problems.append(_unknown_class(folder, classes, where))
                continue
            files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
            if split == "train" and not files:
                problems.append(_no_pictures(folder, where))
            for file in files:
                array = _read_picture(image, file, image_size, grayscale, where)
                if isinstance(array, Problem):
                    problems.append(array)
                    continue
                sizes.setdefault(array.shape, file)
                pictures[split].append(array)
                labels[split].append(classes.index(folder.name))
    if len(sizes) > 1:
        problems.append(_sizes_differ(sizes, where))
    if problems:
        raise DataError(problems[:_SHOWN] + _rest(problems[_SHOWN:], where))
    read: dict[str, Any] = {"classes": classes}
    for split in ("train", "test"):
        # Stacked as bytes, scaled after: the floats exist once, not twice.
        stacked = np.stack(pictures[split]) if pictures[split] else np.zeros((0, 1, 1, 1), "u1")
        read[f"x_{split}"] = stacked.astype(np.float32) / np.float32(255)
        read[f"y_{split}"] = np.array(labels[split], dtype=np.int64)
    return read


def read_pictures(
    folder: str,
    *,
    image_size: tuple[int, int] | None,
    grayscale: bool,
    where: str,
    base: Path | None,
) -> np.ndarray:
    """Every picture of one folder, without labels.

    Returns:
        float32 of 0 to 1, shape (n, height, width, channels).

    Raises:
        DataError: no picture, pictures of several sizes, or files that cannot be read.
    """
    image, found = _pillow(where), _existing(folder, where, base)
    files = (
        sorted(file for file in found.iterdir() if file.suffix.lower() in SUFFIXES)
        if found.is_dir()
        else []
    )
    read = [_read_picture(image, file, image_size, grayscale, where) for file in files]
    problems = [each for each in read if isinstance(each, Problem)]
    pictures = [each for each in read if not isinstance(each, Problem)]
    sizes: dict[tuple[int, ...], Path] = {}
    for each, file in zip(read, files, strict=True):
        if not isinstance(each, Problem):
            sizes.setdefault(each.shape, file)
    if not files:
        problems.append(_no_pictures(found, where))
    if len(sizes) > 1:
        problems.append(_sizes_differ(sizes, where))
    if problems:
        raise DataError(problems[:_SHOWN] + _rest(problems[_SHOWN:], where))
    return np.stack(pictures).astype(np.float32) / np.float32(255)


def _pillow(where: str) -> ModuleType:
    try:
        from PIL import Image
    except ImportError as cause:
        raise DataError(
            Problem(
                where=where,
                found="Pillow is not installed",
                expected="Pillow, which reads the pictures of a directory",
                fix="pip install 'compresskit[images]'",
            )
        ) from cause
    return Image


def _read_picture(
    image: ModuleType, file: Path, size: tuple[int, int] | None, grayscale: bool, where: str
) -> np.ndarray | Problem:
    """uint8, shape (height, width, channels)."""
    try:
        with image.open(file) as opened:
            # Pillow cuts wider pixels off at 255 instead of scaling them.
            if opened.mode.startswith(("I", "F")):
                return Problem(
                    where=where,
                    found=f"{file} has more than 8 bits a channel (mode {opened.mode})",
                    expected="pictures of 8 bits a channel",
                    fix="convert it to 8 bits, or load it with a builder of your own",
                )
            picture = opened.convert("L" if grayscale else "RGB")
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as cause:
        return Problem(
            where=where,
            found=f"{file} cannot be read: {builders.describe(cause)}",
            expected="a picture that Pillow can read",
            fix="replace or remove the file",
        )
    if size is not None:
        height, width = size
        picture = picture.resize((width, height), image.Resampling.BILINEAR)
    array = np.asarray(picture)
    return array[..., None] if grayscale else array


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
    )


def _existing(path: str | os.PathLike[str], where: str, base: Path | None) -> Path:
    found = builders.find_path(path, base)
    if found.exists():
        return found
    raise DataError(
        Problem(
            where=where,
            found=builders.missing_path(found, path, base),
            expected="a file or folder that exists",
            fix="correct the path; it starts from the current directory or the recipe's folder",
        )
    )


def _no_archive(file: Path, reason: str, where: str) -> Problem:
    return Problem(
        where=where,
        found=f"{file} is not an npz archive: {reason}",
        expected="a file of np.savez with x_train, y_train, x_test, y_test",
        fix="write or download the file again",
    )


def _no_classes(folder: Path, where: str) -> Problem:
    return Problem(
        where=where,
        found=f"no folders in {folder}" if folder.is_dir() else f"no folder {folder}",
        expected="DIRECTORY/train/CLASS/*.png and DIRECTORY/test/CLASS/*.png",
        fix=f"make {folder.name}/ with one folder of pictures for each class",
    )


def _unknown_class(folder: Path, classes: tuple[str, ...], where: str) -> Problem:
    return Problem(
        where=where,
        found=f"{folder} is a class without a folder in train",
        expected=f"one of: {', '.join(classes)}" if classes else "a class of train",
        fix=did_you_mean(folder.name, classes),
    )


def _no_pictures(folder: Path, where: str) -> Problem:
    return Problem(
        where=where,
        found=f"no pictures in {folder}",
        expected=f"files that end in {', '.join(SUFFIXES)}",
        fix="add pictures, or remove the folder",
    )


def _sizes_differ(sizes: dict[tuple[int, ...], Path], where: str) -> Problem:
    examples = [f"{file} is {shape[0]}x{shape[1]}" for shape, file in sizes.items()][:2]
    return Problem(
        where=where,
        found=f"pictures of {len(sizes)} sizes (height x width): {', '.join(examples)}",
        expected="pictures of one size",
        fix="set image_size: [HEIGHT, WIDTH], and they are resized",
    )


def _rest(problems: list[Problem], where: str) -> list[Problem]:
    if not problems:
        return []
    return [
        Problem(
            where=where,
            found=f"{len(problems)} more problems of this kind",
            expected="none",
            fix="mend those above first",
        )
    ]
