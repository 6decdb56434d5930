"""compresskit.tokenize: texts to rows of token ids."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresskit import installed
from compresskit.errors import DataError
from compresskit.tokenize import SPECIAL, Tokenizer, from_texts, from_vocabulary, words

PIECES = "[PAD] [UNK] [CLS] [SEP] un ##aff ##able want ##want ##ed runn ##ing , ! 中 cafe a ##a $"


@pytest.fixture(scope="module")
def wordpiece():
    return from_vocabulary("\n".join(PIECES.split()) + "\n")


@pytest.fixture(scope="module")
def published():
    try:
        file = installed.find(installed.MINILM, "model/vocab.txt", where="test", error=DataError)
    except DataError as error:
        pytest.skip(error.problems[0].fix)
    return from_vocabulary(file.read_text(encoding="utf-8"))


class TestWords:
    def test_case_and_marks_do_not_count(self):
        assert words("What's  the  `` DEW-point '' ?") == ["what", "s", "the", "dew", "point"]
        assert words("") == []

    def test_by_frequency_then_letters(self):
        made = from_texts(["b a", "b c", "c a b"])
        assert made.vocabulary == ("[PAD]", "[UNK]", "b", "a", "c")

    def test_size_limits_the_vocabulary(self):
        made = from_texts(["b a", "b c", "c a b"], size=4)
        assert made.vocabulary == ("[PAD]", "[UNK]", "b", "a")
        assert made.tokens("A c B") == ["a", "[UNK]", "b"]
        assert from_texts(["a"], size=1).vocabulary == ("[PAD]", "[UNK]")

    def test_rows_are_filled_up_at_the_end_or_the_start(self):
        made = from_texts(["b a", "b"])
        rows = made.encode(["a b", "", "z b a a b"], length=3)
        assert rows.dtype == np.int32
        np.testing.assert_array_equal(rows, [[3, 2, 0], [0, 0, 0], [1, 2, 3]])
        made = from_texts(["b a", "b"], padding="start")
        rows = made.encode(["a b", "", "z b a a b"], length=3)
        np.testing.assert_array_equal(rows, [[0, 3, 2], [0, 0, 0], [1, 2, 3]])

    def test_no_texts(self):
        assert from_texts(["a"]).encode([], length=3).shape == (0, 3)


class TestWordPieces:
    @pytest.mark.parametrize(
        ("text", "tokens"),
        [
            ("UNwantéd,running", "un ##want ##ed , runn ##ing"),  # the example of BERT
            ("unaffable", "un ##aff ##able"),
            (" \t\nWant\u00a0ed\u3000want ", "want [UNK] want"),
            ("want\x00ed a\u200ba \ufffd", "want ##ed a ##a"),
            ("café cafe\u0301", "cafe cafe"),
            ("a中a", "a 中 a"),
            ("$a!!", "$ a ! !"),
            ("unq want", "[UNK] want"),  # a word is known whole or not at all
            ("[UNK]", "[UNK] [UNK] [UNK]"),  # spelled out, it is three words
            ("a" * 100, " ".join(["a"] + ["##a"] * 99)),
            ("a" * 101, "[UNK]"),
            ("", ""),
        ],
    )
    def test_tokens(self, wordpiece, text, tokens):
        assert wordpiece.tokens(text) == tokens.split()

    def test_rows_are_framed_also_where_cut_off(self, wordpiece):
        rows = wordpiece.encode(["want", "", "a a a a a", "a a a"], length=5)
        expected = [[2, 7, 3, 0, 0], [2, 3, 0, 0, 0], [2, 16, 16, 16, 3], [2, 16, 16, 16, 3]]
        np.testing.assert_array_equal(rows, expected)

    @given(st.text())
    def test_pieces_spell_the_words(self, text):
        letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
        made = from_vocabulary(
            "\n".join([*SPECIAL["wordpiece"], *letters, *("##" + each for each in letters)])
        )
        tokens = made.tokens(text)
        assert set(tokens) <= set(made.vocabulary)
        for plain in text.split():
            if plain.isascii() and plain.isalpha() and len(plain) <= 100:
                assert "".join(made.tokens(plain)).replace("##", "") == plain.lower()

    @given(st.lists(st.text(max_size=40), max_size=4), st.integers(2, 12))
    def test_any_text_makes_a_row(self, texts, length):
        made = from_vocabulary("\n".join(PIECES.split()))
        rows = made.encode(texts, length)
        assert rows.shape == (len(texts), length)
        for row in rows:
            used = np.count_nonzero(row)
            assert row[0] == 2
            assert row[used - 1] == 3
            assert not row[used:].any()


class TestPublishedVocabulary:
    """The expected pieces are those of Hugging Face's `tokenizers` and its tokenizer.json."""

    def test_ids(self, published):
        assert len(published.vocabulary) == 30_522
        rows = published.encode(["What is the full form of .com ?"], 12)
        expected = [101, 2054, 2003, 1996, 2440, 2433, 1997, 1012, 4012, 1029, 102, 0]
        np.testing.assert_array_equal(rows, [expected])

    @pytest.mark.parametrize(
        ("text", "tokens"),
        [
            ("Héllo WÖRLD ß İ", "hello world ß i"),
            ("zero\u200b\ufffdx\x00y\tz", "zero ##xy z"),
            ("sisterï¿½city", "sister ##i ¿ ½ ##city"),
            ("½ №", "½ №"),
            ("😀 emoji", "[UNK] em ##oj ##i"),
        ],
    )
    def test_odd_characters(self, published, text, tokens):
        assert published.tokens(text) == tokens.split()


