"""compresskit.models: the models that have a name, and loading any other."""

from __future__ import annotations

import sys
import zipfile

import keras
import numpy as np
import pytest

from compresskit import catalog
from compresskit.data import Dataset
from compresskit.errors import ModelError
from compresskit.models.load import load_model
from compresskit.recipe_fields import Builder
from tests.models import CLASSES, MODELS, mlp

WHERE = "recipe.yaml:2 model"


def dataset(shape=(20, 20, 3), classes=4):
    x = np.zeros((8, *shape), dtype=np.float32)
    y = np.arange(8) % classes
    return Dataset(name="d", x_train=x, y_train=y, x_test=x, y_test=y)


def only(spec, **kwargs):
    with pytest.raises(ModelError) as raised:
        load_model(spec, where=WHERE, **kwargs)
    (one,) = raised.value.problems
    assert one.where == WHERE
    return one


class TestRegistered:
    @pytest.mark.parametrize(
        ("name", "parameters"),
        [("lenet300", 266_610), ("lenet5", 431_080), ("resnet8", 78_138), ("small-cnn", 6_386)],
    )
    def test_size(self, name, parameters):
        model = load_model(name)
        assert model.name == name
        assert model.count_params() == parameters
        assert model.output_shape == (None, 10)

    @pytest.mark.parametrize("name", sorted(catalog.models.names()))
    def test_fits_the_data_set(self, name):
        if not catalog.models.get(name).__module__.endswith(("lenet", "resnet")):
            pytest.skip(f"{name} takes no pictures")
        model = load_model(name, dataset=dataset())
        assert model.input_shape == (None, 20, 20, 3)
        probabilities = np.asarray(model(np.ones((2, 20, 20, 3), dtype=np.float32)))
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
        assert probabilities.shape == (2, 4)

    def test_args_come_before_the_data_set(self):
        model = load_model("lenet300", dataset=dataset(), args={"classes": 7})
        assert model.output_shape == (None, 7)

    def test_the_seed_is_the_callers(self):
        models = []
        for _ in range(2):
            keras.utils.set_random_seed(5)
            models.append(load_model("resnet8"))
        for one, other in zip(models[0].weights, models[1].weights, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_pictures_that_are_too_small(self):
        one = only("lenet5", dataset=dataset((8, 8, 1)))
        assert "lenet5(input_shape=(8, 8, 1), classes=4) raised ValueError" in one.found
        assert "another model" in one.fix

    def test_unknown_name_suggests_the_nearest(self):
        one = only("lenet")
        assert one.found == "unknown model 'lenet'"
        assert "did you mean 'lenet" in one.fix


class TestFile:
    def test_relative_to_the_recipe(self, tmp_path):
        model = mlp()
        model.save(tmp_path / "m.keras")
        loaded = load_model("m.keras", base=tmp_path)
        for one, other in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_missing(self, tmp_path):
        one = only("m.keras", base=tmp_path)
        assert str(tmp_path / "m.keras") in one.found
        assert "correct the path" in one.fix

    def test_damaged(self, tmp_path):
        (tmp_path / "m.keras").write_bytes(b"not a model")
        one = only(tmp_path / "m.keras")
        assert "m.keras cannot be loaded" in one.found
        assert keras.__version__ in one.fix

    def test_cut_off(self, tmp_path):
        mlp().save(tmp_path / "whole.keras")
        with zipfile.ZipFile(tmp_path / "whole.keras") as whole:
            config = whole.read("config.json")
        with zipfile.ZipFile(tmp_path / "m.keras", "w") as cut:
            cut.writestr("config.json", config)
        assert "cannot be loaded" in only(tmp_path / "m.keras").found

    def test_other_format(self, tmp_path):
        (tmp_path / "m.h5").write_bytes(b"")
        one = only(str(tmp_path / "m.h5"))
        assert "a .h5 file" in one.found
        assert "model.save('model.keras')" in one.fix

    def test_unknown_class(self, tmp_path):
        class Odd(keras.layers.Layer):
            def call(self, inputs):
                return inputs

        keras.Sequential([keras.Input((3,)), Odd()]).save(tmp_path / "m.keras")
        one = only(tmp_path / "m.keras")
        assert one.found == f"{tmp_path / 'm.keras'} needs class 'Odd', which is not registered"
        assert "register_keras_serializable" in one.fix

    def test_python_code_only_if_trusted(self, tmp_path):
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Lambda(lambda x: x * 2, output_shape=(3,))]
        )
        model.save(tmp_path / "m.keras")
        one = only(tmp_path / "m.keras")
        assert "holds Python code" in one.found
        assert "safe_mode=False" in one.fix
        assert load_model(tmp_path / "m.keras", safe_mode=False).built


class TestObject:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path, monkeypatch):
        (tmp_path / "my_models.py").write_text(
            "import keras\n"
            "def make(units=2):\n"
            "    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])\n"
            "def unbuilt():\n"
            "    return keras.Sequential([keras.layers.Dense(2)])\n"
            "def layer():\n"
            "    return keras.layers.Dense(2)\n"
            "def broken():\n"
            "    raise ValueError('no such size')\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        yield
        sys.modules.pop("my_models", None)

    def builder(self, name, **args):
        return Builder(builder=f"my_models:{name}", args=args)

    def test_builder(self):
        assert load_model(self.builder("make", units=5)).output_shape == (None, 5)
        assert load_model(self.builder("make", units=5), args={"units": 6}).count_params() == 24

    def test_model_passes_through(self):
        model = mlp()
        assert load_model(model) is model

    def test_not_a_model(self):
        one = only(self.builder("layer"))
        assert "my_models:layer: an object of type keras" in one.found
        assert one.expected == "a keras.Model of Keras 3"

    def test_unbuilt(self):
        one = only(self.builder("unbuilt"))
        assert one.found == "my_models:unbuilt: a model without weights yet"
        assert "keras.Input" in one.fix

    def test_unbuilt_is_built_on_the_data_set(self):
        model = load_model(self.builder("unbuilt"), dataset=dataset((3,), 2))
        assert model.count_params() == 8

    def test_builder_that_raises(self):
        one = only(self.builder("broken"))
        assert "my_models:broken() raised ValueError: no such size" in one.found
        assert one.expected == "a built keras.Model"

    def test_other_objects(self):
        assert "an object of type builtins.int" in only(3).found


@pytest.mark.parametrize("name", sorted(MODELS))
def test_shared_models_are_small_fresh_and_saved_whole(name, tmp_path):
    model = MODELS[name]()
    assert model.built
    assert 0 < model.count_params() < 10_000
    assert MODELS[name]() is not model
    x = np.ones((2, 16, 4) if name == "conv1d" else (2, 8, 8, 1), dtype=np.float32)
    expected = np.asarray(model(x))
    assert expected.shape == (2, CLASSES)
    model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(np.asarray(loaded(x)), expected, rtol=1e-5)
