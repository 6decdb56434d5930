"""compresskit.distillation.distiller and feed: one pass of the student, a teacher remembered."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compresskit.attention import attentions
from compresskit.distillation.distiller import SAMPLES, SHOWN, Comparison, Distiller
from compresskit.distillation.feed import Feed, remember
from compresskit.distillation.losses import FeatureLoss, LogitsLoss
from compresskit.distillation.taps import ATTENTION, OUTPUT
from compresskit.errors import TrainingError
from tests.models import CLASSES, cnn, mlp, nested, subclassed, tiny_bert
from tests.training import inputs_of, labels

X, Y = inputs_of("cnn"), labels()
ANSWERS = ["probabilities"]


def logits():
    return Comparison(LogitsLoss(2.0, ANSWERS, ANSWERS), 1.0)


def compiled(distiller, **settings):
    distiller.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=[], **settings)
    return distiller


def loss_of(distiller, x=X, y=Y, **given):
    inputs = {SAMPLES: keras.ops.convert_to_tensor(x), **given.pop("inputs", {})}
    answers = distiller(inputs, training=False)
    return float(distiller.compute_loss(inputs, keras.ops.convert_to_tensor(y), answers, **given))


class TestLoss:
    @pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
    def test_the_labels_have_the_rest(self, alpha):
        teacher, student = cnn(), mlp()
        made = compiled(Distiller(teacher, student, [logits()], alpha=alpha))
        answers = student(X)
        labelled = keras.losses.sparse_categorical_crossentropy(Y, answers).numpy().mean()
        compared = LogitsLoss(2.0, ANSWERS, ANSWERS).compute_loss([teacher(X)], [answers])
        expected = (1 - alpha) * labelled + alpha * float(compared)
        assert loss_of(made) == pytest.approx(expected, rel=1e-4)

    def test_samples_without_a_label(self):
        made = compiled(Distiller(cnn(), mlp(), [logits()], alpha=0.0))
        weights = np.r_[np.ones(10), np.zeros(54)].astype(np.float32)
        other = np.where(weights, Y, 0)
        some = loss_of(made, y=other, sample_weight=keras.ops.convert_to_tensor(weights))
        assert some == pytest.approx(loss_of(made, X[:10], Y[:10]), rel=1e-5)

    def test_the_students_regularization_counts(self):
        inputs = keras.Input((8, 8, 1))
        outputs = layers.Dense(
            CLASSES, activation="softmax", kernel_regularizer=keras.regularizers.L2(0.1)
        )(layers.Flatten()(inputs))
        student = keras.Model(inputs, outputs)
        made = compiled(Distiller(cnn(), student, [logits()], alpha=0.0))
        plain = keras.losses.sparse_categorical_crossentropy(Y, student(X)).numpy().mean()
        penalty = 0.1 * float(np.square(student.layers[-1].kernel.numpy()).sum())
        assert loss_of(made) == pytest.approx(plain + penalty, rel=1e-4)

    @pytest.mark.parametrize("make", [cnn, nested, subclassed])
    def test_features_of_any_model(self, make):
        teacher, student = make(), make()
        place = (OUTPUT, "conv1")
        made = compiled(
            Distiller(
                teacher, student, [Comparison(FeatureLoss("mse"), 3.0, place, place)], alpha=1.0
            )
        )
        layer = next(each for each in teacher._flatten_layers() if each.name == "conv1")
        twin = next(each for each in student._flatten_layers() if each.name == "conv1")
        expected = 3.0 * np.square(layer(X) - twin(X)).mean()
        assert loss_of(made) == pytest.approx(float(expected), rel=1e-4)


class TestTraining:
    def test_only_the_student_and_its_projections_learn(self):
        teacher, student = cnn(), mlp()
        before = [value.copy() for value in teacher.get_weights()]
        projection = layers.Dense(16, use_bias=False)
        projection.build((None, 32))
        terms = [
            logits(),
            Comparison(FeatureLoss("mse"), 1.0, (OUTPUT, "logits"), (OUTPUT, "logits")),
        ]
        made = compiled(Distiller(teacher, student, terms, alpha=0.5))
        assert len(made.trainable_variables) == len(student.trainable_variables)
        made.fit(Feed(X, Y, shown=None, batch_size=16, seed=0), epochs=1, verbose=0)
        for value, old in zip(teacher.get_weights(), before, strict=True):
            np.testing.assert_array_equal(value, old)
        terms = [
            Comparison(FeatureLoss("mse", projection), 1.0, (OUTPUT, "logits"), (OUTPUT, "fc1"))
        ]
        again = Distiller(teacher, student, terms, alpha=0.5)
        assert len(again.trainable_variables) == len(student.trainable_variables) + 1

    def test_the_student_runs_once_a_step(self):
        teacher, student = cnn(), cnn()
        calls = []
        conv = student.get_layer("conv1")
        original = conv.call
        conv.call = lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
        terms = [Comparison(FeatureLoss("mse"), 1.0, (OUTPUT, "conv1"), (OUTPUT, "conv1"))]
        made = compiled(Distiller(teacher, student, terms, alpha=0.5), run_eagerly=True)
        made.fit(Feed(X, Y, shown=None, batch_size=64, seed=0), epochs=1, verbose=0)
        # Once to find out the shapes, once to train.
        assert len(calls) <= 2

    def test_who_was_frozen_still_is(self):
        teacher = cnn()
        teacher.get_layer("conv1").trainable = False
        Distiller(teacher, mlp(), [logits()], alpha=0.5).close()
        assert [layer.name for layer in teacher.layers if not layer.trainable] == ["conv1"]
        assert len(teacher.trainable_variables) == 4
        assert teacher.trainable


class TestRemember:
    @pytest.mark.parametrize("name", ["cnn", "tiny_bert"])
    def test_what_is_remembered_is_what_would_be_said(self, name, tmp_path):
        make = {"cnn": cnn, "tiny_bert": tiny_bert}[name]
        teacher, student = make(), make()
        places = [(OUTPUT, "logits")]
        places += [(ATTENTION, layer.name) for layer in attentions(teacher)]
        terms = [Comparison(FeatureLoss("mse"), 1.0, place, place) for place in places]
        x = inputs_of(name)
        made = compiled(
            Distiller(teacher, student, [logits(), *terms], alpha=1.0, padding=name != "cnn")
        )
        done = []
        shown = remember(made, x, tmp_path, "teach", lambda **given: done.append(given["done"]))
        assert done[-1] == len(x)
        assert all(isinstance(each, np.memmap) and len(each) == len(x) for each in shown.values())
        live = loss_of(made, x)
        rows = {key: tf.constant(np.asarray(each)) for key, each in shown.items()}
        assert loss_of(made, x, inputs={SHOWN: rows}) == pytest.approx(live, rel=1e-3)
        made.close()

    def test_other_ids(self, tmp_path):
        teacher, student = tiny_bert(), tiny_bert()
        ids = np.random.default_rng(0).permutation(20)
        made = Distiller(teacher, student, [logits()], alpha=1.0, ids=ids)
        x = inputs_of("tiny_bert", 8)
        shown = remember(made, x, tmp_path, "teach", lambda **given: None)
        np.testing.assert_allclose(shown["answer0"], teacher(ids[x]), atol=1e-6)

    def test_no_room(self, tmp_path, monkeypatch):
        usage = type("Usage", (), {"free": 10})
        monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
        made = Distiller(cnn(), mlp(), [logits()], alpha=1.0)
        with pytest.raises(TrainingError) as caught:
            remember(made, X, tmp_path, "teach", lambda **given: None)
        assert "`cache: false`" in str(caught.value)
        assert list(tmp_path.iterdir()) == []


class TestFeed:
    def rows(self, feed):
        return np.concatenate([feed[index][0][SAMPLES] for index in range(len(feed))])

    def test_each_sample_once_an_epoch_in_a_new_order(self):
        x = np.arange(50, dtype=np.float32).reshape(-1, 1)
        feed = Feed(x, np.arange(50), shown=None, batch_size=16, seed=1)
        assert len(feed) == 4
        first = self.rows(feed)
        feed.on_epoch_end()
        second = self.rows(feed)
        assert sorted(first.ravel()) == sorted(second.ravel()) == list(range(50))
        assert (first != second).any()
        again = Feed(x, np.arange(50), shown=None, batch_size=16, seed=1)
        np.testing.assert_array_equal(self.rows(again), first)

    def test_samples_labels_and_the_teacher_belong_together(self):
        x = np.arange(30, dtype=np.float32).reshape(-1, 1)
        feed = Feed(x, np.arange(30) * 2, shown={"a": x * 3}, batch_size=8, seed=0)
        for index in range(len(feed)):
            inputs, y = feed[index]
            np.testing.assert_array_equal(inputs[SAMPLES][:, 0] * 2, y)
            np.testing.assert_array_equal(inputs[SAMPLES] * 3, inputs[SHOWN]["a"])

    def test_without_labels(self):
        x = np.arange(30, dtype=np.float32).reshape(-1, 1)
        feed = Feed(x, np.arange(20) + 1, shown=None, batch_size=8, seed=0)
        for index in range(len(feed)):
            inputs, y, weights = feed[index]
            labelled = inputs[SAMPLES][:, 0] < 20
            np.testing.assert_array_equal(weights, labelled)
            np.testing.assert_array_equal(y[labelled], inputs[SAMPLES][labelled, 0] + 1)

    def test_several_inputs_and_outputs(self):
        x = {"a": np.arange(10), "b": np.arange(10) * 2}
        y = {"c": np.arange(10) * 3, "d": np.arange(10) * 4}
        inputs, labelled = Feed(x, y, shown=None, batch_size=4, seed=0)[0]
        rows = inputs[SAMPLES]["a"]
        np.testing.assert_array_equal(inputs[SAMPLES]["b"], rows * 2)
        np.testing.assert_array_equal(labelled["c"], rows * 3)
        np.testing.assert_array_equal(labelled["d"], rows * 4)
