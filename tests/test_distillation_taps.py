"""compresskit.distillation.taps: what a model shows inside."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from compresskit.attention import attentions
from compresskit.distillation.taps import ATTENTION, OUTPUT, Taps, UnknownLayer
from tests.models import MODELS, cnn, nested, subclassed, tiny_bert
from tests.training import inputs_of


def untouched(model):
    return all("call" not in vars(layer) for layer in model._flatten_layers()) and all(
        "_compute_attention" not in vars(layer) for layer in attentions(model)
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_last_layer_shows_the_answers(name):
    model = MODELS[name]()
    last = [layer for layer in model._flatten_layers(recursive=True) if layer.name == "logits"]
    taps = Taps(model, [(OUTPUT, last[0].name)])
    answers = model(inputs_of(name, 4), training=False)
    np.testing.assert_array_equal(taps.shown[OUTPUT, "logits"], answers)
    taps.close()
    assert untouched(model)


@pytest.mark.parametrize(
    ("make", "name"), [(nested, "conv1"), (subclassed, "conv1"), (cnn, "pool1")]
)
def test_inside(make, name):
    model, x = make(), inputs_of("cnn", 4)
    taps = Taps(model, [(OUTPUT, name)])
    model(x, training=False)
    layer = next(each for each in model._flatten_layers() if each.name == name)
    before = cnn().get_layer("conv1") if name == "pool1" else None
    shown = taps.shown[OUTPUT, name]
    taps.close()
    if before is None:
        np.testing.assert_array_equal(shown, layer(x))
    else:
        np.testing.assert_array_equal(shown, layer(model.get_layer("conv1")(x)))


def test_in_a_graph():
    model, x = cnn(), inputs_of("cnn", 4)
    taps = Taps(model, [(OUTPUT, "conv2")])

    @tf.function
    def both(values):
        return model(values, training=False), taps.shown[OUTPUT, "conv2"]

    answers, shown = both(x)
    taps.close()
    np.testing.assert_allclose(answers, model(x), rtol=1e-5)
    inner = keras.Model(model.input, model.get_layer("conv2").output)
    np.testing.assert_allclose(shown, inner(x), rtol=1e-5)


def test_attention_is_what_keras_attends_by():
    model, x = tiny_bert(), inputs_of("tiny_bert", 4)
    layer = attentions(model)[0]
    taps = Taps(model, [(ATTENTION, layer.name), (OUTPUT, "embedding_norm")])
    answers = model(x, training=False)
    shown, given = taps.shown[ATTENTION, layer.name], taps.shown[OUTPUT, "embedding_norm"]
    taps.close()
    assert untouched(model)
    np.testing.assert_allclose(answers, model(x, training=False), atol=1e-6)
    mask = (x != 0)[:, None]
    _, expected = layer(given, given, attention_mask=mask, return_attention_scores=True)
    np.testing.assert_allclose(shown, expected, atol=1e-6)
    np.testing.assert_allclose(np.sum(shown, axis=-1), 1.0, atol=1e-5)


def test_an_error_leaves_the_model_alone():
    model = tiny_bert()
    with pytest.raises(UnknownLayer):
        Taps(model, [(OUTPUT, "embedding_norm"), (ATTENTION, "pooler")])
    assert untouched(model)


@pytest.mark.parametrize(
    ("kind", "name", "expected", "fix"),
    [
        (OUTPUT, "conv3", "the name or path of a layer of cnn", "did you mean 'conv"),
        (ATTENTION, "conv1", "of a MultiHeadAttention layer of cnn", "the model has none"),
    ],
)
def test_words(kind, name, expected, fix):
    with pytest.raises(UnknownLayer) as caught:
        Taps(cnn(), [(kind, name)])
    assert expected in caught.value.expected
    assert fix in caught.value.fix
