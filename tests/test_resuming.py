"""compresskit.resuming: a run that was interrupted ends with the weights of one that was not."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import compresskit as ck
from compresskit.errors import CompressKitError, RecipeError, TrainingError
from compresskit.recipe import Recipe
from tests.models import mlp
from tests.runs import PRUNE, QUANTIZE, command, digits, names_in, one_stage, recipe_file, report_in

# Each kind of stage that leaves another model or another loss behind, and one that is undone.
STAGES = [
    {"type": "distill", "student": {"builder": "tests.test_resuming:small"}, "epochs": 2},
    {"type": "shrink", "amount": 0.25, "frequency": "3st"},
    {"type": "prune", "sparsity": 0.98, "gate": {"max_drop": 0, "on_fail": "rollback"}},
    {"type": "cluster", "clusters": 8, "learning_rate_schedule": "cosine"},
    {"type": "qat", "distill": {"teacher": "previous"}, "epochs": 2},
]
WHOLE = {
    "version": 1,
    "name": "whole",
    "model": {"builder": "tests.test_resuming:large"},
    "data": {"builder": "tests.runs:digits"},
    "baseline": {"epochs": 3, "learning_rate": 0.01, "batch_size": 32},
    "defaults": {"learning_rate": 0.003, "batch_size": 32},
    "stages": STAGES,
}
# Where a run is killed, resumed, and killed again: before or after a file gets its name.
MOMENTS = [
    ("1-distill/epoch-2.npz", "before"),
    ("5-qat/epoch-1.npz", "after"),
]


def small(units=12):
    """What is learned and drawn in it: averages of a normalization, seeds of dropout."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(momentum=0.5, name="norm")(x)
    x = layers.Flatten(name="flatten")(layers.ReLU(name="relu")(x))
    x = layers.Dropout(0.2, name="dropout")(layers.Dense(units, name="dense")(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="logits")(x), name="m")


def large():
    return small(32)


class Killed(BaseException):
    """Nothing catches it, and nothing is written after it."""


@contextmanager
def killed_at(name, when="after"):
    """So far as files are concerned, the process ends as one gets its name."""
    original = os.replace

    def replaces(source, target):
        mine = str(target).endswith(name)
        if mine and when == "before":
            raise Killed
        original(source, target)
        if mine:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replaces)
        with pytest.raises(Killed):
            yield


def same(report):
    """A report without what is measured by a clock."""
    text = json.dumps(report)
    return json.loads(
        text,
        object_hook=lambda each: {
            key: value for key, value in each.items() if key not in ("seconds", "latency_ms")
        },
    )


