"""compresskit.starter: a first recipe for a model."""

from __future__ import annotations

import keras
import pytest

import compresskit as ck
from compresskit import catalog
from compresskit.models.load import load_model
from compresskit.recipe_fields import NpzData
from compresskit.starter import starter
from tests.models import cnn, conv1d, subclassed


def made(model, spec="m.keras", file="r.yaml"):
    return ck.Recipe.loads(starter(model, spec, file=file), file)


class TestRecipe:
    @pytest.mark.parametrize("name", catalog.models.names())
    def test_a_registered_model_is_trained_first(self, name):
        recipe = made(load_model(name), name)
        assert recipe.model == recipe.name == name
        assert recipe.baseline is not None
        assert [stage.type for stage in recipe.stages] == ["prune", "qat"]
        assert recipe.export

    def test_a_file_is_not_trained_again(self):
        recipe = made(cnn(), "models/my cnn.keras")
        assert recipe.model == "models/my cnn.keras"
        assert recipe.name == "my-cnn"
        assert recipe.baseline is None

    def test_it_plans(self):
        model = cnn()
        plan = ck.plan(made(model), model=model)
        assert [stage.touched != () for stage in plan.stages] == [True, True]

    def test_with_the_stage_that_is_commented_out(self):
        text = starter(cnn(), "m.keras", file="r.yaml")
        recipe = ck.Recipe.loads(text.replace("  # - {name: share", "  - {name: share"), "r.yaml")
        assert [stage.type for stage in recipe.stages] == ["prune", "cluster", "qat"]
        assert ck.plan(recipe, imports=False).exports

    @pytest.mark.parametrize(
        "spec",
        [
            "./-x.keras",
            "true.keras",
            "1.keras",
            "a: b.keras",
            "ä#ö.keras",
            "'q'.keras",
            "2:4.keras",
        ],
    )
    def test_any_name_of_a_file(self, spec):
        recipe = made(cnn(), spec)
        assert recipe.model == spec
        assert recipe.name


class TestData:
    @pytest.mark.parametrize(
        ("shape", "name"), [((8, 8, 1), "digits"), ((28, 28, 1), "fashion-mnist")]
    )
    def test_by_the_shape_of_the_input(self, shape, name):
        model = keras.Sequential([keras.Input(shape), keras.layers.Flatten()])
        assert made(model).data == name

    @pytest.mark.parametrize("make", [conv1d, subclassed])
    def test_a_shape_that_is_unknown(self, make):
        assert made(make()).data == NpzData(npz="data.npz")


def test_comments_name_the_files():
    text = starter(cnn(), "m.keras", file="new.yaml")
    assert "compresskit plan new.yaml" in text
    assert "compresskit apply new.yaml" in text
    assert "{{" not in text
    assert all(len(line) <= 100 for line in text.splitlines())
