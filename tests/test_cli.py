"""compresskit.cli: the commands, their words and their exit status."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import time

import keras
import numpy as np
import pytest
import yaml

import compresskit as ck
from compresskit import catalog
from compresskit.cli import main
from compresskit.data import load
from compresskit.errors import DataError
from compresskit.recipe import Recipe
from tests.models import SEQUENCE_MODELS, mlp
from tests.runs import (
    PRUNE,
    QUANTIZE,
    command,
    finished,
    names_in,
    one_stage,
    recipe_file,
    report_in,
    saved_weights,
    start,
)
from tests.test_inspection import written

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
FIVE_MISTAKES = """\
version: 1
name: five
model: lenet55
data: digits
stages:
  - {type: prune, sparsty: 0.5}
  - {type: prune, sparsity: 1.5}
  - {type: qat, epochs: two}
export:
  - {target: edge-gpu}
  - {target: edge-cpu, parity: {min_agreement: 2}}
"""


@pytest.fixture
def short(tmp_path):
    """The path of a recipe of one stage and one float file."""
    return recipe_file(tmp_path, **one_stage())


def problems(done):
    """The problems that a command reports, each as its four parts."""
    head, *lines = done.stderr.splitlines()
    count = int(re.fullmatch(r"(\d+) problems?:", head)[1])
    found = []
    for line in lines:
        if not line.startswith("    "):
            found.append({"where": line})
        else:
            key, _, text = line.strip().partition(":")
            found[-1][key] = text.strip()
    assert len(found) == count
    assert all(set(one) == {"where", "found", "expected", "to do"} for one in found)
    return found


def only(done, status=2):
    assert done.exit_code == status
    assert done.stdout == ""
    (one,) = problems(done)
    return one


class TestApply:
    def test_kept(self, short, tmp_path):
        out = tmp_path / "out"
        done = command("apply", short, "--out", out)
        assert done.exit_code == 0
        assert "edge-cpu-float32.tflite" in done.stdout
        assert "promises kept; see" in done.stdout
        assert "float32 baseline" in done.stdout
        assert not CONTROL.search(done.output)  # no bars, colours or cursor movements in a pipe
        assert done.stderr == ""
        assert report_in(out)["seed"] == 0

    def test_the_folder_is_named_by_the_recipe(self, short, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert command("apply", short).exit_code == 0
        assert "report.json" in names_in(tmp_path / "runs" / "short")

    def test_quiet(self, short, tmp_path):
        done = command("apply", short, "--out", tmp_path / "out", "--quiet")
        assert (done.exit_code, done.output) == (0, "")

    def test_set_is_recorded(self, short, tmp_path):
        out = tmp_path / "out"
        words = ["--set", "stages.sparsify.sparsity=0.7", "--set", "name=other"]
        done = command("apply", short, "--out", out, "--seed", 5, *words)
        assert done.exit_code == 0
        resolved = Recipe.load(out / "recipe.resolved.yaml")
        assert resolved.stages[0].sparsity.final == 0.7
        assert resolved.name == "other"
        report = report_in(out)
        assert report["seed"] == 5
        assert report["stages"][0]["sparsity"] == pytest.approx(0.7, abs=0.01)

    def test_a_broken_promise(self, tmp_path):
        changes = one_stage()
        changes["stages"] = [{**PRUNE, "sparsity": 0.99, "gate": {"max_drop": 0.0}}]
        changes["baseline"] = {"epochs": 3, "learning_rate": 0.01, "batch_size": 32}
        done = command("apply", recipe_file(tmp_path, **changes), "--out", tmp_path / "out")
        assert done.exit_code == 1
        assert "broken promises" in done.stderr
        assert "sparsify" in done.stderr
        assert report_in(tmp_path / "out")["artifacts"] == []

    def test_a_training_that_fails(self, tmp_path):
        changes = one_stage()
        changes["stages"] = [{**PRUNE, "learning_rate": 1e30, "epochs": 2}]
        path = recipe_file(tmp_path, **changes)
        out = tmp_path / "out"
        one = only(command("apply", path, "--out", out), status=1)
        assert one["where"] == "sparsify"
        assert one["to do"] == "try a learning_rate below 1e+30"
        assert names_in(tmp_path) == ["recipe.yaml"]

    def test_five_mistakes(self, tmp_path):
        path = tmp_path / "recipe.yaml"
        path.write_text(FIVE_MISTAKES)
        done = command("apply", path, "--out", tmp_path / "out")
        assert done.exit_code == 2
        found = problems(done)
        assert [one["where"].removeprefix(f"{path}:") for one in found] == [
            "6 stages[0].sparsty",
            "7 stages[1].sparsity",
            "8 stages[2].epochs",
            "10 export[0].target",
            "11 export[1].parity.min_agreement",
        ]
        assert found[0]["to do"] == "did you mean 'sparsity'?"
        assert found[3]["to do"].startswith("did you mean 'edge-")
        assert names_in(tmp_path) == ["recipe.yaml"]

    def test_mistakes_that_only_model_and_data_show(self, tmp_path):
        stages = [{**PRUNE, "targets": ["fc7"]}, {**QUANTIZE, "optimizer": "adm"}]
        path = recipe_file(tmp_path, stages=stages)
        done = command("apply", path, "--out", tmp_path / "out")
        assert done.exit_code == 2
        found = problems(done)
        assert {one["where"].partition(" ")[2] for one in found} == {
            "stages[0].targets[0]",
            "stages[1].optimizer",
        }
        assert all(re.match(rf"{re.escape(str(path))}:\d+ ", one["where"]) for one in found)
        assert names_in(tmp_path) == ["recipe.yaml"]

    def test_a_file_in_place_of_the_folder(self, short, tmp_path):
        done = command("apply", short, "--out", short)
        assert done.exit_code == 2
        assert "is a file" in done.stderr

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["--set", "stages.sparsfy.epochs=2"], "sparsfy"),
            (["--set", "stages.sparsify.epochs=0"], "stages.sparsify.epochs=0"),
            (["--set", "nonsense"], "nonsense"),
        ],
    )
    def test_a_wrong_set(self, short, words, text):
        one = only(command("apply", short, *words))
        assert "--set" in one["where"]
        assert text in one["where"]

    def test_a_missing_recipe(self):
        assert "No such file" in only(command("apply", "nowhere.yaml"))["found"]

    def test_a_negative_seed(self, short):
        assert command("apply", short, "--seed", "-1").exit_code == 2


class TestPlan:
    def test_table(self, short):
        done = command("plan", short)
        assert done.exit_code == 0
        assert "fc1/kernel" in done.stdout
        assert "worth on edge-cpu" in done.stdout
        assert not CONTROL.search(done.stdout)

    @pytest.mark.parametrize("words", [[], ["--no-import"]])
    def test_json(self, short, words):
        made = json.loads(command("plan", short, "--json", *words).stdout)
        assert made["imported"] == (not words)
        assert made["exports"][0]["file"] == "edge-cpu-float32.tflite"

    def test_no_import_says_so(self, short):
        assert "were not loaded" in command("plan", short, "--no-import").stdout

    def test_unknown_names(self, tmp_path):
        path = recipe_file(tmp_path, model="lenet55", data="digit")
        found = problems(command("plan", path))
        assert [one["found"] for one in found] == [
            "unknown dataset 'digit'",
            "unknown model 'lenet55'",
        ]
        assert [one["to do"] for one in found] == [
            "did you mean 'digits'?",
            "did you mean 'lenet5'?",
        ]

    def test_an_unknown_precision(self, tmp_path):
        path = recipe_file(tmp_path, export=[{"target": "edge-tpu", "precision": "float16"}])
        one = only(command("plan", path, "--no-import"))
        assert "export[0].precision" in one["where"]
        assert one["found"] == "precision 'float16' for target 'edge-tpu'"


class TestExport:
    @pytest.fixture
    def model(self, tmp_path):
        mlp().save(tmp_path / "m.keras")
        return tmp_path / "m.keras"

    def test_with_data(self, model, tmp_path):
        out = tmp_path / "new" / "m.tflite"
        words = ["--data", "digits", "--samples", 16, "--out", out]
        done = command("export", model, "--target", "edge-tpu", *words)
        assert done.exit_code == 0
        assert "INT8" in done.stdout
        assert names_in(out.parent) == ["m.tflite"]

    def test_json(self, model, tmp_path):
        words = ["--precision", "float16", "--out", tmp_path / "m.tflite", "--json"]
        made = json.loads(command("export", model, "--target", "edge-cpu", *words).stdout)
        assert made["bytes"] == (tmp_path / "m.tflite").stat().st_size

    def test_the_form_of_an_lstm(self, tmp_path):
        SEQUENCE_MODELS["lstm"]().save(tmp_path / "m.keras")
        words = ["--target", "edge-cpu", "--precision", "float32", "--out", tmp_path / "m.tflite"]
        made = command("export", tmp_path / "m.keras", *words, "--lstm", "while", "--json")
        ops = json.loads(made.stdout)["ops"]
        assert ops["WHILE"] == 1
        assert "UNIDIRECTIONAL_SEQUENCE_LSTM" not in ops

    def test_integers_without_data(self, model, tmp_path):
        out = tmp_path / "m.tflite"
        one = only(command("export", model, "--target", "edge-cpu", "--out", out))
        assert one["found"] == "no representative data for int8"
        assert "--data" in one["to do"]

    @pytest.mark.parametrize(
        ("words", "found"),
        [
            (["--target", "edge-gpu"], "unknown target 'edge-gpu'"),
            (["--target", "edge-cpu", "--precision", "int9"], "precision 'int9' for target"),
            (["--target", "edge-cpu", "--data", "digitz"], "unknown dataset 'digitz'"),
            (["--target", "edge-cpu", "--data", "nowhere.npz"], "nothing at"),
        ],
    )
    def test_unknown_names(self, model, tmp_path, words, found):
        done = command("export", model, *words, "--out", tmp_path / "m.tflite")
        assert only(done)["found"].startswith(found)

    def test_a_model_that_is_not_there(self, tmp_path):
        words = ["--target", "edge-cpu", "--out", tmp_path / "m.tflite"]
        assert "nothing at" in only(command("export", tmp_path / "no.keras", *words))["found"]


class TestInspectAndEvaluate:
    @pytest.fixture(params=["tflite", "keras"])
    def path(self, request, tmp_path):
        if request.param == "tflite":
            return written(tmp_path)
        mlp().save(tmp_path / "m.keras")
        return tmp_path / "m.keras"

    def test_inspect(self, path):
        done = command("inspect", path)
        assert done.exit_code == 0
        assert "(1, 10)" in done.stdout or "(-1, 10)" in done.stdout
        made = json.loads(command("inspect", path, "--json").stdout)
        assert made["weights"] == json.loads(json.dumps(ck.inspect(path).to_dict()))["weights"]

    def test_evaluate(self, path):
        done = command("evaluate", path, "--data", "tests.runs:digits")
        assert done.exit_code == 0
        assert "accuracy" in done.stdout
        words = ["--data", "digits", "--metric", "top_5_accuracy", "--json"]
        made = json.loads(command("evaluate", path, *words).stdout)
        assert made["samples"] == 360

    def test_samples_of_another_shape(self, path, tmp_path):
        x, y = np.zeros((3, 28, 28, 1), dtype=np.float32), np.arange(3)
        np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        one = only(command("evaluate", path, "--data", tmp_path / "d.npz"))
        assert "samples of shape (28, 28, 1)" in one["found"]

    def test_a_folder_of_pictures_that_is_none(self, path, tmp_path):
        (tmp_path / "pictures").mkdir()
        done = command("evaluate", path, "--data", tmp_path / "pictures")
        assert done.exit_code == 2
        assert [one["where"] for one in problems(done)] == ["--data", "--data"]

    @pytest.mark.parametrize("name", ["inspect", "evaluate"])
    def test_damaged(self, tmp_path, name):
        path = tmp_path / "m.tflite"
        path.write_bytes(b"\x1c\x00\x00\x00TFL3" + b"\x00" * 40)
        words = ["--data", "digits"] if name == "evaluate" else []
        only(command(name, path, *words))


class TestListSchemaInit:
    @pytest.mark.parametrize("kind", ["methods", "targets", "models", "datasets"])
    def test_list(self, kind):
        done = command("list", kind)
        for name in getattr(catalog, kind).names():
            assert f" {name} " in done.stdout
        rows = json.loads(command("list", kind, "--json").stdout)
        assert {row["name"] for row in rows} >= set(getattr(catalog, kind).names())
        assert all(set(row) == {"kind", "name", "summary"} for row in rows)

    def test_list_of_something_else(self):
        done = command("list", "gadgets")
        assert done.exit_code == 2
        assert "'methods', 'targets', 'models', 'datasets'" in done.stderr

    def test_schema(self):
        assert json.loads(command("schema").stdout) == Recipe.json_schema()

    def test_init_prints_a_recipe_that_plans(self, tmp_path):
        mlp().save(tmp_path / "m.keras")
        done = command("init", tmp_path / "m.keras")
        assert done.exit_code == 0
        (tmp_path / "r.yaml").write_text(done.stdout)
        assert command("plan", tmp_path / "r.yaml").exit_code == 0

    def test_init_does_not_replace(self, tmp_path):
        out = tmp_path / "new" / "r.yaml"
        done = command("init", "lenet5", "--out", out)
        assert (done.exit_code, done.stdout) == (0, "")
        assert f"compresskit plan {out}" in done.stderr
        out.write_text("mine")
        one = only(command("init", "lenet5", "--out", out))
        assert one["where"] == f"--out {out}"
        assert out.read_text() == "mine"

    def test_init_of_an_unknown_model(self):
        assert only(command("init", "lenet55"))["found"] == "unknown model 'lenet55'"


class TestCommandLine:
    def test_version(self):
        assert re.fullmatch(r"compresskit \d+\.\d+\.\d+\n", command("--version").stdout)

    def test_an_unknown_command(self):
        assert command("squeeze").exit_code == 2

    @pytest.mark.parametrize("name", sorted(main.commands))
    def test_help(self, name):
        text = command(name, "-h").stdout
        assert text.startswith("Usage:")
        assert main.commands[name].help.split(".")[0] in " ".join(text.split())


class TestUnsafeLoad:
    """A .keras file with Python code in it."""

    @pytest.fixture
    def model(self, tmp_path):
        layers = [keras.layers.Flatten(), keras.layers.Lambda(lambda x: x * 2.0)]
        model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(10)])
        model.save(tmp_path / "m.keras")
        return tmp_path / "m.keras"

    def commands(self, model, tmp_path):
        path = recipe_file(tmp_path, **{**one_stage(), "model": str(model)})
        return {
            "plan": ["plan", path],
            "apply": ["apply", path, "--out", tmp_path / "out"],
            "init": ["init", model],
            "evaluate": ["evaluate", model, "--data", "tests.runs:digits"],
            "export": [
                *("export", model, "--target", "edge-cpu", "--precision", "float32"),
                *("--out", tmp_path / "m.tflite"),
            ],
        }

    @pytest.mark.parametrize("name", ["plan", "apply", "init", "evaluate", "export"])
    def test_only_when_it_is_asked_for(self, model, tmp_path, name):
        words = self.commands(model, tmp_path)[name]
        one = only(command(*words))
        assert one["found"] == f"{model} holds Python code (a Lambda layer)"
        assert "--unsafe-load" in one["to do"]
        assert names_in(tmp_path) == ["m.keras", "recipe.yaml"]
        done = command(*words, "--unsafe-load")
        assert done.exit_code == 0, done.stderr

    def test_a_layer_that_is_not_registered(self, tmp_path):
        class Mine(keras.layers.Layer):
            def call(self, x):
                return x

        model = keras.Sequential([keras.Input((8, 8, 1)), Mine(), keras.layers.Flatten()])
        model.save(tmp_path / "m.keras")
        one = only(command("init", tmp_path / "m.keras"))
        assert "needs class 'Mine', which is not registered" in one["found"]


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def killed_within_a_stage(out, *words):
    """Has a command killed, by a signal that it does not hear, once the first stage is trained."""
    process = start(*words)
    deadline = time.monotonic() + 240
    while not (out / "checkpoints" / "1-sparsify" / "epoch-1.npz").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert finished(process)[0] == -signal.SIGKILL
    assert names_in(out) == ["checkpoints"]


@pytest.mark.slow
class TestProcesses:
    """What only shows when a command has a process of its own."""

    def test_a_seed_gives_the_same_bytes(self, tmp_path):
        """Also if the process is killed, and another one goes on."""
        path = recipe_file(tmp_path)
        seeds = {"one": 3, "same": 3, "other": 4}
        for name, seed in seeds.items():
            words = ["apply", path, "--seed", seed, "--out", tmp_path / name, "--quiet"]
            if name == "same":
                killed_within_a_stage(tmp_path / name, *words)
                # Nothing on standard output or error: --quiet holds for the libraries too.
                assert finished(start(*words, "--resume")) == (0, "", "")
            else:
                assert command(*words).exit_code == 0
        one, same, other = (digests(tmp_path / name) for name in seeds)
        for file in ("edge-cpu-int8.tflite", "edge-cpu-dynamic.tflite"):
            assert one[file] == same[file] != other[file]
        weights = [saved_weights(tmp_path / name / "model.keras") for name in seeds]
        for first, second in zip(weights[0], weights[1], strict=True):
            np.testing.assert_array_equal(first, second)
        assert not all(map(np.array_equal, weights[0], weights[2]))

    def test_tutorial(self, tmp_path, monkeypatch):
        """A script that knows nothing but Keras, then two commands."""
        try:
            load("fashion-mnist")
        except DataError as error:
            pytest.skip(f"{error.problems[0].found}: {error.problems[0].fix}")
        monkeypatch.chdir(tmp_path)
        exec(TUTORIAL, {"__name__": "__main__"})
        recipe = tmp_path / "r.yaml"
        made = command("init", "m.keras", "--out", recipe)
        assert (made.exit_code, made.stdout) == (0, "")
        written_recipe = yaml.safe_load(recipe.read_text())
        assert (written_recipe["model"], written_recipe["data"]) == ("m.keras", "fashion-mnist")
        assert len(ck.plan(recipe).stages) == 2  # unchanged, with all 60,000 pictures
        (tmp_path / "few.py").write_text(FEW)
        words = ["--set", "stages.sparsify.epochs=1", "--set", "stages.quantize.epochs=1"]
        words += ["--set", "data={builder: few:data}", "--set", "stages.sparsify.frequency=2st"]
        done = command("apply", recipe, *words)
        # Ten steps may cost more accuracy than the recipe allows.
        assert done.exit_code in (0, 1), done.stderr
        report = report_in(tmp_path / "runs" / "m")
        assert {each["stage"] for each in report["promises"] if not each["kept"]} <= {
            "edge-cpu-int8.tflite",
            "edge-cpu-dynamic.tflite",
        }
        for made in report["artifacts"]:
            assert made["sparsity"] > 0.79
        assert report["stages"][0]["sparsity"] == pytest.approx(0.8, abs=0.001)


TUTORIAL = """\
import keras
from keras.layers import Conv2D, Dense, Flatten, MaxPooling2D
model = keras.Sequential([keras.Input((28, 28, 1)), Conv2D(32, 3, activation="relu"),
    MaxPooling2D(), Conv2D(64, 3, activation="relu"), MaxPooling2D(),
    Conv2D(64, 3, activation="relu"), Flatten(), Dense(64, activation="relu"), Dense(10)])
model.save("m.keras")
"""
FEW = """\
from compresskit.data import load

def data():
    return load("fashion-mnist").limit(1280, 100)
"""
