"""compresskit.engine: whole runs, from a recipe to files that keep what it promised."""

from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest

import compresskit as ck
from compresskit import catalog
from compresskit.errors import CompressKitError, RecipeError, TrainingError
from compresskit.evaluation import evaluate
from compresskit.method import Length
from compresskit.methods.prune import Pruning
from compresskit.recipe import Recipe
from compresskit.stages import Prune
from compresskit.target import Grid
from compresskit.tflite import timing
from compresskit.weights import weights_of
from tests.models import MODELS, SEQUENCE_MODELS, mlp
from tests.runs import (
    PRUNE,
    QUANTIZE,
    digits,
    names_in,
    one_stage,
    python,
    recipe,
    recipe_file,
    report_in,
    untrained,
)
from tests.training import FOLDED, calls, compiled, fit, inputs_of

SEQUENCES = ("lstm", "gru", "tiny_bert")
ALL = {**MODELS, **{name: SEQUENCE_MODELS[name] for name in SEQUENCES}}
# A file of each of the others is held against what was trained in test_methods_quantize.py,
# test_tflite_convert.py and test_tflite_match.py.
RUNS = [name for name in ALL if name not in ("conv1d", "transpose", "concat")]
FILES = ["edge-cpu-dynamic.tflite", "edge-cpu-int8.tflite"]
LEFT_BEHIND = [*FILES, "model.keras", "recipe.resolved.yaml", "report.html", "report.json"]
FLOATS = {"target": "edge-cpu", "precision": "float32"}

# What readers of report.json rely on.
KEYS = {
    "": "version recipe seed versions baseline stages artifacts promises",
    "baseline": "metrics parameters tflite_bytes latency_ms",
    "stages": "name type metrics sparsity seconds layers",
    "stages.layers": "path shape sparsity distinct skipped",
    "artifacts": "target precision path bytes gzip_bytes metrics parity ops latency_ms tensors",
    "artifacts.parity": "samples agreement max_abs_error",
    "artifacts.tensors": "name dtype shape sparsity distinct",
    "promises": "what expected measured kept",
}


def records(report, path):
    """All mappings of a report at a path of keys, those of lists one by one."""
    found = [report]
    for key in filter(None, path.split(".")):
        values = [each[key] for each in found]
        found = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return found


def is_plain(model):
    return not calls(model) and all(v.constraint is None for v in model.trainable_variables)


def short(**changes):
    return Recipe.from_dict(one_stage(**changes))


