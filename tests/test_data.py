"""compresskit.data and compresskit.datafiles: loading and checking data sets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compresskit.data import Dataset, check, load
from compresskit.errors import DataError
from compresskit.recipe_fields import Builder, DirectoryData, NpzData

WHERE = "recipe.yaml:3 data"


def arrays(train=20, test=8):
    random = np.random.default_rng(0)
    return {
        "x_train": random.random((train, 4, 4, 1), dtype=np.float32),
        "y_train": np.arange(train) % 3,
        "x_test": random.random((test, 4, 4, 1), dtype=np.float32),
        "y_test": np.arange(test) % 3,
    }


def problems(spec, **kwargs):
    with pytest.raises(DataError) as raised:
        load(spec, where=WHERE, **kwargs)
    for one in raised.value.problems:
        assert one.where.startswith(WHERE)
        assert one.found
        assert one.expected
        assert one.fix
    return raised.value.problems


def only(spec, **kwargs):
    (one,) = problems(spec, **kwargs)
    return one


class TestDataset:
    def test_representative_is_fixed_and_without_repeats(self):
        dataset = Dataset(name="d", **arrays(train=50))
        chosen = dataset.representative(10, seed=3)
        assert chosen.shape == (10, 4, 4, 1)
        np.testing.assert_array_equal(chosen, dataset.representative(20, seed=3)[:10])
        assert len(np.unique(dataset.representative(50).reshape(50, -1), axis=0)) == 50
        assert not np.array_equal(chosen, dataset.representative(10, seed=4))

    def test_representative_gives_what_there_is(self):
        assert len(Dataset(name="d", **arrays(train=5)).representative(100)) == 5

    @settings(max_examples=25, deadline=None)
    @given(train=st.integers(1, 60), test=st.integers(1, 60))
    def test_limit_keeps_samples_with_their_labels(self, train, test):
        made = arrays(train=40, test=30)
        made["x_train"][:, 0, 0, 0] = made["y_train"]
        limited = Dataset(name="d", **made).limit(train=train, test=test)
        assert len(limited.x_train) == len(limited.y_train) == min(train, 40)
        assert len(limited.x_test) == len(limited.y_test) == min(test, 30)
        np.testing.assert_array_equal(limited.x_train[:, 0, 0, 0], limited.y_train)

    def test_limit_of_a_file_sorted_by_class_keeps_the_classes(self):
        made = arrays(train=300)
        made["y_train"] = np.repeat([0, 1, 2], 100)
        assert set(Dataset(name="d", **made).limit(train=30).y_train) == {0, 1, 2}

    @pytest.mark.parametrize("call", [lambda d: d.limit(train=0), lambda d: d.representative(0)])
    def test_counts_below_one_are_refused(self, call):
        with pytest.raises(DataError, match="1 or more"):
            call(Dataset(name="d", **arrays()))

    def test_class_count(self):
        dataset = Dataset(name="d", **arrays())
        assert dataset.class_count == 3
        assert dataset.limit(train=1, test=1).class_count <= 3
        named = Dataset(name="d", classes=("a", "b", "c", "d"), **arrays())
        assert named.limit(train=1).class_count == 4


class TestArrays:
    def test_dict_pair_and_dataset_are_taken(self):
        made = arrays()
        pair = ((made["x_train"], made["y_train"]), (made["x_test"], made["y_test"]))
        for spec in (made, pair, Dataset(name="d", **made)):
            dataset = load(spec)
            assert dataset.x_train is made["x_train"]
            np.testing.assert_array_equal(dataset.y_test, made["y_test"])

    def test_types_are_normalized_and_values_kept(self):
        made = arrays()
        made["x_train"] = np.full((20, 4, 4, 1), 200, dtype=np.uint8)
        made["x_test"] = made["x_test"].astype(np.float64)
        made["y_train"] = made["y_train"].astype(np.uint8)[:, None]
        dataset = load(made)
        assert dataset.x_train.dtype == dataset.x_test.dtype == np.float32
        assert dataset.x_train.max() == 200
        assert dataset.y_train.dtype == np.int64
        assert dataset.y_train.shape == (20,)

    def test_tokens_stay_integers(self):
        made = arrays()
        made["x_train"] = np.ones((20, 7), dtype=np.int32)
        made["x_test"] = np.ones((8, 7), dtype=np.int32)
        assert load(made).x_train.dtype == np.int32

    def test_all_missing_keys_at_once_with_the_nearest(self):
        made = arrays()
        made["xtrain"] = made.pop("x_train")
        del made["y_test"]
        first, second = problems(made)
        assert first.where == f"{WHERE}.x_train"
        assert "there is y_train, x_test, xtrain" in first.found
        assert first.fix == "rename 'xtrain' to 'x_train'"
        assert second.where == f"{WHERE}.y_test"

    def test_every_problem_at_once(self):
        made = arrays()
        made["x_train"][[2, 5]] = np.nan
        made["y_train"] = made["y_train"][:-1]
        made["x_test"] = made["x_test"][:, :3]
        made["y_test"] = made["y_test"] - 1
        found = {one.where.removeprefix(WHERE): one.found for one in problems(made)}
        assert found[".x_train"] == ("NaN or infinite values in 2 of 20 samples, first at index 2")
        assert found[".y_train"] == "19 labels for 20 samples"
        assert found[".x_test"] == "samples of shape (3, 4, 1), those of x_train are (4, 4, 1)"
        assert found[".y_test"] == "label -1"

    @pytest.mark.parametrize(
        ("key", "value", "found", "fix"),
        [
            ("x_train", np.full((20, 4, 4, 1), np.inf), "infinite", "remove these samples"),
            ("x_train", np.array(["a"] * 20), "type <U1", "encode"),
            ("x_train", np.zeros(20), "shape (20,)", "add the axis"),
            ("y_train", np.eye(3)[np.arange(20) % 3], "one-hot rows, shape (20, 3)", "argmax"),
            ("y_train", np.full(20, np.nan), "NaN or infinite", "fill in the values"),
            ("y_train", np.array(["a"] * 20), "type <U1", "number the classes from 0"),
        ],
    )
    def test_array_that_holds_no_samples_or_labels(self, key, value, found, fix):
        first = problems({**arrays(), key: value})[0]
        assert first.where == f"{WHERE}.{key}"
        assert found in first.found
        assert fix in first.fix

    def test_empty_arrays(self):
        made = arrays(train=0)
        assert [one.found for one in problems(made)] == ["shape (0, 4, 4, 1)", "no labels"]

    def test_ragged_lists(self):
        one = only({**arrays(), "x_train": [[1.0], [1.0, 2.0]]})
        assert "cannot be read as an array: ValueError" in one.found

    def test_label_without_a_name(self):
        found = {one.found for one in problems({**arrays(), "classes": ["a", "b"]})}
        assert found == {"label 2, but 2 class names"}

    @pytest.mark.parametrize("spec", [7, None, (1, 2, 3), ((1, 2), 3), [np.zeros(3)]])
    def test_other_objects_are_refused(self, spec):
        one = only(spec)
        assert f"an object of type {type(spec).__name__}" in one.found
        assert "dict of the four arrays" in one.expected

    def test_check_of_a_good_dataset_finds_nothing(self):
        assert check(Dataset(name="d", **arrays())) == []

    def test_unknown_name_suggests_the_nearest(self):
        one = only("digit")
        assert one.found == "unknown dataset 'digit'"
        assert one.fix == "did you mean 'digits'?"


class TestNpz:
    def test_read_from_the_folder_of_the_recipe(self, tmp_path):
        made = arrays()
        np.savez(tmp_path / "set.npz", classes=np.array(["a", "b", "c"]), **made)
        dataset = load(NpzData(npz="set.npz"), base=tmp_path)
        assert dataset.name == "set"
        assert dataset.classes == ("a", "b", "c")
        np.testing.assert_array_equal(dataset.x_test, made["x_test"])

    def test_missing_file_names_both_places(self, tmp_path):
        one = only(NpzData(npz="set.npz"), base=tmp_path)
        assert str(Path.cwd() / "set.npz") in one.found
        assert str(tmp_path / "set.npz") in one.found

    @pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut"])
    def test_damaged_file(self, tmp_path, content):
        file = tmp_path / "set.npz"
        file.write_bytes(content)
        one = only(NpzData(npz=str(file)))
        assert f"{file} is not an npz archive" in one.found
        assert "np.savez" in one.expected

    def test_single_array(self, tmp_path):
        np.save(tmp_path / "set.npy", np.zeros(3))
        (tmp_path / "set.npy").rename(tmp_path / "set.npz")
        assert "it holds a single array" in only(NpzData(npz=str(tmp_path / "set.npz"))).found

    def test_damaged_member(self, tmp_path):
        file = tmp_path / "set.npz"
        np.savez(file, **arrays())
        content = bytearray(file.read_bytes())
        content[300:320] = bytes(20)
        file.write_bytes(content)
        one = only(NpzData(npz=str(file)))
        assert one.where == f"{WHERE}.x_train"
        assert "BadZipFile: Bad CRC-32" in one.found

    def test_nothing_pickled_is_loaded(self, tmp_path):
        made = {**arrays(), "y_test": np.array([object()] * 8)}
        np.savez(tmp_path / "set.npz", **made)
        one = only(NpzData(npz=str(tmp_path / "set.npz")))
        assert one.where == f"{WHERE}.y_test"
        assert "allow_pickle=False" in one.found

    def test_missing_keys(self, tmp_path):
        np.savez(tmp_path / "set.npz", x_train=arrays()["x_train"])
        missing = [one.where for one in problems(NpzData(npz=str(tmp_path / "set.npz")))]
        assert missing == [f"{WHERE}.y_train", f"{WHERE}.x_test", f"{WHERE}.y_test"]


class TestDirectory:
    @pytest.fixture
    def folder(self, tmp_path):
        image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
        for split, count in (("train", 3), ("test", 1)):
            for label, name in enumerate(("cat", "dog")):
                made = tmp_path / "pets" / split / name
                made.mkdir(parents=True)
                for number in range(count):
                    pixels = np.full((6, 4, 3), 51 * (label + 1), dtype=np.uint8)
                    image.fromarray(pixels).save(made / f"{number}.png")
        return tmp_path / "pets"

    def spec(self, folder, image_size=None, grayscale=False):
        return DirectoryData(directory=str(folder), image_size=image_size, grayscale=grayscale)

    def test_read(self, folder):
        dataset = load(self.spec(folder))
        assert dataset.name == "pets"
        assert dataset.classes == ("cat", "dog")
        assert dataset.x_train.shape == (6, 6, 4, 3)
        assert dataset.x_train.dtype == np.float32
        np.testing.assert_array_equal(dataset.y_train, [0, 0, 0, 1, 1, 1])
        np.testing.assert_allclose(dataset.x_test[:, 0, 0, 0], [0.2, 0.4], rtol=1e-6)

    def test_resized_to_height_and_width_in_grey(self, folder):
        dataset = load(self.spec(folder, image_size=(8, 5), grayscale=True))
        assert dataset.x_train.shape == (6, 8, 5, 1)

    def test_sizes_that_differ(self, folder):
        from PIL import Image

        Image.new("RGB", (9, 9)).save(folder / "train" / "dog" / "9.png")
        one = only(self.spec(folder))
        assert "pictures of 2 sizes" in one.found
        assert "9.png is 9x9" in one.found
        assert one.fix == "set image_size: [HEIGHT, WIDTH], and they are resized"

    def test_every_problem_at_once(self, folder):
        (folder / "train" / "cat" / "0.png").write_bytes(b"no picture")
        (folder / "train" / "bird").mkdir()
        (folder / "test" / "cats").mkdir()
        found = [one.found for one in problems(self.spec(folder))]
        assert len(found) == 3
        assert "no pictures in" in found[0]
        assert "0.png cannot be read" in found[1]
        assert "cats is a class without a folder in train" in found[2]

    def test_many_problems_are_cut(self, folder):
        for number in range(15):
            (folder / "train" / "cat" / f"bad{number:02}.png").write_bytes(b"no picture")
        found = [one.found for one in problems(self.spec(folder))]
        assert len(found) == 11
        assert found[-1] == "5 more problems of this kind"

    def test_missing_split(self, folder):
        (folder / "test").rename(folder / "validation")
        one = only(self.spec(folder))
        assert "no folder" in one.found
        assert "DIRECTORY/test/CLASS/*.png" in one.expected

    def test_more_than_eight_bits(self, folder):
        from PIL import Image

        wide = Image.fromarray(np.full((6, 4), 4000, dtype=np.uint16))
        wide.save(folder / "train" / "cat" / "wide.png")
        assert "more than 8 bits" in only(self.spec(folder)).found

    def test_missing_pillow(self, folder, monkeypatch):
        monkeypatch.setitem(sys.modules, "PIL", None)
        assert only(self.spec(folder)).fix == "pip install 'compresskit[images]'"


class TestBuilder:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path, monkeypatch):
        (tmp_path / "my_data.py").write_text(
            "import numpy as np\n"
            "def make(n=4):\n"
            "    if n < 1: raise RuntimeError('no samples')\n"
            "    return (np.zeros((n, 2)), np.zeros(n, int)), (np.ones((2, 2)), np.ones(2, int))\n"
            "def nothing(): pass\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        yield
        sys.modules.pop("my_data", None)

    def test_called_with_its_args(self):
        dataset = load(Builder(builder="my_data:make", args={"n": 7}))
        assert dataset.name == "my_data:make"
        assert dataset.x_train.shape == (7, 2)

    def test_exception_is_told_and_chained(self):
        with pytest.raises(DataError) as raised:
            load(Builder(builder="my_data:make", args={"n": 0}))
        assert "my_data:make(n=0) raised RuntimeError: no samples" in str(raised.value)
        assert isinstance(raised.value.__cause__, RuntimeError)

    def test_other_return_value(self):
        one = only(Builder(builder="my_data:nothing", args={}))
        assert one.found == "my_data:nothing: an object of type NoneType"

    def test_missing_function(self):
        one = only(Builder(builder="my_data:mak", args={}))
        assert one.fix == "did you mean 'make'?"


def test_loading_data_loads_no_tensorflow():
    code = (
        "import sys, numpy as np, compresskit.data as data\n"
        "x, y = np.zeros((2, 3)), np.zeros(2, int)\n"
        "data.load(((x, y), (x, y)))\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