class TestJson:
    @given(
        st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), unique=True),
        st.sampled_from(["word", "wordpiece"]),
        st.sampled_from(["end", "start"]),
    )
    def test_round_trip(self, tokens, kind, padding):
        special = SPECIAL[kind]
        made = Tokenizer(
            kind=kind,
            vocabulary=(*special, *(token for token in tokens if token not in special)),
            padding=padding,
        )
        assert Tokenizer.from_json(made.to_json()) == made

    def changed(self, **changes):
        record = {**json.loads(from_texts(["a b"]).to_json()), **changes}
        return json.dumps(record)

    @pytest.mark.parametrize(
        ("changes", "where", "found"),
        [
            ({"kind": "words"}, "t.json kind", "'words'"),
            ({"padding": "left"}, "t.json padding", "'left'"),
            ({"version": 2}, "t.json version", "2"),
            ({"more": 1}, "t.json", "keys: version, kind, vocabulary, padding, more"),
            ({"vocabulary": "abc"}, "t.json vocabulary", "no list of texts"),
            ({"vocabulary": []}, "t.json vocabulary", "no [PAD], [UNK]"),
            ({"vocabulary": ["a", "[UNK]", "[PAD]"]}, "t.json vocabulary", "'a' with id 0"),
            (
                {"vocabulary": ["[PAD]", "[UNK]", "a", "a"]},
                "t.json vocabulary",
                "more than once: 'a'",
            ),
        ],
    )
    def test_other_records(self, changes, where, found):
        with pytest.raises(DataError) as raised:
            Tokenizer.from_json(self.changed(**changes), where="t.json")
        (one,) = raised.value.problems
        assert (one.where, one.found) == (where, found)

    def test_every_problem_at_once(self):
        text = self.changed(kind="wordpeace", padding="top", vocabulary=["a", "a"])
        with pytest.raises(DataError) as raised:
            Tokenizer.from_json(text)
        assert len(raised.value.problems) == 4
        assert "did you mean 'wordpiece'?" in str(raised.value)

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
    def test_no_record(self, text):
        with pytest.raises(DataError, match=r"what Tokenizer\.to_json writes"):
            Tokenizer.from_json(text)


class TestRequest:
    def test_one_text_and_no_room(self, wordpiece):
        with pytest.raises(DataError) as raised:
            wordpiece.encode("want", length=1)
        texts, length = raised.value.problems
        assert texts.fix == "write encode([text], length)"
        assert (length.found, length.expected) == ("1", "2 or more")

    def test_unknown_kind(self):
        with pytest.raises(DataError, match="one of: word, wordpiece"):
            Tokenizer(kind="bpe", vocabulary=("[PAD]", "[UNK]"))
