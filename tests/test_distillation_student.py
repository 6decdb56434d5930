"""compresskit.distillation.student: students that begin as a part of their teacher."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from compresskit.distillation.student import cut, inherit, project_embedding
from compresskit.errors import ModelError
from compresskit.models.bert import bert_classifier
from compresskit.models.lstm import lstm_classifier
from tests.models import mlp, subclassed


def bert(blocks=4):
    return bert_classifier(
        (9,), 5, vocabulary=30, blocks=blocks, width=8, heads=2, feed_forward=16, dropout=0.0
    )


def lstm(count=3, **changes):
    return lstm_classifier((12, 6), 10, units=6, layers=count, **changes)


TOKENS = np.random.default_rng(5).integers(0, 30, (7, 9)).astype(np.int32)
SIGNALS = np.random.default_rng(5).normal(size=(7, 12, 6)).astype(np.float32)


class TestBlocks:
    def test_all_of_them_answer_as_the_teacher(self):
        teacher = bert()
        np.testing.assert_allclose(cut(teacher, range(4))(TOKENS), teacher(TOKENS), atol=1e-6)

    @pytest.mark.parametrize("chosen", [(0,), (0, 3), (1, 2), (3,)])
    def test_some(self, chosen):
        teacher = bert()
        student = cut(teacher, chosen)
        # The same encoder, built with fewer blocks, and given the weights by hand.
        expected = bert(len(chosen))
        for layer in expected.layers:
            name = layer.name
            for new, old in enumerate(chosen, start=1):
                name = name.replace(f"block{new}_", f"block@{old + 1}_")
            layer.set_weights(teacher.get_layer(name.replace("@", "")).get_weights())
        np.testing.assert_allclose(student(TOKENS), expected(TOKENS), atol=1e-6)
        assert student.count_params() == expected.count_params()
        assert {layer.name.split("_")[0] for layer in student.layers if "block" in layer.name} == {
            f"block{index + 1}" for index in chosen
        }

    def test_it_is_a_model_like_any_other(self, tmp_path):
        student = cut(bert(), [0, 2])
        student.save(tmp_path / "student.keras")
        again = keras.saving.load_model(tmp_path / "student.keras")
        np.testing.assert_allclose(again(TOKENS), student(TOKENS), atol=1e-6)

    def test_the_teacher_stays_as_it_is(self):
        teacher = bert()
        before = np.asarray(teacher(TOKENS))
        student = cut(teacher, [1])
        for variable in student.variables:
            variable.assign(variable * 0)
        np.testing.assert_array_equal(teacher(TOKENS), before)

    def test_fewer_tokens(self):
        teacher = bert()
        kept = np.array([0, 1, 4, 9, 20])
        student = cut(teacher, range(4), tokens=kept)
        assert student.get_layer("token_embedding").embeddings.shape == (5, 8)
        few = TOKENS % 5
        np.testing.assert_allclose(student(few), teacher(kept[few]), atol=1e-6)

    def test_what_the_teacher_learned_later(self):
        teacher = bert()
        student = cut(teacher, [0, 1, 2, 3])
        for variable in teacher.variables:
            variable.assign(variable + 0.1)
        inherit(student, teacher)
        np.testing.assert_allclose(student(TOKENS), teacher(TOKENS), atol=1e-6)


class TestEmbedding:
    def narrow(self, tokens=30, width=4):
        return bert_classifier(
            (9,), 5, vocabulary=tokens, blocks=1, width=width, heads=2, feed_forward=8
        )

    def test_the_axes_that_tell_rows_apart(self):
        teacher, student = bert(), self.narrow()
        # Four axes hold nearly all there is.
        basis = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
        scales = np.array([1.0, 2.0, 3.0, 4.0, 1e-4, 1e-4, 1e-4, 1e-4])
        table = (np.random.default_rng(2).normal(size=(30, 8)) * scales) @ basis + 5.0
        teacher.get_layer("token_embedding").embeddings.assign(table)
        made = project_embedding(student, teacher)
        np.testing.assert_array_equal(student.get_layer("token_embedding").embeddings, made)

        def distances(rows):
            return np.linalg.norm(rows[:, None] - rows[None], axis=-1)

        ratio = distances(made)[0, 1] / distances(table)[0, 1]
        np.testing.assert_allclose(distances(made), ratio * distances(table), rtol=1e-3)
        assert made.std() == pytest.approx(table.std(), rel=1e-3)

    def test_fewer_tokens(self):
        teacher, kept = bert(), np.arange(0, 30, 3)
        student = self.narrow(tokens=10, width=8)
        made = project_embedding(student, teacher, kept)
        rows = teacher.get_layer("token_embedding").embeddings.numpy()[kept]
        # All axes stay: nothing but a rotation.
        centred = rows - rows.mean(axis=0)
        made = made * (centred.std() / made.std())
        np.testing.assert_allclose(made @ made.T, centred @ centred.T, atol=1e-5)

    @pytest.mark.parametrize(
        ("student", "found"),
        [
            ({"tokens": 31}, "31 tokens of width 4; of the teacher 30 of 8"),
            ({"width": 10}, "10; of"),
        ],
    )
    def test_what_does_not_fit(self, student, found):
        with pytest.raises(ModelError) as caught:
            project_embedding(self.narrow(**student), bert())
        assert found in caught.value.problems[0].found


class TestRecurrent:
    @pytest.mark.parametrize("changes", [{}, {"bidirectional": True}, {"dropout": 0.1}])
    def test_the_last_that_stays_gives_what_the_last_gave(self, changes):
        teacher = lstm(**changes)
        student = cut(teacher, [0])
        expected = lstm(1, **changes)
        for layer in expected.layers[1:]:
            if layer.get_weights():
                layer.set_weights(teacher.get_layer(layer.name).get_weights())
        np.testing.assert_allclose(student(SIGNALS), expected(SIGNALS), atol=1e-6)

    def test_sequential(self):
        given = [
            keras.Input((12, 6)),
            layers.GRU(6, return_sequences=True, name="first"),
            layers.GRU(6, name="second"),
            layers.Dense(3, name="logits"),
        ]
        teacher = keras.Sequential(given)
        student = cut(teacher, [1])
        expected = teacher.get_layer("logits")(teacher.get_layer("second")(SIGNALS))
        np.testing.assert_allclose(student(SIGNALS), expected, atol=1e-6)


class TestErrors:
    @pytest.mark.parametrize(
        ("make", "chosen", "found", "fix"),
        [
            (
                bert,
                [0, 4],
                "blocks 0, 4 of bert, which has 4 (block1, block2, block3, block4)",
                "cho",
            ),
            (lstm, [5], "blocks 5 of lstm, which has 3 (lstm1, lstm2, lstm3)", "choose among them"),
            (mlp, [0], "blocks 0 of mlp, which has 0", "write a builder"),
            (subclassed, [0], "a subclassed model", "write a builder"),
        ],
    )
    def test_words(self, make, chosen, found, fix):
        with pytest.raises(ModelError) as caught:
            cut(make(), chosen, where="recipe.yaml:7 stages[0].student")
        (problem,) = caught.value.problems
        assert problem.where == "recipe.yaml:7 stages[0].student"
        assert found in problem.found
        assert fix in problem.fix

    def test_a_layer_that_is_given_something_else(self):
        teacher = lstm_classifier((12, 4), 10, units=6, layers=2)
        with pytest.raises(ModelError) as caught:
            cut(teacher, [1])
        (problem,) = caught.value.problems
        assert "blocks 1 of lstm" in problem.found
        assert problem.fix == "choose others, for example the first ones"
