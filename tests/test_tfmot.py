"""compresskit.tfmot: the same recipes by TFMOT, and how the native engine compares."""

from __future__ import annotations

import json
import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from compresskit.catalog import models
from compresskit.child import Child
from compresskit.engine import compress
from compresskit.errors import ModelError, RecipeError
from compresskit.granularity import NM, Block, Unstructured
from compresskit.methods.codebooks import codebook
from compresskit.methods.masks import masks
from compresskit.methods.schedules import Schedule
from compresskit.planning import plan
from compresskit.recipe import Recipe
from compresskit.tfmot import limits, session
from compresskit.tfmot.layers import read_weights
from compresskit.tfmot.loading import keras_version, load, with_engine
from tests.runs import command, digits, names_in, recipe, recipe_file, settings, untrained
from tests.tfmot import ask, child, needs_tfmot

SMALL = {"builder": "tests.tfmot_child:small"}
PCQAT = [
    {"type": "prune", "sparsity": 0.5, "frequency": "2st"},
    {"type": "cluster", "clusters": 8, "targets": ["type:Dense"]},
    {"type": "qat"},
]
FILES = [{"target": "edge-cpu", "precision": "int8", "parity": {"min_agreement": 0.95}}]


def problems_of(error=RecipeError, **changes):
    with pytest.raises(error) as raised:
        plan(recipe(engine="tfmot", **changes), imports=False)
    return raised.value.problems


