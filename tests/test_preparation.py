"""compresskit.preparation: a recipe held against its model and data."""

from __future__ import annotations

import keras
import pytest

from compresskit.errors import DataError, ModelError, RecipeError
from compresskit.preparation import batch_size, check, prepare
from tests.models import CLASSES, MODELS, cnn, mlp
from tests.runs import PRUNE, QUANTIZE, digits, recipe


def problems(model=None, data=None, **changes):
    read = recipe(**changes)
    return prepare(read, model=model or mlp(), data=data or digits()).problems


def only(model=None, data=None, **changes):
    (one,) = problems(model, data, **changes)
    return one


class TestPrepare:
    @pytest.mark.parametrize("name", MODELS)
    def test_a_recipe_that_fits(self, name):
        made = check(recipe(), model=MODELS[name](), data=digits(name))
        assert made.problems == []
        assert made.steps == [8, 8]
        assert [len(each.taken) > 0 for each in made.selections] == [True, True]
        assert [each.file for each in made.exports] == [
            "edge-cpu-int8.tflite",
            "edge-cpu-dynamic.tflite",
        ]

    def test_what_the_recipe_names(self):
        made = prepare(recipe())
        assert made.model.name == "mlp"
        assert made.dataset.name == "few digits"

    def test_nothing_is_changed(self):
        model = mlp()
        before = model.get_config()
        prepare(recipe(), model=model, data=digits())
        assert model.get_config() == before
        assert all("call" not in layer.__dict__ for layer in model._flatten_layers())
        assert all(variable.constraint is None for variable in model.trainable_variables)

    def test_a_part_of_an_epoch_is_a_step(self):
        stages = [{**PRUNE, "batch_size": 100}, QUANTIZE]
        assert prepare(recipe(stages=stages), model=mlp(), data=digits()).steps == [3, 8]

    def test_batch_size(self):
        read = recipe(stages=[{**PRUNE, "batch_size": 100}, QUANTIZE])
        assert [batch_size(read, stage) for stage in read.stages] == [100, 32]


class TestErrors:
    def test_all_at_once_and_the_kind_of_the_first(self):
        read = recipe(
            model={"builder": "tests.runs:nowhere"},
            data="digit",
            export=[{"target": "edge-tpu", "precision": "float32"}],
        )
        with pytest.raises(DataError) as raised:
            check(read)
        wheres = [each.where for each in raised.value.problems]
        assert wheres == ["data", "model", "export[0].precision"]

    def test_kinds(self):
        with pytest.raises(RecipeError):
            check(recipe(stages=[{**PRUNE, "targets": ["fc7"]}]), model=mlp(), data=digits())
        with pytest.raises(ModelError):
            check(recipe(), model="lenet", data=digits())

    def test_a_pattern_that_matches_nothing(self):
        one = only(stages=[{**PRUNE, "targets": ["fc1", "logit"]}])
        assert one.where == "stages[0].targets[1]"
        assert one.fix == "did you mean 'logits'?"

    def test_nothing_left_for_a_stage(self):
        one = only(stages=[PRUNE, {**QUANTIZE, "ignore": ["type:Dense"]}])
        assert one.where == "stages[1]"
        assert one.found == "no weight of the model is left for this stage"

    @pytest.mark.parametrize(
        ("section", "changes"),
        [
            ("defaults", {"defaults": {"optimizer": "adm"}}),
            ("baseline", {"baseline": {"epochs": 1, "optimizer": "adm"}}),
            ("stages[1]", {"stages": [PRUNE, {**QUANTIZE, "optimizer": "adm"}]}),
        ],
    )
    def test_an_unknown_optimizer(self, section, changes):
        one = only(**changes)
        assert one.where == f"{section}.optimizer"
        assert one.found == "unknown optimizer 'adm'"
        assert "did you mean 'adam" in one.fix

    @pytest.mark.parametrize("name", ["adam", "Adam", "SGD", "rmsprop"])
    def test_optimizers_by_any_case(self, name):
        assert problems(defaults={"optimizer": name}) == []

    def test_an_unknown_loss(self):
        one = only(defaults={"loss": "mean_square_error"})
        assert one.where == "defaults.loss"
        assert one.fix == "did you mean 'mean_squared_error'?"
        assert "__" not in one.expected

    def test_what_is_no_optimizer_by_itself(self):
        one = only(defaults={"optimizer": "LossScaleOptimizer"})
        assert one.found == "unknown optimizer 'LossScaleOptimizer'"
        assert "lossscale" not in one.expected

    @pytest.mark.parametrize(
        ("begin", "end", "found"),
        [
            ("6st", "10%", "begin 6st is step 6, end 10% is step 1, and the stage has 8 steps"),
            ("0ep", "9st", "begin 0ep is step 0, end 9st is step 9, and the stage has 8 steps"),
            ("1ep", "100%", "begin 1ep is step 8, end 100% is step 8, and the stage has 8 steps"),
        ],
    )
    def test_times_that_do_not_fit(self, begin, end, found):
        one = only(stages=[{**PRUNE, "begin": begin, "end": end}])
        assert one.where == "stages[0].end"
        assert one.found == found

    @pytest.mark.parametrize("end", ["8st", "1ep", "100%"])
    def test_the_end_of_the_stage_is_in_it(self, end):
        assert problems(stages=[{**PRUNE, "end": end}]) == []


class TestFit:
    def test_samples_of_another_shape(self):
        one = only(cnn(), digits("conv1d"))
        assert one.where == "model"
        assert "the model refuses samples of shape (16, 4) of few digits" in one.found
        assert "\n" not in one.found

    def test_too_few_outputs(self):
        model = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
        )
        assert only(model).found == f"3 outputs for the {CLASSES} classes of few digits"

    def test_a_loss_that_does_not_take_the_labels(self):
        one = only(defaults={"loss": "categorical_crossentropy"})
        assert one.where == "defaults.loss"
        assert "outputs of shape (10,) and labels of shape ()" in one.found

    def test_a_metric_that_does_not_take_the_labels(self):
        one = only(evaluate={"metric": "mean_squared_error", "mode": "min"})
        assert one.where == "evaluate.metric"

    def test_a_single_output(self):
        model = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)]
        )
        defaults = {"loss": "binary_crossentropy"}
        assert problems(model, evaluate={"metric": "mean_squared_error"}, defaults=defaults) == []

    def test_more_outputs_than_classes(self):
        model = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(12)]
        )
        assert problems(model) == []
