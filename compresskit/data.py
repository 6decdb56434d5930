"""Data sets: by name, from a file or a folder of pictures, or from the user's function.

NumPy only. Files for LiteRT are evaluated in a process without TensorFlow, and that
process loads its data here.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from compresskit import builders, catalog, datafiles
from compresskit.errors import DataError, Problem, nearest
from compresskit.labels import Labels, are_classes, check_labels, label_of, plain_labels
from compresskit.samples import (
    Samples,
    check_samples,
    count,
    plain_samples,
    shapes,
    take,
)
from compresskit.tokenize import Tokenizer

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_READ: dict[str, Any] = {
    "x_train": plain_samples,
    "y_train": plain_labels,
    "x_test": plain_samples,
    "y_test": plain_labels,
}
FORMS = "a Dataset, ((x_train, y_train), (x_test, y_test)), or a dict of the four arrays"


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Samples and labels for training and for testing.

    Attributes:
        name: what a report calls it.
        x_train: samples, shape (n, ...); float32, or integers for tokens. For a model of
            several inputs a dict of such arrays, by the inputs' names.
        y_train: labels: classes from 0 up, int32 or int64, shape (n,) or, for each step, (n,
            steps); several that are 0 or 1, shape (n, k); numbers, float32, of any shape. For a
            model of several outputs a dict of such arrays, by the outputs' names.
        x_test: like `x_train`; no sample of it is ever trained on.
        y_test: like `y_train`.
        classes: the name of each label, or None.
        tokenizer: what made token ids of texts, or None.
    """

    name: str
    x_train: Samples
    y_train: Labels
    x_test: Samples
    y_test: Labels
    classes: tuple[str, ...] | None = None
    tokenizer: Tokenizer | None = None

    @property
    def class_count(self) -> int:
        """How many outputs a model needs.

        For classes the highest label plus one, or more; otherwise one for each label of a sample.
        """
        if self.classes is not None:
            return len(self.classes)
        y, test = label_of(self.y_train, None), label_of(self.y_test, None)
        if are_classes(y):
            return int(max(y.max(), test.max())) + 1
        return y.shape[-1] if y.ndim > 1 else 1

    def representative(self, samples: int, seed: int = 0) -> Any:
        """A fixed random choice of training samples, for calibration.

        Args:
            samples: how many; all of them, in random order, if there are fewer.
            seed: the same seed gives the same samples, and more samples begin with
                the same ones.

        Returns:
            shape (samples, ...), the type of `x_train`; no sample twice.

        Raises:
            DataError: `samples` is less than 1.
        """
        _check_count("samples", samples)
        return take(self.x_train, _order(count(self.x_train), seed)[:samples])

    def limit(self, train: int | None = None, test: int | None = None) -> Dataset:
        """At most `train` and `test` samples, a fixed random choice in their old order.

        A choice rather than the first ones, since files are often sorted by class.

        Raises:
            DataError: a limit is less than 1.
        """
        arrays: dict[str, Any] = {}
        for split, most in (("train", train), ("test", test)):
            if most is None:
                continue
            _check_count(split, most)
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            chosen = np.sort(_order(count(x), 0)[:most])
            arrays[f"x_{split}"], arrays[f"y_{split}"] = take(x, chosen), take(y, chosen)
        return replace(self, **arrays)


def load(spec: Any, *, where: str = "data", base: Path | None = None) -> Dataset:
    """The data set that `spec` stands for, checked.

    Args:
        spec: a registered name; a record of a recipe (`Builder`, `NpzData`,
            `DirectoryData`); a `Dataset`; a dict of the arrays `x_train`, `y_train`,
            `x_test`, `y_test`; or ((x_train, y_train), (x_test, y_test)). For a model of
            several inputs x is a dict by their names, in a file `x_train.NAME`; for one of
            several outputs so is y.
        where: where `spec` was read, for errors.
        base: the folder of the recipe. Relative paths start from the current directory
            or, if nothing is there, from here.

    Returns:
        floats and uint8 pictures as float32 of the same values (pictures are not
        rescaled), other integers as they are; labels int32 or int64 of shape (n,).

    Raises:
        DataError: it is missing, damaged or inconsistent; every problem at once.
    """
    if isinstance(spec, str):
        function = catalog.datasets.get(spec, where=where)
        return _collect(function(), name=spec, where=where)
    # Here, so that a process that evaluates a file on a named data set reads no recipes.
    from compresskit.recipe_fields import Builder, DirectoryData, NpzData

    if isinstance(spec, Builder):
        made = builders.call_function(
            spec.builder, spec.args, where=where, error=DataError, returns=FORMS
        )
        return _collect(made, name=spec.builder, where=where)
    if isinstance(spec, NpzData):
        with datafiles.open_npz(spec.npz, where=where, base=base) as archive:
            return _collect(archive, name=Path(spec.npz).stem, where=where)
    if isinstance(spec, DirectoryData):
        read = datafiles.read_directory(
            spec.directory,
            image_size=spec.image_size,
            grayscale=spec.grayscale,
            where=where,
            base=base,
        )
        return _collect(read, name=Path(spec.directory).name, where=where)
    return _collect(spec, name="arrays", where=where)


