"""compresskit.planning: what a recipe would do."""

from __future__ import annotations

import json

import pytest

import compresskit as ck
from compresskit.errors import RecipeError
from compresskit.planning import describe
from compresskit.recipe_fields import Builder, DirectoryData, NpzData
from tests.models import depthwise, mlp
from tests.runs import PRUNE, QUANTIZE, digits, recipe, recipe_file


class TestPlan:
    def test_stages(self):
        made = ck.plan(recipe(stages=[{**PRUNE, "ignore": ["logits"]}, QUANTIZE]))
        prune, quantize = made.stages
        assert (prune.name, prune.type, prune.epochs, prune.steps) == ("sparsify", "prune", 1, 8)
        assert prune.touched == ("fc1/kernel",)
        assert prune.skipped == {"logits/kernel": "named in ignore"}
        assert quantize.touched == ("fc1/kernel", "logits/kernel")
        assert quantize.skipped == {}
        assert prune.worth["edge-cpu"] == "a smaller download; the same file size, memory and speed"
        json.dumps(made.to_dict())

    def test_a_reason_for_each_weight_that_is_left(self):
        made = ck.plan(recipe(), model=depthwise(), data=digits())
        assert set(made.stages[0].skipped.values()) == {
            "depthwise kernels are pruned only when targets names them"
        }

    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"granularity": "2:4", "sparsity": None}, "no kernel for N:M"),
            ({"granularity": "block(1x4)"}, "a smaller download"),
        ],
    )
    def test_worth_by_pattern(self, changes, word):
        made = ck.plan(recipe(stages=[{**PRUNE, **changes}]), imports=False)
        assert word in made.stages[0].worth["edge-cpu"]

    def test_exports(self):
        made = ck.plan(recipe(), imports=False)
        assert [(each.target, each.precision, each.file) for each in made.exports] == [
            ("edge-cpu", "int8", "edge-cpu-int8.tflite"),
            ("edge-cpu", "dynamic", "edge-cpu-dynamic.tflite"),
        ]
        assert [each.notes for each in made.exports] == [(), ()]

    def test_notes_on_what_training_does_not_cover(self):
        exports = [{"target": "edge-tpu"}, {"target": "edge-cpu"}]
        tpu, cpu = ck.plan(recipe(export=exports), imports=False).exports
        assert tpu.notes == ()
        assert "another grid" in cpu.notes[0]
        (alone,) = ck.plan(recipe(stages=[PRUNE], export=exports[1:]), imports=False).exports
        assert alone.notes == ("no qat stage: ranges come from calibration alone",)

    def test_of_a_path(self, tmp_path):
        path = recipe_file(tmp_path)
        assert ck.plan(path).imported
        assert ck.plan(str(path), imports=False).recipe == "short"

    def test_model_and_data_in_place_of_the_recipes(self):
        read = recipe(model="nowhere.keras", data={"npz": "nowhere.npz"})
        made = ck.plan(read, model=mlp(), data=digits())
        assert (made.model, made.data) == ("given", "given")

    def test_paths_start_from_the_folder_of_the_recipe(self, tmp_path):
        mlp().save(tmp_path / "m.keras")
        path = recipe_file(tmp_path, model="m.keras")
        assert ck.plan(path).model == "m.keras"


class TestWithoutImports:
    def test_no_code_of_the_users_runs(self):
        read = recipe(model={"builder": "no_such:thing"}, data={"builder": "no_such:data"})
        made = ck.plan(read, imports=False)
        assert not made.imported
        assert (made.model, made.data) == ("no_such:thing", "no_such:data")
        assert made.stages[0].touched == ()
        assert made.stages[0].steps == 0

    def test_problems_of_names(self):
        with pytest.raises(RecipeError, match="precision 'int4'"):
            ck.plan(recipe(export=[{"target": "edge-tpu", "precision": "int4"}]), imports=False)


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("lenet5", "lenet5"),
        (Builder(builder="a.b:c"), "a.b:c"),
        (NpzData(npz="d.npz"), "d.npz"),
        (DirectoryData(directory="pictures"), "pictures"),
    ],
)
def test_describe(spec, word):
    assert describe(spec) == word