class TestPlan:
    """What TFMOT cannot do is said before anything is trained."""

    def test_all_at_once(self):
        found = problems_of(
            stages=[
                {"type": "shrink", "amount": 0.5},
                {"type": "ptq", "algorithms": ["gptq"]},
                {
                    "type": "cluster",
                    "clusters": 4,
                    "granularity": "channel",
                    "assignment": "fixed",
                },
                {"type": "qat", "weight_bits": 4, "optimizer": "muon"},
                {"type": "distill", "teacher": "baseline"},
            ],
        )
        said = [problem.found for problem in found if "engine: native" in problem.fix]
        assert said == [
            "a stage of type shrink",
            "a stage of type ptq",
            "clusters by channel",
            "fixed assignments",
            "4 bits",
            "the optimizer 'muon'",
            "a stage after qat (distill)",
            "a stage of type distill",
        ]

    @pytest.mark.parametrize(
        ("model", "stage", "layer"),
        [
            ("lstm", {"type": "qat"}, "LSTM"),
            ("conv1d", {"type": "qat"}, "Conv1D"),
            ("conv1d", {"type": "prune", "granularity": "2:4"}, "Conv1D"),
            ("cnn", {"type": "prune", "granularity": "block(1x4)", "sparsity": 0.5}, "Conv2D"),
        ],
    )
    def test_layers_are_named(self, model, stage, layer):
        found = layer_problems(model, stage)
        assert any(layer in problem.found for problem in found)
        assert all("compresskit migrate" in problem.fix for problem in found)

    def test_a_model_that_branches(self):
        found = layer_problems("cnn_bn", {"type": "qat"}, ModelError)
        assert "do not simply follow each other" in found[0].found

    def test_a_package_that_is_missing(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        made = recipe(engine="tfmot", stages=PCQAT, export=[])
        found = limits.recipe_problems(made, ".".join)
        assert [problem.found for problem in found] == [
            "the package tensorflow_model_optimization is not installed",
            "the package tf_keras is not installed",
        ]
        assert "pip install 'compresskit[tfmot]'" in found[0].fix

    def test_an_old_file_without_the_engine(self, tmp_path):
        (tmp_path / "m.h5").write_bytes(b"")
        with pytest.raises(ModelError, match="engine: tfmot"):
            plan(recipe(model=str(tmp_path / "m.h5")))


def layer_problems(model, stage, error=RecipeError):
    """The problems of a live model of `tests.models`."""
    with pytest.raises(error) as raised:
        plan(
            recipe(engine="tfmot", stages=[stage], export=[]),
            model=untrained(model),
            data=digits(model),
        )
    return raised.value.problems


@needs_tfmot
class TestLimits:
    def test_the_lists_are_those_of_its_registries(self):
        listed = ask(do="supports")
        own = {"prune": limits.PRUNED, "cluster": limits.CLUSTERED}
        for technique, names in own.items():
            both = {name for name in listed[technique] if hasattr(keras.layers, name)}
            assert names == both, technique
        # The input is not wrapped, and BatchNormalization goes with its convolution.
        listed_too = limits.QUANTIZED - {"InputLayer", "BatchNormalization"}
        both = {name for name in listed["qat"] if hasattr(keras.layers, name)}
        assert listed_too == both


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A model of tf_keras, pruned, clustered, quantized; its result and folder."""
    child()
    out = tmp_path_factory.mktemp("run")
    made = recipe(engine="tfmot", model=SMALL, stages=PCQAT, export=FILES)
    return compress(None, made, out=out), out


@needs_tfmot
class TestRun:
    def test_promises_are_kept(self, done):
        result, _ = done
        assert not result.report.broken
        said = [promise.what for promise in result.report.promises]
        assert "distinct values of fc/kernel in edge-cpu-int8.tflite" in said
        assert "sparsity of conv/kernel in edge-cpu-int8.tflite" in said
        assert "no op of edge-cpu-int8.tflite computes in float" in said

    def test_it_is_finished(self, done):
        with pytest.raises(RecipeError, match="a run that is finished"):
            compress(None, recipe(engine="tfmot", model=SMALL, stages=PCQAT, export=FILES),
                     out=done[1], resume=True)  # fmt: skip

    def test_it_learns(self, done):
        report = done[0].report
        assert report.baseline.metrics["accuracy"] > 0.5
        assert report.artifacts[0].metrics["accuracy"] > 0.5

    def test_the_stages_are_in_the_weights(self, done):
        prune, cluster, qat = done[0].report.stages
        assert prune.sparsity == pytest.approx(0.5, abs=0.01)
        assert {layer.path: layer.distinct for layer in cluster.layers}["fc/kernel"] <= 8
        assert set(qat.history) == {"loss", "accuracy"}

    def test_the_report_has_the_same_keys(self, done, tmp_path):
        _, out = done
        compress(None, recipe(stages=PCQAT[:1], export=FILES), out=tmp_path)
        ours, theirs = (
            json.loads((folder / "report.json").read_text()) for folder in (tmp_path, out)
        )
        assert keys(ours) == keys(theirs)
        assert {"tf_keras", "tensorflow-model-optimization"} <= set(theirs["versions"])
        assert names_in(out) == names_in(tmp_path)

    def test_the_model_is_one_of_keras_3(self, done):
        result, out = done
        loaded = keras.saving.load_model(out / "model.keras")
        assert np.mean(loaded.get_layer("fc").kernel.numpy() == 0) >= 0.5
        assert isinstance(result.model, keras.Model)


def test_a_crash_is_an_error_with_its_last_words(monkeypatch):
    monkeypatch.setattr(session, "_child", Child("tests.nothing", "TFMOT's process"))
    _, made = load(untrained(), where="m", base=None, safe_mode=True, dataset=None)
    with pytest.raises(ModelError, match=r"TFMOT's process died \(exit status 1\): .*nothing"):
        _ = made.loaded


def keys(value):
    """The keys of a report; those of metrics and weights are names."""
    if isinstance(value, list):
        return keys(value[0]) if value else None
    if not isinstance(value, dict):
        return None
    named = ("metrics", "ops", "versions", "history", "compiled", "units")
    return {
        key: None if key in named or part is None else keys(part) for key, part in value.items()
    }


@needs_tfmot
class TestSameStart:
    @pytest.mark.parametrize("name", ["lenet300", "lenet5"])
    def test_the_registered_models(self, name):
        child()
        keras.utils.set_random_seed(5)
        model, made = load(name, where="model", base=None, safe_mode=True, dataset=None)
        x = np.random.default_rng(0).random((4, 28, 28, 1), np.float32)
        (theirs,) = made.answers(model, [x])
        np.testing.assert_allclose(theirs, model(x), atol=1e-6)
        keras.utils.set_random_seed(5)
        again = models.get(name)()
        for ours, other in zip(again.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, other)
        assert set(read_weights(model)) == set(made.loaded[1])


SETTINGS = [
    (Unstructured(), [1, 1], None),
    (Block(rows=2, columns=4), [4, 2], None),
    (NM(n=2, m=4), [1, 1], [2, 4]),
]


@needs_tfmot
class TestEqualToTFMOT:
    """On equal weights and an equal schedule."""

    @pytest.mark.parametrize(("pattern", "block", "zeros"), SETTINGS)
    def test_masks_at_every_update(self, pattern, block, zeros, tmp_path):
        random = np.random.default_rng(0)
        weights = {"dense": random.standard_normal((40, 24)).astype(np.float32)}
        if not isinstance(pattern, Block):
            weights["conv"] = random.standard_normal((3, 3, 8, 12)).astype(np.float32)
        np.savez(file := tmp_path / "weights.npz", **weights)
        schedule = Schedule(initial=0.2, final=0.85, begin=2, end=20, frequency=3)
        ask(
            do="masks",
            file=str(file),
            out=str(tmp_path / "masks.npz"),
            settings={
                "block": block,
                "zeros_of": zeros,
                "steps": 24,
                "schedule": {
                    "initial_sparsity": schedule.initial,
                    "final_sparsity": schedule.final,
                    # It counts from one.
                    "begin_step": schedule.begin + 1,
                    "end_step": schedule.end + 1,
                    "frequency": schedule.frequency,
                },
            },
        )
        updated = set()
        with np.load(tmp_path / "masks.npz") as found:
            for key in found.files:
                name, step = key.split("|")
                theirs, now = found[key], int(step) - 1
                if (theirs < 0).any():
                    continue  # no update fell due
                updated.add(now)
                values = weights[name]
                matrix = np.moveaxis(values, -1, 0).reshape(values.shape[-1], -1)
                (ours,) = masks(
                    [np.abs(matrix)], pattern, schedule.sparsity(now), [values.shape[-2]]
                )
                np.testing.assert_array_equal(
                    ours, np.moveaxis(theirs, -1, 0).reshape(matrix.shape) > 0, err_msg=key
                )
        # N:M masks are made once by TFMOT, as training begins.
        assert updated == ({0} if zeros else {2, 5, 8, 11, 14, 17, 20})

    @pytest.mark.parametrize("count", [4, 16])
    @pytest.mark.parametrize("init", ["LINEAR", "DENSITY_BASED"])
    def test_first_centroids(self, init, count, tmp_path):
        values = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
        np.savez(file := tmp_path / "values.npz", values=values)
        theirs = np.sort(ask(do="centroids", file=str(file), init=init, count=count))
        ours = codebook(values, count, {"LINEAR": "linear"}.get(init, "density"))
        # By density TFMOT takes the next of 30 points of a grid; we take the value itself.
        step = 0.0 if init == "LINEAR" else (np.ptp(values) + 0.02) / 29
        assert np.all(theirs - ours >= -1e-5)
        assert np.all(theirs - ours <= step + 1e-5)


@needs_tfmot
def test_tf_keras_of_the_process_stays_keras_3(done, tmp_path):
    """After a run, a plan and a migration."""
    plan(recipe(engine="tfmot", model=SMALL, stages=PCQAT, export=FILES))
    ask(do="old", name="small.h5", folder=str(tmp_path))
    done_too = command("migrate", tmp_path / "small.h5", tmp_path / "new.keras")
    assert done_too.exit_code == 0
    assert tf.keras.__version__.startswith("3")
    assert tf.keras.Model is keras.Model
    assert not {"tf_keras", "tensorflow_model_optimization"} & set(sys.modules)
    assert "TF_USE_LEGACY_KERAS" not in os.environ


class TestChosen:
    """Without `engine` in the recipe the model decides."""

    @needs_tfmot
    @pytest.mark.parametrize("name", ["small.h5", "mixed.keras", "tokens"])
    def test_by_its_file(self, name, tmp_path):
        ask(do="old", name=name, folder=str(tmp_path))
        made = recipe(model=str(tmp_path / name))
        assert with_engine(made, None, None).engine == "tfmot"
        assert with_engine(recipe(engine="native", model=made.model), None, None).engine == "native"

    @needs_tfmot
    def test_a_finished_run_is_known_by_it(self, tmp_path):
        ask(do="old", name="small.h5", folder=str(tmp_path))
        path, out = recipe_file(tmp_path, model=str(tmp_path / "small.h5")), tmp_path / "out"
        out.mkdir()
        (out / "report.json").write_text('{"seed": 0}', encoding="utf-8")
        resolved = with_engine(Recipe.load(path), None, None).dump()
        (out / "recipe.resolved.yaml").write_text(resolved, encoding="utf-8")
        done = command("apply", path, "--out", out, "--resume")
        assert done.exit_code == 0
        assert done.stderr == f"{out}: the run is finished; there is nothing left to do\n"

    @needs_tfmot
    def test_a_plan_goes_by_it(self, tmp_path):
        ask(do="old", name="small.h5", folder=str(tmp_path))
        stages = [{"type": "shrink", "amount": 0.5}]
        with pytest.raises(RecipeError, match="engine: native") as raised:
            plan(recipe(model=str(tmp_path / "small.h5"), stages=stages))
        assert [each.found for each in raised.value.problems] == ["a stage of type shrink"]

    def test_by_a_live_model(self):
        model = type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})()
        assert with_engine(recipe(), model, None).engine == "tfmot"

    def test_what_is_not_of_keras_2(self, tmp_path):
        (tmp_path / "damaged.h5").write_bytes(b"")
        (tmp_path / "folder").mkdir()
        untrained().save(tmp_path / "new.keras")
        for name in ("damaged.h5", "folder", "new.keras", "none.h5"):
            made = recipe(model=str(tmp_path / name))
            assert with_engine(made, None, None) is made
        assert with_engine(recipe(), untrained(), None).engine == "native"


def test_version_of_a_file(tmp_path):
    (tmp_path / "damaged.keras").write_bytes(b"no zip")
    assert keras_version(tmp_path / "damaged.keras") == 3


def test_recipe_says_the_engine():
    assert Recipe.loads(recipe(engine="tfmot").dump()).engine == "tfmot"
    assert recipe().engine == "native"


def test_command_tells_it(tmp_path):
    path = tmp_path / "recipe.yaml"
    made = settings(engine="tfmot", stages=[{"type": "qat", "weight_bits": 4}])
    path.write_text(yaml.safe_dump(made), encoding="utf-8")
    told = command("plan", path, "--no-import")
    assert told.exit_code == 2
    assert "4 bits" in told.stderr