def check(dataset: Dataset, *, where: str = "data") -> list[Problem]:
    """Everything that is wrong with the arrays of `dataset`; an empty list if nothing is.

    Lengths that differ, nothing in an array, types or shapes that are no samples or
    labels, NaN or infinite values, labels below 0 or without a name.
    """
    problems = []
    for split in ("train", "test"):
        x, y = getattr(dataset, f"x_{split}"), getattr(dataset, f"y_{split}")
        problems += check_samples(x, f"{where}.x_{split}")
        problems += check_labels(y, f"{where}.y_{split}", dataset.classes)
        inputs = x.values() if isinstance(x, dict) else [x]
        sizes = [len(array) for array in inputs if np.ndim(array)]
        outputs = y.values() if isinstance(y, dict) else [y]
        lengths = {len(array) for array in outputs if np.ndim(array)}
        problems += [
            Problem(
                where=f"{where}.y_{split}",
                found=f"{length} labels for {sizes[0]} samples",
                expected=f"as many labels in y_{split} as samples in x_{split}",
                fix="write both arrays from the same list of samples",
            )
            for length in sorted(lengths)
            if sizes and length != sizes[0]
        ]
    train, test = shapes(dataset.x_train), shapes(dataset.x_test)
    if train != test:
        problems.append(
            Problem(
                where=f"{where}.x_test",
                found=f"samples of shape {test}, those of x_train are {train}",
                expected="samples of one shape",
                fix="prepare both in the same way",
            )
        )
    return problems


def _collect(made: Any, *, name: str, where: str) -> Dataset:
    """A checked Dataset from anything that `load` accepts in its place."""
    if isinstance(made, Dataset):
        return _checked(made, where)
    if isinstance(made, Mapping):
        return _from_mapping(made, name, where)
    if isinstance(made, tuple | list) and len(made) == 2:
        pairs = [pair for pair in made if isinstance(pair, tuple | list) and len(pair) == 2]
        if len(pairs) == 2:
            (x_train, y_train), (x_test, y_test) = pairs
            arrays = dict(zip(ARRAYS, (x_train, y_train, x_test, y_test), strict=True))
            return _from_mapping(arrays, name, where)
    raise DataError(
        Problem(
            where=where,
            found=f"{name}: an object of type {type(made).__name__}",
            expected=FORMS,
            fix="give the arrays in one of these forms",
        )
    )


def _from_mapping(made: Mapping[str, Any], name: str, where: str) -> Dataset:
    problems = []
    for key in ARRAYS:
        if key not in made and not _inputs(made, key):
            match = nearest(key, [str(other) for other in made if other not in ARRAYS])
            problems.append(
                Problem(
                    where=f"{where}.{key}",
                    found=f"no {key}; there is {', '.join(map(str, made)) or 'nothing'}",
                    expected=f"the arrays {', '.join(ARRAYS)}",
                    fix=f"rename {match!r} to {key!r}" if match else f"add {key}",
                )
            )
    arrays: dict[str, Any] = {}
    for key in (*ARRAYS, "classes"):
        inputs = _inputs(made, key)
        if key not in made and not inputs:
            continue
        try:
            # One by one: what cannot be read is read here.
            given = made[key] if key in made else {name: made[full] for name, full in inputs}
            arrays[key] = _READ.get(key, np.asarray)(given)
        # A member of an npz file is only read, and only found damaged, when asked for.
        except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as cause:
            problems.append(
                Problem(
                    where=f"{where}.{key}",
                    found=f"cannot be read as an array: {builders.describe(cause)}",
                    expected="an array of numbers, all samples of one shape, nothing pickled",
                    fix="write it again from np.ndarrays of a number type",
                )
            )
    classes = arrays.pop("classes", None)
    if problems:
        # What can be checked already is, so that one run shows all there is to mend.
        for key, array in arrays.items():
            check_one: Any = check_samples if key.startswith("x") else check_labels
            problems += check_one(array, f"{where}.{key}")
        raise DataError(problems)
    names = None if classes is None else tuple(str(label) for label in classes)
    return _checked(Dataset(name=name, classes=names, **arrays), where)


def _inputs(made: Mapping[str, Any], key: str) -> list[tuple[str, str]]:
    """The arrays `x_train.NAME` of a mapping: the name of each input or output, and its key."""
    found = [str(full) for full in made if str(full).startswith(f"{key}.")]
    return [(full.removeprefix(f"{key}."), full) for full in found]


def _checked(dataset: Dataset, where: str) -> Dataset:
    arrays: dict[str, Any] = {key: _READ[key](getattr(dataset, key)) for key in ARRAYS}
    dataset = replace(dataset, **arrays)
    problems = check(dataset, where=where)
    if problems:
        raise DataError(problems)
    return dataset


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise DataError(
            Problem(
                where=name,
                found=str(count),
                expected="1 or more",
                fix=f"ask for {name} of 1 or more",
            )
        )


def _order(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(length)
