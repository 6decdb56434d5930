"""Tokenizers: texts to rows of token ids, saved as one JSON text beside a model.

Two kinds. `word` looks up whole words. `wordpiece` splits words into pieces as the
uncased BERT does: J. Devlin et al., "BERT: Pre-training of Deep Bidirectional
Transformers for Language Understanding", 2018, https://arxiv.org/abs/1810.04805, after
its published `tokenization.py`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache

import numpy as np

from compresskit.errors import DataError, Problem, did_you_mean

PAD = "[PAD]"
UNKNOWN = "[UNK]"
FIRST = "[CLS]"
LAST = "[SEP]"
# What must be in a vocabulary of each kind; padding is always id 0.
SPECIAL = {"word": (PAD, UNKNOWN), "wordpiece": (PAD, UNKNOWN, FIRST, LAST)}
LONGEST_WORD = 100
PADDINGS = ("end", "start")
_VERSION = 1
_KEYS = {"version", "kind", "vocabulary", "padding"}
# Chinese characters are words of their own; the blocks are those of BERT.
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A vocabulary and the way that texts are cut up for it.

    Example:
        >>> tokenizer = from_texts(["What is dew ?", "What is rain ?"])
        >>> tokenizer.encode(["What is snow ?"], length=4)
        array([[3, 2, 1, 0]], dtype=int32)

    Attributes:
        kind: `word` or `wordpiece`.
        vocabulary: the token of each id. `[PAD]` is id 0; `[UNK]`, and for word pieces
            `[CLS]` and `[SEP]`, are in it too.
        padding: the side of a row that is filled up, `end` or `start`. At the start it
            lets a recurrent model read the text last.

    Raises:
        DataError: the kind or the padding is unknown, or the vocabulary lacks a special
            token or has a token twice; every problem at once.
    """

    kind: str
    vocabulary: tuple[str, ...]
    padding: str = "end"

    def __post_init__(self) -> None:
        problems = _check(self.kind, self.vocabulary, self.padding, "tokenizer")
        if problems:
            raise DataError(problems)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.vocabulary)}

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text, without padding, `[CLS]` and `[SEP]`."""
        if self.kind == "word":
            return [word if word in self._ids else UNKNOWN for word in words(text)]
        return [piece for word in _basic(text) for piece in self.pieces(word)]

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Token ids: cut off after `length`, or filled up with 0.

        Word pieces stand between `[CLS]` and `[SEP]`, also where they were cut off.

        Args:
            texts: n texts.
            length: of each row; for word pieces at least 2.

        Returns:
            int32, shape (n, length).

        Raises:
            DataError: `texts` is one text, or `length` is too small.
        """
        framed = self.kind == "wordpiece"
        _check_request(texts, length, 2 if framed else 1)
        rows = np.zeros((len(texts), length), dtype=np.int32)
        for row, text in zip(rows, texts, strict=True):
            tokens = self.tokens(text)
            if framed:
                tokens = [FIRST, *tokens[: length - 2], LAST]
            ids = [self._ids[token] for token in tokens[:length]]
            start = length - len(ids) if self.padding == "start" else 0
            row[start : start + len(ids)] = ids
        return rows

    def to_json(self) -> str:
        """The tokenizer as one JSON text."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str, *, where: str = "tokenizer.json") -> Tokenizer:
        """The inverse of `to_json`.

        Args:
            where: where the text was read, for the error.

        Raises:
            DataError: the text is no such JSON; every problem at once.
        """
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as cause:
            raise DataError(_not_ours(where, f"no JSON: {cause}")) from cause
        if not isinstance(record, dict) or set(record) != _KEYS:
            keys = ", ".join(map(str, record)) if isinstance(record, dict) else type(record)
            raise DataError(_not_ours(where, f"keys: {keys}"))
        if record["version"] != _VERSION:
            raise DataError(_not_ours(f"{where} version", repr(record["version"])))
        vocabulary = record["vocabulary"]
        if not isinstance(vocabulary, list) or not all(isinstance(one, str) for one in vocabulary):
            raise DataError(_not_ours(f"{where} vocabulary", "no list of texts"))
        problems = _check(record["kind"], tuple(vocabulary), record["padding"], where)
        if problems:
            raise DataError(problems)
        return cls(kind=record["kind"], vocabulary=tuple(vocabulary), padding=record["padding"])

    def pieces(self, word: str) -> list[str]:
        """The longest piece in the vocabulary that the word begins with, and so on."""
        if len(word) > LONGEST_WORD:
            return [UNKNOWN]
        pieces = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                if prefix + word[start:end] in self._ids:
                    break
            else:
                return [UNKNOWN]
            pieces.append(prefix + word[start:end])
            start = end
        return pieces


def words(text: str) -> list[str]:
    """Runs of letters, digits and `_`, in lower case."""
    return re.findall(r"\w+", text.lower())


def from_texts(texts: Iterable[str], size: int | None = None, *, padding: str = "end") -> Tokenizer:
    """A word tokenizer of the most frequent words of `texts`.

    Args:
        texts: those of the training split; a word that only others have is unknown.
        size: at most so many tokens, `[PAD]` and `[UNK]` included; None for all words.
        padding: the side of a row that is filled up, `end` or `start`.

    Returns:
        ids 0 for padding, 1 for unknown words, then by falling frequency, words of one
        frequency in the order of their letters.
    """
    counts = Counter(word for text in texts for word in words(text))
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    kept = ordered if size is None else ordered[: max(0, size - 2)]
    return Tokenizer(kind="word", vocabulary=(PAD, UNKNOWN, *kept), padding=padding)


def from_vocabulary(text: str) -> Tokenizer:
    """A word-piece tokenizer from the text of a `vocab.txt` of BERT, one token a line."""
    return Tokenizer(kind="wordpiece", vocabulary=tuple(text.rstrip("\n").split("\n")))


def _basic(text: str) -> list[str]:
    """Words and single marks of punctuation, in lower case and without accents.

    A special token that is spelled out in a text is cut up like any other word.
    """
    found = []
    for word in "".join(map(_spaced, text)).split(" "):
        plain = unicodedata.normalize("NFD", word.lower())
        plain = "".join(char for char in plain if unicodedata.category(char) != "Mn")
        found += "".join(f" {char} " if _is_mark(char) else char for char in plain).split()
    return found


@lru_cache(4096)
def _spaced(char: str) -> str:
    """White space as one space, control characters as nothing, Chinese between spaces."""
    category = unicodedata.category(char)
    if char in "\t\n\r" or category == "Zs":
        return " "
    if char == "\ufffd" or category in ("Cc", "Cf", "Co"):
        return ""
    code = ord(char)
    return f" {char} " if any(low <= code <= high for low, high in _CJK) else char


@lru_cache(4096)
def _is_mark(char: str) -> bool:
    # `$`, `+` and the like are no punctuation to Unicode, but to BERT.
    ascii_mark = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
    return ascii_mark or unicodedata.category(char).startswith("P")


def _check(kind: object, vocabulary: tuple[str, ...], padding: object, where: str) -> list[Problem]:
    problems = [
        Problem(
            where=f"{where} {key}",
            found=repr(word),
            expected=f"one of: {', '.join(known)}",
            fix=did_you_mean(str(word), known),
        )
        for key, word, known in (("kind", kind, SPECIAL), ("padding", padding, PADDINGS))
        if word not in known
    ]
    special = SPECIAL.get(str(kind), (PAD,))
    missing = [token for token in special if token not in vocabulary]
    if missing or vocabulary[0] != PAD:
        problems.append(
            Problem(
                where=f"{where} vocabulary",
                found=f"no {', '.join(missing)}" if missing else f"{vocabulary[0]!r} with id 0",
                expected=f"{', '.join(special)}, and {PAD} with id 0",
                fix="take the vocabulary that the model was trained with",
            )
        )
    twice = [token for token, count in Counter(vocabulary).items() if count > 1]
    if twice:
        problems.append(
            Problem(
                where=f"{where} vocabulary",
                found=f"more than once: {', '.join(map(repr, twice[:10]))}",
                expected="every token once",
                fix="remove the repetitions, if no model was trained with them",
            )
        )
    return problems


def _check_request(texts: Sequence[str], length: int, least: int) -> None:
    problems = []
    if isinstance(texts, str):
        problems.append(
            Problem(
                where="texts",
                found="one text",
                expected="a list of texts",
                fix="write encode([text], length)",
            )
        )
    if length < least:
        problems.append(
            Problem(
                where="length",
                found=str(length),
                expected=f"{least} or more",
                fix="give the number of steps that the model takes",
            )
        )
    if problems:
        raise DataError(problems)


def _not_ours(where: str, found: str) -> Problem:
    return Problem(
        where=where,
        found=found,
        expected=f"what Tokenizer.to_json writes: version {_VERSION}, kind, vocabulary, padding",
        fix="write it again with Tokenizer.to_json, by the release that reads it",
    )
