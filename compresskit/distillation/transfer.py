"""Samples without labels, from which a student learns by asking its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from compresskit import builders, datafiles
from compresskit.data import Dataset
from compresskit.errors import DataError, Problem
from compresskit.recipe_distill import Pictures, Texts
from compresskit.recipe_fields import Builder, NpzData
from compresskit.samples import Samples, check_samples, each, plain_samples, shapes

_FORMS = "samples as those of the data set, or a list of texts for its tokenizer"


def load_transfer(
    spec: Any, dataset: Dataset, *, where: str = "transfer", base: Path | None = None
) -> Samples:
    """Samples like `dataset.x_train`.

    Args:
        spec: a record of a recipe: texts (one a line), pictures of one folder, an npz file with
            the array `x` (for several inputs `x.NAME`), or a builder that returns samples or
            texts.
        dataset: what they come on top of; texts are coded by its tokenizer.

    Raises:
        DataError: they are missing, damaged, or of another shape.
    """
    if isinstance(spec, Texts):
        made: Any = _lines(spec.texts, where, base)
    elif isinstance(spec, Pictures):
        made = datafiles.read_pictures(
            spec.pictures,
            image_size=spec.image_size,
            grayscale=spec.grayscale,
            where=where,
            base=base,
        )
    elif isinstance(spec, NpzData):
        with datafiles.open_npz(spec.npz, where=where, base=base) as archive:
            made = _arrays(archive, spec.npz, where)
    else:
        assert isinstance(spec, Builder)
        made = builders.call_function(
            spec.builder, spec.args, where=where, error=DataError, returns=_FORMS
        )
    if isinstance(made, list | tuple) and made and all(isinstance(text, str) for text in made):
        made = _coded(made, dataset, where)
    return _checked(made, dataset, where)


def _lines(path: str, where: str, base: Path | None) -> list[str]:
    file = builders.find_path(path, base)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError(
            Problem(
                where=where,
                found=builders.missing_path(file, path, base)
                if not file.exists()
                else f"{file} cannot be read: {builders.describe(cause)}",
                expected="a text file in UTF-8, one sample a line",
                fix="correct the path; it starts from the current directory or the recipe's folder",
            )
        ) from cause
    return [line for line in lines if line.strip()]


def _arrays(archive: Any, name: str, where: str) -> Any:
    found = {key: archive[key] for key in archive if key == "x" or key.startswith("x.")}
    if "x" in found:
        return found["x"]
    if found:
        return {key.removeprefix("x."): array for key, array in found.items()}
    raise DataError(
        Problem(
            where=where,
            found=f"{name} with {', '.join(archive) or 'nothing'}",
            expected="the array `x`, or `x.NAME` for each input",
            fix="write it with np.savez(file, x=samples)",
        )
    )


def _coded(texts: Any, dataset: Dataset, where: str) -> np.ndarray:
    if dataset.tokenizer is None or isinstance(dataset.x_train, dict):
        raise DataError(
            Problem(
                where=where,
                found=f"texts, and {dataset.name} has no tokenizer",
                expected=_FORMS,
                fix="give samples, from a builder or an npz file",
            )
        )
    return dataset.tokenizer.encode(list(texts), dataset.x_train.shape[1])


def _checked(made: Any, dataset: Dataset, where: str) -> Samples:
    try:
        plain = plain_samples(made)
    except (TypeError, ValueError) as cause:
        raise DataError(
            Problem(
                where=where,
                found=builders.describe(cause),
                expected=_FORMS,
                fix="return arrays of one shape",
            )
        ) from cause
    problems = check_samples(plain, where)
    if not problems and shapes(plain) != shapes(dataset.x_train):
        problems.append(
            Problem(
                where=where,
                found=f"samples of shape {shapes(plain)}",
                expected=f"{shapes(dataset.x_train)}, as those of {dataset.name}",
                fix="prepare them in the same way",
            )
        )
    if problems:
        raise DataError(problems)
    kind = dataset.x_train
    if isinstance(kind, dict):
        return {name: plain[name].astype(array.dtype, copy=False) for name, array in kind.items()}
    return each(plain, lambda array: array.astype(kind.dtype, copy=False))
