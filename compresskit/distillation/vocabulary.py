"""Cuts the vocabulary of a data set to the tokens that it has, for a smaller student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compresskit.data import Dataset
from compresskit.errors import DataError, Problem
from compresskit.tokenize import FIRST, LAST, PAD, SPECIAL, UNKNOWN, Tokenizer


def cut_vocabulary(
    dataset: Dataset, transfer: Any = None, *, where: str = "vocabulary"
) -> tuple[Dataset, Any, np.ndarray]:
    """The data set in the tokens of its training samples and of transfer samples alone.

    Single letters and digits stay too: a word with a piece that is gone is spelled with shorter
    ones. Test samples are coded again by the smaller tokenizer, as it would code their texts.

    Args:
        transfer: token ids, shape (n, steps), or None.

    Returns:
        the data set, the transfer samples, and the old id of each new one, rising.

    Raises:
        DataError: the data set has no tokenizer.
    """
    tokenizer = dataset.tokenizer
    if tokenizer is None or isinstance(dataset.x_train, dict) or isinstance(dataset.x_test, dict):
        raise DataError(
            Problem(
                where=where,
                found=f"{dataset.name}, whose samples no tokenizer made",
                expected="a data set of texts, such as trec or trec-wordpiece",
                fix="remove `vocabulary`",
            )
        )
    seen = [dataset.x_train] if transfer is None else [dataset.x_train, transfer]
    used = set(np.unique(np.concatenate([np.ravel(rows) for rows in seen])).tolist())
    spelling = {
        index
        for index, token in enumerate(tokenizer.vocabulary)
        if token in SPECIAL[tokenizer.kind] or _is_letter(token.removeprefix("##"))
    }
    kept = np.array(sorted(used | spelling), dtype=np.int64)
    smaller = replace(tokenizer, vocabulary=tuple(tokenizer.vocabulary[index] for index in kept))
    new = np.zeros(len(tokenizer.vocabulary), dtype=np.int32)
    new[kept] = np.arange(len(kept))
    made = replace(
        dataset,
        x_train=new[dataset.x_train],
        x_test=_coded_again(dataset.x_test, tokenizer, smaller),
        tokenizer=smaller,
    )
    return made, None if transfer is None else new[transfer], kept


def _is_letter(text: str) -> bool:
    return len(text) == 1 and text.isascii() and text.isalnum()


def _coded_again(rows: np.ndarray, old: Tokenizer, new: Tokenizer) -> np.ndarray:
    ids = {token: index for index, token in enumerate(new.vocabulary)}
    coded = np.zeros_like(rows)
    framed = FIRST in SPECIAL[old.kind]
    for row, given in zip(coded, rows, strict=True):
        tokens = [
            piece
            for word in _words([old.vocabulary[index] for index in given])
            for piece in _spelled(word, new, ids)
        ]
        if framed:
            tokens = [FIRST, *tokens[: len(row) - 2], LAST]
        tokens = tokens[: len(row)]
        start = len(row) - len(tokens) if old.padding == "start" else 0
        row[start : start + len(tokens)] = [ids[token] for token in tokens]
    return coded


def _words(tokens: Sequence[str]) -> Iterator[str]:
    """The words that tokens were cut from; `[UNK]` for one that is unknown."""
    word = ""
    for token in tokens:
        if token in (PAD, FIRST, LAST):
            continue
        if token.startswith("##") and word not in ("", UNKNOWN):
            word += token[2:]
            continue
        if word:
            yield word
        word = token
    if word:
        yield word


def _spelled(word: str, tokenizer: Tokenizer, ids: Mapping[str, int]) -> list[str]:
    if word == UNKNOWN or tokenizer.kind == "word":
        return [word if word in ids else UNKNOWN]
    return tokenizer.pieces(word)
