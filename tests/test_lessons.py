"""compresskit.lessons: who teaches whom, found and checked before anything is trained."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from compresskit.data import Dataset
from compresskit.errors import DataError, ModelError, RecipeError
from compresskit.preparation import check, prepare
from compresskit.tokenize import from_texts
from tests.models import VOCABULARY, cnn, gru, lstm, mlp, tiny_bert
from tests.runs import PRUNE, QUANTIZE, digits, recipe

DISTILL = {"type": "distill", "student": {"builder": "tests.models:mlp"}}
EMPTY = {"type": "distill"}


def prepared(*stages, model=None, data=None):
    return check(recipe(stages=list(stages)), model=model or cnn(), data=data or digits())


def problem(*stages, model=None, data=None, error=RecipeError):
    made = prepare(recipe(stages=list(stages)), model=model or cnn(), data=data or digits())
    assert made.error is error
    (one,) = made.problems
    return one


def words(model):
    """Texts of the words that a model of the tests has ids for."""
    names = [f"w{index}" for index in range(VOCABULARY - 2)]
    tokenizer = from_texts([" ".join(names)])
    train = tokenizer.encode([" ".join(names[index : index + 5]) for index in range(6)], 12)
    return Dataset(
        name="words", x_train=train, y_train=np.arange(6), x_test=train, y_test=np.arange(6),
        classes=tuple("abcdefghij"), tokenizer=tokenizer,
    )  # fmt: skip


class TestFind:
    def test_no_teacher_no_lesson(self):
        assert prepared(PRUNE, QUANTIZE).lessons == [None, None]

    def test_stages_after_a_student_are_about_it(self):
        made = prepared(DISTILL, PRUNE, QUANTIZE)
        assert made.lessons[0].student.name == "mlp"
        assert made.model.name == "cnn"
        assert [[w.path for w in each.taken] for each in made.selections] == [
            [],
            ["fc1/kernel", "logits/kernel"],
            ["fc1/kernel", "logits/kernel"],
        ]

    def test_an_attribute(self):
        made = prepared({**PRUNE, "distill": {"temperature": 4}})
        assert made.lessons[0].student is None
        assert made.lessons[0].learning.temperature == 4
        assert made.lessons[0].samples == 256

    def test_a_teacher_of_its_own(self, tmp_path):
        cnn().save(tmp_path / "t.keras")
        made = prepared({**PRUNE, "distill": {"teacher": str(tmp_path / "t.keras")}}, model=mlp())
        assert made.lessons[0].teacher.name == "cnn"

    def test_transfer_samples_are_steps(self, tmp_path):
        np.savez(tmp_path / "more.npz", x=np.zeros((64, 8, 8, 1)))
        more = {"transfer": {"npz": str(tmp_path / "more.npz")}}
        made = prepared({**DISTILL, **more}, {**PRUNE, "distill": more}, QUANTIZE)
        assert made.steps == [10, 10, 8]
        assert [lesson.samples for lesson in made.lessons[:2]] == [320, 320]

    @pytest.mark.parametrize("make", [lstm, gru])
    def test_layers_of_the_teacher(self, make):
        stage = {"type": "distill", "student": {"from": "teacher", "layers": [0]}}
        made = prepared(stage, PRUNE, model=make(), data=digits(make.__name__))
        assert made.lessons[0].inherits
        assert made.lessons[0].student.count_params() <= make().count_params()

    def test_a_smaller_vocabulary_for_all_that_follows(self):
        cut = {"student": {"from": "teacher", "layers": [0]}, "vocabulary": "data"}
        stages = [{"type": "distill", **cut}, {**PRUNE, "distill": {}}]
        stages.append({**QUANTIZE, "distill": {"teacher": "previous"}})
        data = words(tiny_bert())
        first, second, third = prepared(*stages, model=tiny_bert(), data=data).lessons
        kept = first.ids
        np.testing.assert_array_equal(kept[first.dataset.x_train], data.x_train)
        assert len(kept) < VOCABULARY
        assert first.student.get_layer("token_embedding").input_dim == len(kept)
        # The baseline knows the first ids, the previous model those of now.
        np.testing.assert_array_equal(second.ids, kept)
        assert second.dataset is first.dataset
        assert third.ids is None


class TestErrors:
    def test_layers_that_are_not_there(self):
        losses = [
            {"type": "features", "layers": {"fc2": "conv1"}},
            {"type": "attention", "layers": {"fc1": "conv1"}},
        ]
        made = prepare(recipe(stages=[{**DISTILL, "losses": losses}]), model=cnn(), data=digits())
        assert made.error is RecipeError
        assert [(one.where, one.found) for one in made.problems] == [
            ("stages[0].losses[0].layers", "'fc2'"),
            ("stages[0].losses[1].layers", "'fc1'"),
            ("stages[0].losses[1].layers", "'conv1'"),
        ]
        assert made.problems[0].fix == "did you mean 'fc1'?"
        assert made.problems[1].fix == "the model has none: remove this loss"

    def test_layers_that_cannot_be_compared(self):
        one = problem({**DISTILL, "losses": [{"type": "features", "layers": {"fc1": "conv1"}}]})
        assert one.where == "stages[0].losses[0].layers.fc1"
        assert one.found == "shape (32,) beside (8, 8, 8) of the teacher"
        assert one.expected == "one shape but for the last axis, the width"

    def test_in_the_attribute(self):
        losses = [{"type": "features", "layers": {"conv9": "conv1"}}]
        one = problem({**PRUNE, "distill": {"losses": losses}})
        assert one.where == "stages[0].distill.losses[0].layers"

    @pytest.mark.parametrize(
        ("teacher", "found", "fix"),
        [
            ("lenet5", "'lenet5', a registered model, whose weights are random", "train it"),
            ("basline", "unknown teacher 'basline'", "did you mean 'baseline'?"),
        ],
    )
    def test_who_cannot_teach(self, teacher, found, fix):
        one = problem({**PRUNE, "distill": {"teacher": teacher}})
        assert (one.where, one.found) == ("stages[0].distill.teacher", found)
        assert fix in one.fix

    def test_another_task(self, tmp_path):
        keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)],
                         name="three").save(tmp_path / "t.keras")  # fmt: skip
        one = problem({**PRUNE, "distill": {"teacher": str(tmp_path / "t.keras")}})
        assert one.where == "stages[0].distill.teacher"
        assert one.found == "three answers in shape [(3,)], cnn in [(10,)]"

    def test_no_such_student_and_nothing_said_of_later_stages(self):
        stage = {"type": "distill", "student": "missing.keras"}
        later = {**PRUNE, "targets": ["of_the_student"]}
        one = problem(stage, later, error=ModelError)
        assert one.where == "stages[0].student"

    def test_nor_after_a_student_that_was_found(self):
        later = {"type": "distill", "name": "again", "student": "missing.keras"}
        one = problem(DISTILL, later, {**PRUNE, "targets": ["of_it"]}, error=ModelError)
        assert one.where == "stages[1].student"

    def test_no_such_blocks(self):
        one = problem(
            {"type": "distill", "student": {"from": "teacher", "layers": [7]}},
            model=lstm(), data=digits("lstm"), error=ModelError,
        )  # fmt: skip
        assert (one.where, "blocks 7 of lstm" in one.found) == ("stages[0].student", True)

    def test_no_such_transfer(self):
        one = problem({**EMPTY, "transfer": {"texts": "none.txt"}}, error=DataError)
        assert one.where == "stages[0].transfer"

    def test_a_smaller_vocabulary_without_a_student(self):
        one = problem({**EMPTY, "vocabulary": "data"}, error=ModelError)
        assert one.where == "stages[0].vocabulary"
        assert "add `student:" in one.fix

    def test_an_embedding_of_a_model_that_has_none(self):
        one = problem({**DISTILL, "embedding": "teacher"}, error=ModelError)
        assert one.where == "stages[0].embedding"
        assert one.found == "0 layers of mlp that look up its tokens"