def broken(report):
    return [promise for promise in report["promises"] if not promise["kept"]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Gives the result and the folder of a model's run, made once."""
    made = {}

    def run(name):
        if name not in made:
            keras.utils.set_random_seed(0)
            folder = tmp_path_factory.mktemp(name)
            data = digits(name)
            stages = [{**PRUNE, "ignore": list(FOLDED.get(name, ()))}, QUANTIZE]
            result = ck.compress(untrained(name), recipe(stages=stages), data=data, out=folder)
            made[name] = (result, folder)
        return made[name]

    return run


class TestModels:
    """Pruning, quantization and two files, for each kind of model."""

    @pytest.mark.parametrize("name", RUNS)
    def test_every_promise_is_kept(self, runs, name):
        result, folder = runs(name)
        assert result.report.broken == ()
        assert names_in(folder) == LEFT_BEHIND
        assert sorted(path.name for path in result.artifacts) == FILES
        promised = {promise.what for promise in result.report.promises}
        pruned = [
            layer.path
            for layer, weight in zip(
                result.report.stages[0].layers, weights_of(result.model), strict=True
            )
            if layer.skipped is None and weight.path == layer.path
        ]
        assert pruned
        assert promised >= {f"sparsity of {path} in {file}" for path in pruned for file in FILES}

    @pytest.mark.parametrize("name", RUNS)
    def test_zeros_are_in_the_files(self, runs, name):
        result, _ = runs(name)
        reports = {path.name: ck.inspect(path) for path in result.artifacts}
        for made in result.report.artifacts:
            seen = reports[made.path]
            assert seen.bytes == made.bytes
            assert seen.sparsity == pytest.approx(made.sparsity)
            for layer in result.report.stages[0].layers:
                if layer.skipped is None:
                    assert layer.sparsity == pytest.approx(0.5, abs=0.01)
            size = sum(np.prod(weight.shape) for weight in seen.weights)
            pruned = sum(
                layer.sparsity * np.prod(layer.shape)
                for layer in result.report.stages[0].layers
                if layer.skipped is None
            )
            assert seen.sparsity * size >= pruned - 1e-6

    @pytest.mark.parametrize("name", RUNS)
    def test_three_agree(self, runs, name):
        """The model as trained, as detached, and its file."""
        _, folder = runs(name)
        report = report_in(folder)
        (detached,) = [p for p in report["promises"] if "detached" in p["what"]]
        assert detached["measured"] <= 1e-3
        integer, dynamic = sorted(report["artifacts"], key=lambda made: made["precision"] != "int8")
        # Errors of a step are carried on to the next.
        steps = 12 if name in SEQUENCE_MODELS else 4
        assert integer["parity"]["max_abs_error"] <= steps / 256
        assert integer["parity"]["mean_abs_error"] <= 1 / 256
        # Inside an unrolled GRU ranges come from calibration: training has not seen the rounding.
        assert integer["parity"]["agreement"] >= (0.95 if name == "gru" else 0.98)
        assert dynamic["parity"]["max_abs_error"] <= 0.1
        # What a file scores, it scores for anyone.
        data = digits(name)
        again = evaluate(folder / integer["path"], data)["accuracy"]
        assert again == pytest.approx(integer["metrics"]["accuracy"])
        assert again == pytest.approx(report["stages"][-1]["metrics"]["accuracy"], abs=0.05)

    @pytest.mark.parametrize("name", RUNS)
    def test_the_report_has_its_keys(self, runs, name):
        _, folder = runs(name)
        report = report_in(folder)
        for path, keys in KEYS.items():
            found = records(report, path)
            assert found
            for record in found:
                assert set(record) >= set(keys.split()), path
        assert report["version"] == 1
        assert report["versions"]["tensorflow"]
        assert "<html" in (folder / "report.html").read_text(encoding="utf-8")

    @pytest.mark.parametrize("name", RUNS)
    def test_the_model_is_plain(self, runs, name):
        result, folder = runs(name)
        assert is_plain(result.model)
        saved = keras.saving.load_model(folder / "model.keras")
        assert is_plain(saved)
        for one, other in zip(saved.get_weights(), result.model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_models_learn(self, runs):
        assert runs("mlp")[0].report.stages[-1].metrics["accuracy"] > 0.6

    def test_the_saved_model_needs_no_compresskit(self, runs):
        _, folder = runs("cnn_bn")
        said = python(
            "import sys; sys.modules['compresskit'] = None\n"
            "import keras, numpy\n"
            f"model = keras.saving.load_model({str(folder / 'model.keras')!r})\n"
            "model.compile('adam', 'sparse_categorical_crossentropy')\n"
            "x = numpy.zeros((4, 8, 8, 1), 'float32')\n"
            "model.fit(x, numpy.arange(4), verbose=0)\n"
            "print(model.predict(x, verbose=0).shape)\n"
        )
        assert said.splitlines()[-1] == "(4, 10)"

    def test_the_resolved_recipe_can_be_run_again(self, runs):
        _, folder = runs("mlp")
        assert Recipe.load(folder / "recipe.resolved.yaml") == recipe()

    def test_ranges_serve_further_exports(self, runs, tmp_path):
        result, _ = runs("mlp")
        assert result.ranges
        made = ck.export(
            result.model,
            target="edge-tpu",
            path=tmp_path / "m.tflite",
            representative_data=digits().x_train[:4],
            ranges=result.ranges,
        )
        assert made.float_ops == 0


class TestCriteria:
    """What every registered criterion must do; a new one inherits this."""

    @pytest.mark.parametrize("model", ALL)
    @pytest.mark.parametrize("criterion", catalog.criteria.names())
    def test_attach_one_step_detach(self, criterion, model):
        x = inputs_of(model, 16)
        made = compiled(ALL[model]())
        stage = Prune(method=criterion, sparsity=0.5, frequency="1st", end="1st")
        length = Length(epochs=1, steps_per_epoch=1)
        attached = Pruning(stage).attach(made, x[:2], Grid(), length)
        assert attached.touched
        fit(made, x, attached, epochs=1)
        attached.detach()
        assert is_plain(made)
        for weight in weights_of(made):
            values = weight.variable.numpy()
            assert np.isfinite(values).all()
            if weight.path in attached.touched:
                assert np.mean(values == 0) == pytest.approx(0.5, abs=1 / values.size)


class TestRun:
    def test_without_a_folder_nothing_is_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = ck.compress(mlp(), short(), data=digits())
        assert result.artifacts == ()
        assert result.report.artifacts[0].bytes > 0
        assert names_in(tmp_path) == []

    def test_the_given_model_is_the_one_that_is_changed(self):
        model = mlp()
        assert ck.compress(model, short(), data=digits()).model is model

    def test_model_and_data_of_the_recipe(self):
        report = ck.compress(None, short()).report
        assert report.model == "tests.runs:untrained"
        assert report.data == "few digits"

    def test_a_path(self, tmp_path):
        path = recipe_file(tmp_path, **one_stage())
        assert ck.compress(mlp(), path, data=digits()).report.recipe == "short"

    def test_forms_of_data(self):
        few = digits()
        pairs = ((few.x_train, few.y_train), (few.x_test, few.y_test))
        assert ck.compress(mlp(), short(), data=pairs).report.baseline.metrics

    def test_a_file_says_where_it_comes_from(self, tmp_path):
        exports = [
            {"target": "edge-cpu"},
            {"target": "edge-cpu", "name": "bare", "metadata": False},
        ]
        recipe = short(stages=[], export=exports)
        result = ck.compress(mlp(), recipe, data=digits(), out=tmp_path / "out", seed=3)
        carried, bare = (ck.inspect(path) for path in result.artifacts)
        first, second = result.report.artifacts
        assert carried.metadata["metrics"] == first.metrics
        assert carried.metadata["parity"]["agreement"] == first.parity.agreement
        assert carried.metadata["versions"] == result.report.versions
        assert (carried.metadata["recipe"], carried.metadata["seed"]) == (recipe.name, 3)
        assert ck.Recipe.loads(carried.recipe) == recipe
        assert carried.labels == digits().classes
        assert (bare.metadata, bare.recipe, bare.labels) == ({}, None, ())
        sizes = [path.stat().st_size for path in result.artifacts]
        assert sizes == [first.bytes, second.bytes]
        assert first.bytes > second.bytes
        assert (carried.gzip_bytes, bare.gzip_bytes) == (first.gzip_bytes, second.gzip_bytes)

    def test_export_alone(self):
        result = ck.compress(mlp(), short(stages=[]), data=digits())
        assert result.report.stages == ()
        assert len(result.report.artifacts) == 1

    def test_stages_alone(self, tmp_path):
        result = ck.compress(mlp(), short(export=[]), data=digits(), out=tmp_path / "x")
        assert result.artifacts == ()
        assert names_in(tmp_path / "x") == [n for n in LEFT_BEHIND if not n.endswith(".tflite")]

    def test_training_goes_on_in_a_second_run(self):
        model = mlp()
        for share in (0.3, 0.6):
            stage = {**PRUNE, "sparsity": share}
            report = ck.compress(model, short(stages=[stage]), data=digits()).report
            assert report.stages[0].sparsity == pytest.approx(share, abs=0.01)
        assert is_plain(model)

    def test_pruning_twice_and_quantizing_twice(self):
        stages = [
            PRUNE,
            {**PRUNE, "name": "more", "sparsity": 0.8},
            QUANTIZE,
            {**QUANTIZE, "name": "coarse", "weight_bits": 4},
        ]
        read = short(stages=stages, export=[{"target": "edge-cpu", "parity": {"min_agreement": 0}}])
        report = ck.compress(untrained(), read, data=digits()).report
        assert report.broken == ()
        assert report.artifacts[0].sparsity >= 0.79
        assert max(tensor.distinct for tensor in report.artifacts[0].tensors) <= 15 * 32

    def test_the_users_own_constraint_comes_back(self):
        model = mlp()
        kernel = model.get_layer("fc1").kernel
        kernel.constraint = own = keras.constraints.MaxNorm(1.0)
        ck.compress(model, short(), data=digits())
        assert kernel.constraint is own

    def test_seed(self):
        def run(seed):
            keras.utils.set_random_seed(99)  # what happened before does not matter
            return ck.compress(None, short(), seed=seed)

        one, same, other = (run(seed) for seed in (0, 0, 1))
        pairs = zip(one.model.get_weights(), same.model.get_weights(), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs)
        pairs = zip(one.model.get_weights(), other.model.get_weights(), strict=True)
        assert not all(np.array_equal(*pair) for pair in pairs)
        assert (one.report.seed, other.report.seed) == (0, 1)


class TestGate:
    # Nothing is better than nothing: a stage that zeroes nearly all weights loses much.
    RUIN = {**PRUNE, "sparsity": 0.99, "learning_rate": 1e-9}  # noqa: RUF012

    def settings(self, on_fail):
        ruin = {**self.RUIN, "gate": {"max_drop": 0.05, "on_fail": on_fail}}
        return recipe(stages=[ruin, QUANTIZE])

    def test_stop(self, tmp_path):
        out = tmp_path / "x"
        result = ck.compress(untrained(), self.settings("stop"), data=digits(), out=out)
        report = report_in(out)
        (one,) = broken(report)
        assert one["stage"] == "sparsify"
        assert one["what"] == "stage sparsify loses at most so much of accuracy"
        assert one["measured"] > one["expected"] == 0.05
        assert [stage["name"] for stage in report["stages"]] == ["sparsify"]
        assert report["artifacts"] == []
        assert result.artifacts == ()
        assert not list(out.glob("*.tflite"))
        assert is_plain(result.model)

    def test_rollback(self):
        result = ck.compress(untrained(), self.settings("rollback"), data=digits())
        sparsify, quantize = result.report.stages
        assert sparsify.rolled_back
        assert not quantize.rolled_back
        assert quantize.metrics["accuracy"] > result.report.baseline.metrics["accuracy"] - 0.05
        assert result.report.broken == ()
        assert all(np.mean(weight == 0) < 0.5 for weight in result.model.get_weights()[::2])

    def test_rollback_gives_the_weights_from_before(self):
        model = mlp()
        before = model.get_weights()
        stage = {**self.RUIN, "gate": {"max_drop": 0.0, "on_fail": "rollback"}}
        read = short(stages=[stage])
        data = digits()
        # Labels as the model answers, so that any loss is one.
        labels = np.asarray(model(data.x_test)).argmax(-1)
        ck.compress(model, read, data=((data.x_train, data.y_train), (data.x_test, labels)))
        for one, other in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_kept(self):
        read = short(stages=[{**PRUNE, "gate": {"max_drop": 1.0}}])
        report = ck.compress(mlp(), read, data=digits()).report
        (gate,) = [each for each in report.promises if each.what.startswith("stage")]
        assert gate.kept

    def test_an_export_that_costs_too_much(self, tmp_path):
        gated = {**FLOATS, "gate": {"max_drop": 0.05}}
        read = recipe(stages=[self.RUIN], export=[gated])
        result = ck.compress(untrained(), read, data=digits(), out=tmp_path / "x")
        (one,) = result.report.broken
        assert one.stage == "edge-cpu-float32.tflite"
        assert len(result.artifacts) == 1  # it is there to be looked at


class TestLatency:
    def test_the_baseline_and_all_files_are_timed_together(self, monkeypatch):
        timed = []

        def interleaved(runners, samples, **settings):
            timed.append(timing.interleaved(runners, samples, runs=2))
            return timed[-1]

        monkeypatch.setattr("compresskit.run.interleaved", interleaved)
        report = ck.compress(None, recipe(stages=[], baseline=None)).report
        (once,) = timed
        measured = [report.baseline.latency_ms, *(file.latency_ms for file in report.artifacts)]
        assert len(measured) == 3
        assert measured == [each.ms() for each in once]


class TestErrors:
    @pytest.mark.parametrize(
        "stage",
        [
            {**PRUNE, "learning_rate": 1e30, "epochs": 2},
            {**QUANTIZE, "learning_rate": 1e30, "epochs": 2},
            # One step: its loss is that of the weights before it.
            {**PRUNE, "learning_rate": 1e38, "batch_size": 256},
        ],
        ids=["prune", "qat", "last step"],
    )
    def test_a_training_that_fails(self, tmp_path, stage):
        out = tmp_path / "x"
        out.mkdir()
        (out / "report.json").write_text("old")
        model = mlp()
        with pytest.raises(TrainingError) as raised:
            ck.compress(
                model, short(stages=[PRUNE, {**stage, "name": "b"}]), data=digits(), out=out
            )
        assert raised.value.problems[0].where == "b"
        assert raised.value.exit_code == 1
        assert names_in(tmp_path) == ["x"]
        assert (out / "report.json").read_text() == "old"
        assert is_plain(model)

    def test_a_wrong_recipe_changes_nothing(self, tmp_path):
        model = mlp()
        before = model.get_weights()
        with pytest.raises(RecipeError):
            ck.compress(
                model,
                short(stages=[{**PRUNE, "targets": ["fc7"]}]),
                data=digits(),
                out=tmp_path / "x",
            )
        assert names_in(tmp_path) == []
        for one, other in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_file_in_place_of_the_folder(self, tmp_path):
        (tmp_path / "x").write_text("mine")
        with pytest.raises(CompressKitError) as raised:
            ck.compress(mlp(), short(), data=digits(), out=tmp_path / "x")
        assert "a file" in raised.value.problems[0].found
        assert (tmp_path / "x").read_text() == "mine"


def test_the_report_is_json_without_infinities(tmp_path):
    ck.compress(mlp(), short(), data=digits(), out=tmp_path)

    def walk(value):
        if isinstance(value, dict | list):
            for each in value.values() if isinstance(value, dict) else value:
                walk(each)
        assert not isinstance(value, float) or math.isfinite(value)

    walk(json.loads((tmp_path / "report.json").read_text()))
