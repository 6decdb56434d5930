"""compresskit.resolution: the targets and precisions of a recipe's exports."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from compresskit import catalog
from compresskit.recipe import Recipe
from compresskit.resolution import resolve, training_grid
from tests.runs import QUANTIZE, recipe


def export(*items, stages=(QUANTIZE,)):
    return resolve(recipe(stages=list(stages), export=list(items)))


class TestResolve:
    def test_names_become_records(self):
        made, problems = export(
            {"target": "edge-tpu"},
            {"target": "edge-cpu", "precision": "dynamic"},
            {"target": "edge-cpu", "precision": "float16", "name": "half"},
        )
        assert problems == []
        assert [each.file for each in made] == [
            "edge-tpu-int8.tflite",
            "edge-cpu-dynamic.tflite",
            "half.tflite",
        ]
        assert made[0].target is catalog.targets.get("edge-tpu")
        assert made[0].precision is made[0].target.precisions["int8"]
        assert [each.precision_name for each in made] == ["int8", "dynamic", "float16"]

    @pytest.mark.parametrize("name", catalog.targets.names())
    def test_every_target_has_its_default(self, name):
        made, problems = export({"target": name})
        assert problems == []
        assert made[0].precision_name == catalog.targets.get(name).default

    def test_a_precision_that_the_target_does_not_have(self):
        made, problems = export({"target": "edge-cpu"}, {"target": "edge-cpu", "precision": "in8"})
        assert [each.precision_name for each in made] == ["int8"]
        (one,) = problems
        assert one.where == "export[1].precision"
        assert one.found == "precision 'in8' for target 'edge-cpu'"
        assert one.expected == "one of: float32, float16, dynamic, int8, int16x8, int4"
        assert one.fix == "did you mean 'int8'?"

    def test_where_is_told_by_the_caller(self):
        read = recipe(export=[{"target": "edge-tpu", "precision": "float32"}])
        _, (one,) = resolve(read, lambda path: f"r.yaml:7 {path}")
        assert one.where == "r.yaml:7 ('export', 0, 'precision')"

    def test_two_exports_to_one_file(self):
        # The recipe cannot know that int8 is the default; the target does.
        _, (one,) = export({"target": "edge-cpu"}, {"target": "edge-cpu", "precision": "int8"})
        assert one.where == "export[1]"
        assert one.found == "a second export to edge-cpu-int8.tflite"
        assert "name" in one.fix


def stages(*types, **changes):
    """Stages of some types, numbered; `changes` are those of one, by its type and number."""
    more = {"prune": {"sparsity": 0.5}, "cluster": {"clusters": 4}, "qat": {}, "distill": {}}
    named = [(f"{kind}-{index}", kind) for index, kind in enumerate(types)]
    return [
        {"name": name, "type": kind, **more[kind], **changes.get(name.replace("-", "_"), {})}
        for name, kind in named
    ]


class TestRoundings:
    """`weights` of an export, and the grid of training where a file has 4 bits."""

    @staticmethod
    def problem(precision, weights, stages=()):
        made = Recipe.from_dict(
            {
                "version": 1,
                "name": "r",
                "model": "lenet5",
                "stages": list(stages),
                "export": [{"target": "edge-cpu", "precision": precision, "weights": weights}],
            }
        )
        (one,) = resolve(made)[1]
        return one

    def test_of_a_precision_that_is_not_rounded_so(self):
        one = self.problem("int8", {"algorithm": "octav"})
        assert one.where == "export[0].weights"
        assert one.expected.startswith("int4 or dynamic")

    def test_blocks_of_8_bits(self):
        one = self.problem("dynamic", {"granularity": "block"})
        assert one.where == "export[0].weights.granularity"

    @pytest.mark.parametrize(
        "stage", [{"type": "qat"}, {"type": "ptq", "algorithms": ["gptq"]}], ids=["qat", "gptq"]
    )
    def test_weights_that_are_on_a_grid(self, stage):
        one = self.problem("int4", {"algorithm": "octav"}, [stage])
        assert "has put on the grid of channels" in one.found

    def test_training_sees_four_bits_and_activations_only_for_int8(self):
        def grid(*precisions):
            exports = [{"target": "edge-cpu", "precision": each} for each in precisions]
            data = {"version": 1, "name": "r", "model": "lenet5", "export": exports}
            return training_grid(resolve(Recipe.from_dict(data))[0])

        assert (grid("int4").bits, grid("int4").activations) == (4, False)
        assert (grid("int4", "int8").bits, grid("int4", "int8").activations) == (4, True)
        assert (grid("int8", "int4").bits, grid("int16x8").activations) == (8, False)
        assert grid("int16x8", "int8").activations


class TestOrder:
    @pytest.mark.parametrize(
        "types",
        [
            ("prune", "cluster", "qat"),
            ("prune", "prune", "qat"),
            ("cluster", "qat"),
            ("prune", "qat", "qat"),
        ],
        ids=" ".join,
    )
    def test_what_composes(self, types):
        assert export({"target": "edge-cpu"}, stages=stages(*types))[1] == []

    @pytest.mark.parametrize(
        ("types", "reason"),
        [
            (("cluster", "prune"), "zeros would be values that no cluster has"),
            (("qat", "prune"), "learned with other weights"),
            (("qat", "cluster"), "learned with other weights"),
            (("cluster", "cluster"), "already share values"),
        ],
    )
    def test_what_would_undo_an_earlier_stage(self, types, reason):
        _, (one,) = export({"target": "edge-cpu"}, stages=stages(*types))
        first, second = types
        assert one.where == "stages[1].type"
        assert one.found.startswith(f"{second} ({second}-1) after {first} ({first}-0): ")
        assert reason in one.found
        assert "shrink, prune, cluster, qat" in one.expected
        assert f"{second}-1 before {first}-0" in one.fix or "targets" in one.fix

    @pytest.mark.parametrize("earlier", ["prune", "cluster", "qat"])
    def test_a_new_student_has_nothing_of_what_was_made(self, earlier):
        student = {"distill_1": {"student": "bert-tiny"}}
        _, (one,) = export({"target": "edge-cpu"}, stages=stages(earlier, "distill", **student))
        assert one.where == "stages[1].type"
        assert one.found == (
            f"distill (distill-1) after {earlier} ({earlier}-0): a new student has nothing of it"
        )
        assert (one.expected, one.fix) == ("a student first", f"move distill-1 before {earlier}-0")

    def test_the_same_model_learns_on(self):
        for types in (("prune", "distill"), ("distill", "prune", "qat"), ("distill", "distill")):
            assert export({"target": "edge-cpu"}, stages=stages(*types))[1] == []

    def test_each_stage_is_told_once(self):
        _, problems = export({"target": "edge-cpu"}, stages=stages("cluster", "qat", "prune"))
        assert [one.where for one in problems] == ["stages[2].type"]

    def test_other_targets(self):
        apart = stages(
            "cluster", "cluster", cluster_0={"targets": ["fc1"]}, cluster_1={"targets": ["fc2"]}
        )
        assert export({"target": "edge-cpu"}, stages=apart)[1] == []


class TestActivationBits:
    def test_fewer_than_eight_need_that_nothing_is_exported_in_integers(self):
        stages = [{**QUANTIZE, "activation_bits": 6}]
        _, (one,) = export({"target": "edge-cpu"}, stages=stages)
        assert one.where == "stages[0].activation_bits"
        assert one.found == "6 bits, and an export to edge-cpu-int8.tflite"

    def test_a_simulation(self):
        stages = [{**QUANTIZE, "activation_bits": 6}]
        assert export({"target": "edge-cpu", "precision": "dynamic"}, stages=stages)[1] == []


class TestGrid:
    def test_that_of_the_first_integer_export(self):
        made, _ = export(
            {"target": "edge-cpu", "precision": "dynamic"},
            {"target": "edge-tpu"},
            {"target": "edge-cpu"},
        )
        assert training_grid(made) == made[1].precision.grid
        assert training_grid(made) != made[2].precision.grid

    def test_without_integers(self):
        made, _ = export({"target": "edge-cpu", "precision": "float32"})
        assert training_grid(made).per_channel_dense
        assert not training_grid(made).activations
        assert training_grid([]).activations  # nothing is known: the whole kernel


class TestSharedIntegers:
    def test_on_two_grids(self):
        _, (one,) = export({"target": "edge-tpu"}, {"target": "edge-cpu"}, stages=stages("cluster"))
        assert one.where == "export[1]"
        assert "edge-cpu-int8.tflite, whose dense kernels have a scale for each output" in one.found
        assert one.found.endswith("the integers of kernels that have one scale")
        assert "granularity: channel" in one.fix

    @pytest.mark.parametrize("target", ["edge-tpu", "edge-cpu"])
    def test_on_one(self, target):
        twice = [{"target": target}, {"target": target, "name": "again"}]
        assert export(*twice, stages=stages("cluster"))[1] == []

    def test_within_channels(self):
        made = stages("cluster", cluster_0={"granularity": "channel"})
        assert export({"target": "edge-tpu"}, {"target": "edge-cpu"}, stages=made)[1] == []

    def test_floats_have_no_grid(self):
        others = [{"target": "edge-cpu", "precision": name} for name in ("float32", "float16")]
        assert export({"target": "edge-tpu"}, *others, stages=stages("cluster"))[1] == []


class TestMicro:
    @pytest.mark.skipif(find_spec("tflite_micro") is None, reason="tflite-micro is missing")
    def test_tables_are_for_micro(self):
        _, (one,) = export({"target": "edge-cpu", "compress": "lut"})
        assert one.where == "export[0].compress"
        assert one.found == "lut for target 'edge-cpu'"
        assert export({"target": "micro", "compress": "lut"})[1] == []

    def test_its_package_is_missing(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        _, (one,) = export({"target": "micro"})
        assert one.where == "export[0].target"
        assert one.found == "the package tflite_micro is not installed"
        assert "compresskit[micro]" in one.fix
