"""compresskit.datasets: the data sets that have a name."""

from __future__ import annotations

import gzip
import hashlib
import sys

import numpy as np
import pytest

from compresskit import data
from compresskit.datasets import fashion_mnist
from compresskit.errors import DataError


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    return data.load("digits")


class TestDigits:
    def test_shapes_and_ranges(self, digits):
        assert digits.name == "digits"
        assert digits.x_train.shape == (1437, 8, 8, 1)
        assert digits.x_test.shape == (360, 8, 8, 1)
        assert digits.x_train.dtype == np.float32
        assert digits.x_train.min() == 0
        assert digits.x_train.max() == 1
        assert digits.class_count == 10

    def test_split_keeps_the_proportions(self, digits):
        shares = np.bincount(digits.y_test) / (
            np.bincount(digits.y_train) + np.bincount(digits.y_test)
        )
        np.testing.assert_allclose(shares, 0.2, atol=0.01)

    def test_split_is_the_same_everywhere(self, digits):
        pixels = (digits.x_test * 16).astype(np.uint8).tobytes()
        labels = digits.y_test.astype(np.uint8).tobytes()
        assert hashlib.sha256(pixels + labels).hexdigest()[:16] == "5ccada37b7bb7f1f"

    def test_missing_scikit_learn(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn", None)
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(DataError, match=r"pip install 'compresskit\[datasets\]'"):
            data.load("digits")


class TestFashionMnist:
    def test_shapes_and_ranges(self):
        try:
            fashion = data.load("fashion-mnist")
        except DataError as error:
            pytest.skip(f"Fashion-MNIST is not installed: {error.problems[0].fix}")
        assert fashion.x_train.shape == (60_000, 28, 28, 1)
        assert fashion.x_test.shape == (10_000, 28, 28, 1)
        assert fashion.x_train.dtype == np.float32
        assert fashion.x_train.max() == 1
        assert fashion.classes[9] == "Ankle boot"
        np.testing.assert_array_equal(np.bincount(fashion.y_test), [1000] * 10)

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        """The four files, with pictures cut to 2 by 2 and few of them."""
        files = {}
        for key, (name, _) in fashion_mnist._FILES.items():
            count = 6 if key.endswith("train") else 4
            shape = (count, 2, 2) if key.startswith("x") else (count,)
            files[key] = (name, shape)
            values = np.arange(np.prod(shape)) % 10
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
            packed = gzip.compress(header + values.astype(np.uint8).tobytes())
            (tmp_path / name).write_bytes(packed)
        monkeypatch.setattr(fashion_mnist, "_FILES", files)
        monkeypatch.setenv(fashion_mnist.VARIABLE, str(tmp_path))
        return tmp_path

    def test_folder_of_the_environment_variable(self, folder):
        fashion = data.load("fashion-mnist")
        assert fashion.x_train.shape == (6, 2, 2, 1)
        np.testing.assert_array_equal(fashion.y_test, [0, 1, 2, 3])
        np.testing.assert_allclose(fashion.x_test[0, 0, 1], [1 / 255])

    def test_labelled_and_unlabelled_pictures(self, folder):
        whole = data.load("fashion-mnist")
        some, rest = fashion_mnist.labelled(every=3), fashion_mnist.unlabelled(every=3)
        np.testing.assert_array_equal(some.x_train, whole.x_train[[0, 3]])
        np.testing.assert_array_equal(some.y_train, [0, 3])
        np.testing.assert_array_equal(rest, whole.x_train[[1, 2, 4, 5]])
        np.testing.assert_array_equal(some.x_test, whole.x_test)
        assert some.classes == whole.classes

    def test_missing_files(self, folder):
        (folder / "t10k-labels-idx1-ubyte.gz").unlink()
        with pytest.raises(DataError) as raised:
            data.load("fashion-mnist")
        (one,) = raised.value.problems
        assert one.found == f"{folder} lacks t10k-labels-idx1-ubyte.gz"
        assert "apt-get install dataset-fashion-mnist" in one.fix
        assert "COMPRESSKIT_FASHION_MNIST" in one.fix

    def test_damaged_files_all_at_once(self, folder):
        def write(name, content):
            (folder / name).write_bytes(gzip.compress(content))

        labels = bytes([0, 0, 8, 1]) + np.array([4], ">u4").tobytes()
        (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not gzipped")
        write("train-labels-idx1-ubyte.gz", b"\x00\x00\x09\x01" + bytes(10))
        write("t10k-images-idx3-ubyte.gz", bytes([0, 0, 8, 3]) + bytes(12))
        write("t10k-labels-idx1-ubyte.gz", labels + bytes(3))
        with pytest.raises(DataError) as raised:
            data.load("fashion-mnist")
        found = [one.found for one in raised.value.problems]
        assert len(found) == 4
        assert "BadGzipFile" in found[0]
        assert "magic number 00000901, not 00000801" in found[1]
        assert "shape (0, 0, 0), not (4, 2, 2)" in found[2]
        assert "3 values, not 4" in found[3]
