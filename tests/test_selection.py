"""compresskit.selection: which weights a stage takes."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from compresskit.selection import Skipped, select
from tests.models import cnn, depthwise, nested

WHERE = "recipe.yaml:3 stages[0]"


def anything(weight, named):
    return None


def chosen(model, targets=(), ignore=(), unfit=anything):
    return select(model, targets, ignore, where=WHERE, unfit=unfit)


def taken(*args, **kwargs):
    selection = chosen(*args, **kwargs)
    assert selection.problems == ()
    return [weight.path for weight in selection.taken]


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "paths"),
        [
            ("type:Conv2D", ["conv1/kernel", "conv2/kernel"]),
            ("type:Dense", ["logits/kernel"]),
            ("type:BaseConv", ["conv1/kernel", "conv2/kernel"]),
            ("re:conv.*", ["conv1/kernel", "conv2/kernel"]),
            ("re:conv[2-9]", ["conv2/kernel"]),
            ("re:.*/kernel", ["conv1/kernel", "conv2/kernel", "logits/kernel"]),
            ("logits", ["logits/kernel"]),
            ("conv1/kernel", ["conv1/kernel"]),
        ],
    )
    def test_match(self, pattern, paths):
        assert taken(cnn(), [pattern]) == paths

    def test_no_targets_take_all(self):
        assert taken(cnn()) == ["conv1/kernel", "conv2/kernel", "logits/kernel"]

    def test_several_add_up(self):
        assert taken(cnn(), ["logits", "conv1"]) == ["conv1/kernel", "logits/kernel"]

    def test_a_regular_expression_matches_the_whole_name(self):
        assert chosen(cnn(), ["re:onv"]).problems

    def test_a_user_s_subclass_is_its_base(self):
        class MyDense(layers.Dense):
            pass

        inputs = keras.Input((4,))
        model = keras.Model(inputs, MyDense(2, name="fc")(inputs))
        assert taken(model, ["type:Dense"]) == taken(model, ["type:MyDense"]) == ["fc/kernel"]

    def test_the_name_of_a_model_inside_takes_what_it_holds(self):
        assert taken(nested(), ["features"]) == ["features/conv1/kernel"]

    def test_one_weight_of_two_by_its_path(self):
        assert taken(depthwise(), ["separable/pointwise_kernel"]) == ["separable/pointwise_kernel"]


class TestIgnore:
    def test_wins_over_targets(self):
        selection = chosen(cnn(), ["type:Conv2D"], ["conv1"])
        assert [weight.path for weight in selection.taken] == ["conv2/kernel"]
        assert selection.skipped == (
            Skipped(path="conv1/kernel", reason="named in ignore"),
            Skipped(path="logits/kernel", reason="not among the targets"),
        )

    def test_alone_leaves_the_others(self):
        assert taken(cnn(), (), ["logits"]) == ["conv1/kernel", "conv2/kernel"]


class TestUnfit:
    def test_its_reason_is_told(self):
        def unfit(weight, named):
            return "too small" if weight.layer.name == "conv1" else None

        selection = chosen(cnn(), unfit=unfit)
        assert selection.skipped == (Skipped(path="conv1/kernel", reason="too small"),)

    def test_it_is_told_what_the_user_named(self):
        def unfit(weight, named):
            return None if named else "must be named"

        assert taken(cnn(), ["conv1"], unfit=unfit) == ["conv1/kernel"]
        assert [weight.path for weight in chosen(cnn(), unfit=unfit).taken] == []


class TestProblems:
    def test_a_pattern_that_matches_nothing(self):
        (problem,) = chosen(cnn(), ["conv3"]).problems
        assert problem.where == f"{WHERE}.targets[0]"
        assert problem.found == "the pattern 'conv3' matches no weight of the model"
        assert problem.expected == "a layer's name or path, `type:ClassName`, or `re:expression`"
        assert problem.fix in ("did you mean 'conv1'?", "did you mean 'conv2'?")

    def test_a_type_that_is_misspelt(self):
        (problem,) = chosen(cnn(), ["type:Conv2d"]).problems
        assert problem.fix == "did you mean 'type:Conv2D'?"

    def test_nothing_near(self):
        (problem,) = chosen(cnn(), ["zzzzzz"]).problems
        assert problem.fix == "use one of: conv1, conv2, logits"

    def test_all_at_once_with_their_places(self):
        problems = chosen(cnn(), ["conv1", "nope"], ["neither"]).problems
        assert [problem.where for problem in problems] == [
            f"{WHERE}.targets[1]",
            f"{WHERE}.ignore[0]",
        ]

    def test_a_layer_without_weights_is_not_matched(self):
        assert "pool1" in chosen(cnn(), ["pool1"]).problems[0].found

    def test_nothing_left(self):
        selection = chosen(cnn(), ["conv1"], ["re:conv.*"])
        (problem,) = selection.problems
        assert problem.where == WHERE
        assert problem.found == "no weight of the model is left for this stage"
        assert problem.fix == "widen targets, shorten ignore, or remove the stage"
        assert selection.taken == ()

    def test_a_model_without_weights(self):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, layers.ReLU()(inputs))
        (problem,) = chosen(model, ["fc"]).problems
        assert problem.fix == "the model has no weights to compress"