@pytest.mark.slow
def test_killed_again_and_again(tmp_path):
    recipe = Recipe.from_dict(WHOLE)
    expected = ck.compress(None, recipe, out=tmp_path / "whole", seed=3)
    out = tmp_path / "out"
    for index, (name, when) in enumerate(MOMENTS):
        with killed_at(name, when):
            ck.compress(None, recipe, out=out, seed=3, resume=index > 0)
        assert not (out / "report.json").exists()
    result = ck.compress(None, recipe, out=out, seed=3, resume=True)
    for mine, theirs in zip(result.model.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert result.ranges == expected.ranges
    report = report_in(out)
    assert same(report) == same(report_in(tmp_path / "whole"))
    assert [stage["rolled_back"] for stage in report["stages"]] == [
        False,
        False,
        True,
        False,
        False,
    ]
    # The states go when the run has ended well.
    assert names_in(out) == names_in(tmp_path / "whole")
    assert "checkpoints" not in names_in(out)


@pytest.mark.parametrize("epoch", [2, 3])
def test_early_stopping_counts_the_epochs_from_before(tmp_path, epoch):
    """It stops after the third epoch, also if the run was killed before, or right then."""
    stopping = {"patience": 2, "min_delta": 100.0}
    stages = [{**QUANTIZE, "epochs": 6, "early_stopping": stopping}]
    changes = {"stages": stages, "model": {"builder": "tests.runs:untrained"}}
    path = recipe_file(tmp_path, **{**one_stage(), **changes})
    assert command("apply", path, "--out", tmp_path / "whole").exit_code == 0
    with killed_at(f"1-quantize/epoch-{epoch}.npz"):
        command("apply", path, "--out", tmp_path / "out")
    assert command("apply", path, "--out", tmp_path / "out", "--resume").exit_code == 0
    report = report_in(tmp_path / "out")
    assert len(report["stages"][0]["history"]["loss"]) == 3
    assert same(report) == same(report_in(tmp_path / "whole"))


def interrupted(folder, *, at="2-quantize/epoch-1.npz", **changes):
    """The path of a recipe of two stages, and a folder where it was killed."""
    quantize = {**QUANTIZE, "epochs": 2}
    every = {"stages": [PRUNE, quantize], "model": {"builder": "tests.runs:untrained"}, **changes}
    path = recipe_file(folder, **{**one_stage(), **every})
    with killed_at(at):
        command("apply", path, "--out", folder / "out")
    return path, folder / "out"


def contents(folder: Path):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(out, *words):
    """The problems of a command that may touch nothing."""
    before = contents(out)
    done = command(*words, "--out", out, "--resume")
    assert done.exit_code == 2
    assert contents(out) == before
    return done.stderr


class TestCommand:
    def test_goes_on_and_is_done(self, tmp_path):
        path, out = interrupted(tmp_path)
        assert names_in(out) == ["checkpoints"]
        done = command("apply", path, "--out", out, "--resume")
        assert done.exit_code == 0, done.stderr
        assert done.stderr.splitlines() == [
            "sparsify: is trained",
            "quantize: goes on after epoch 1 of 2",
        ]
        assert "promises kept" in done.stdout
        before = contents(out)
        done = command("apply", path, "--out", out, "--resume")
        assert (done.exit_code, done.stdout) == (0, "")
        assert done.stderr == f"{out}: the run is finished; there is nothing left to do\n"
        text = refused(out, "apply", path, "--seed", 1)
        assert "found:    a finished run of another recipe or seed" in text
        with pytest.raises(RecipeError) as caught:
            ck.compress(None, Recipe.load(path), out=out, resume=True)
        assert caught.value.problems[0].found == "a run that is finished"
        assert contents(out) == before

    def test_what_differs(self, tmp_path):
        path, out = interrupted(tmp_path)
        words = [
            *("--seed", 2),
            *("--set", "stages.sparsify.sparsity=0.6"),
            *("--set", "evaluate={metric: accuracy, mode: min}"),
            *("--set", "data=digits"),
            *("--set", "model={builder: tests.runs:untrained, args: {model: cnn}}"),
            *("--set", "export=[{target: edge-tpu}]"),
        ]
        text = refused(out, "apply", path, *words)
        assert text.startswith("6 problems:")
        assert "seed\n    found:    2\n    expected: 0, as in the interrupted run" in text
        assert "sparsify.sparsity=0.6" in text
        assert "final 0.6" in text
        assert "or run without resume, which begins anew" in text
        record = out / "checkpoints" / "run.json"
        old = json.loads(record.read_text())
        old["versions"]["keras"] = "3.0.0"
        record.write_text(json.dumps(old))
        assert "keras 3.0.0, as in the interrupted run" in refused(out, "apply", path)
        record.write_text("{")
        assert "a file that is damaged" in refused(out, "apply", path)

    def test_what_is_not_trained_yet_may_differ(self, tmp_path):
        path, out = interrupted(tmp_path)
        words = ["--set", "stages.quantize.learning_rate=0.001"]
        done = command("apply", path, "--out", out, "--resume", *words)
        assert done.exit_code == 0
        assert done.stderr.splitlines() == ["sparsify: is trained"]
        again = tmp_path / "again"
        assert command("apply", path, "--out", again, *words).exit_code == 0
        for mine, theirs in zip(weights(out), weights(again), strict=True):
            np.testing.assert_array_equal(mine, theirs)

    def test_nothing_to_resume(self, tmp_path):
        path = recipe_file(tmp_path, **one_stage())
        text = refused(tmp_path / "out", "apply", path)
        assert "found:    no interrupted run" in text
        assert names_in(tmp_path) == ["recipe.yaml"]

    def test_killed_between_the_files(self, tmp_path):
        path, out = interrupted(tmp_path, at="out/model.keras")
        assert "report.json" not in names_in(out)
        assert command("apply", path, "--out", out, "--resume", "--quiet").output == ""
        assert {"model.keras", "edge-cpu-float32.tflite", "report.json"} < {*names_in(out)}
        assert "checkpoints" not in names_in(out)

    def test_begun_anew(self, tmp_path):
        path, out = interrupted(tmp_path, at="1-sparsify/epoch-1.npz")
        done = command("apply", path, "--out", out, "--set", "stages.sparsify.sparsity=0.7")
        assert done.exit_code == 0
        assert "an interrupted run is there, and --resume goes on with it" in done.stderr
        assert report_in(out)["stages"][0]["sparsity"] == pytest.approx(0.7, abs=0.01)
        assert "checkpoints" not in names_in(out)


def weights(out):
    return keras.saving.load_model(out / "model.keras").get_weights()


class TestPython:
    def test_a_stage_that_fails(self, tmp_path):
        """What was trained before is kept, and the stage may be mended."""
        wild = {**QUANTIZE, "learning_rate": 1e30, "epochs": 2}
        recipe = Recipe.from_dict(one_stage(stages=[PRUNE, wild]))
        with pytest.raises(TrainingError) as caught:
            ck.compress(None, recipe, out=tmp_path / "out")
        assert caught.value.problems[0].fix == (
            "try a learning_rate below 1e+30; what was trained before is kept: `--resume`, or "
            "resume=True, goes on with it"
        )
        mended = Recipe.from_dict(one_stage(stages=[PRUNE, QUANTIZE]))
        assert ck.compress(None, mended, out=tmp_path / "out", resume=True).report.broken == ()

    @pytest.mark.parametrize(
        ("changes", "found"),
        [({"out": None}, "no `out`"), ({"engine": "tfmot"}, "`engine: tfmot`, which trains in a")],
    )
    def test_what_cannot_be_resumed(self, tmp_path, changes, found):
        recipe = Recipe.from_dict(one_stage(engine=changes.get("engine", "native")))
        with pytest.raises(RecipeError) as caught:
            ck.compress(None, recipe, out=changes.get("out", tmp_path), resume=True)
        assert caught.value.problems[0].found.startswith(found)

    def test_another_model_or_other_data(self, tmp_path):
        recipe = Recipe.from_dict(one_stage(model="given", stages=[PRUNE, QUANTIZE]))
        data = digits()

        def go(model, data, **how):
            keras.utils.set_random_seed(0)
            return ck.compress(model(), recipe, data=data, out=tmp_path / "out", **how)

        def other():
            made = mlp()
            made.get_layer("logits").activation = keras.activations.sigmoid
            return made

        with killed_at("1-sparsify/epoch-1.npz"):
            go(mlp, data)
        x = data.x_test.copy()
        x[0, 0, 0, 0] += 1e-6
        for words in ((other, data), (mlp, replace(data, x_test=x))):
            with pytest.raises(CompressKitError) as caught:
                go(*words, resume=True)
            (problem,) = caught.value.problems
            assert problem.where == ("model" if words[0] is other else "data")
        # A layer that Keras names otherwise in the same process is no other model.
        assert go(mlp, data, resume=True).report.broken == ()
