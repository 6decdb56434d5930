"""compresskit.tflite.forms: layers called in equal forms that convert well."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from compresskit.parametrize import CallHook
from compresskit.tflite.forms import lowered
from compresskit.tflite.lower import frozen
from tests.models import VOCABULARY, bidirectional, gru, lstm, sequences, tiny_bert
from tests.training import answers, calls

INPUT = (4, 3, 5)


def made(layer, shape=INPUT, dtype="float32"):
    """A model of one layer whose parameters are random."""
    inputs = keras.Input(shape, dtype=dtype)
    model = keras.Model(inputs, layer(inputs))
    random = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        variable.assign(random.normal(size=variable.shape))
    return model


def op_types(model, x, form="fused"):
    """Types of the ops of an exported graph, those of inner functions included."""
    graph = frozen(model, x, lstm=form).graph.as_graph_def()
    inner = [node.op for function in graph.library.function for node in function.node_def]
    return {*(node.op for node in graph.node), *inner}


class TestNormalization:
    @pytest.mark.parametrize("axis", [-1, 1, 3, [1, 2], (-2, -1), [1, 2, 3]], ids=str)
    def test_equals_keras(self, axis):
        model = made(layers.LayerNormalization(axis=axis))
        x = np.random.default_rng(1).normal(2.0, 3.0, size=(6, *INPUT)).astype(np.float32)
        expected = answers(model, x)
        with lowered(model, "fused", integer=False):
            assert calls(model) == [model.layers[-1].name]
            np.testing.assert_allclose(answers(model, x), expected, atol=1e-6)
        assert calls(model) == []
        np.testing.assert_array_equal(answers(model, x), expected)

    @pytest.mark.parametrize("scale", [True, False])
    @pytest.mark.parametrize("center", [True, False])
    @pytest.mark.parametrize("epsilon", [1e-12, 0.1])
    def test_with_and_without_parameters(self, scale, center, epsilon):
        layer = layers.LayerNormalization(scale=scale, center=center, epsilon=epsilon)
        model = made(layer)
        x = np.random.default_rng(1).normal(size=(6, *INPUT)).astype(np.float32)
        expected = answers(model, x)
        with lowered(model, "while", integer=True):
            np.testing.assert_allclose(answers(model, x), expected, atol=1e-6)

    @pytest.mark.parametrize("value", [0.0, 2.0, -1e4])
    def test_a_row_of_equal_values_gives_beta(self, value):
        # Keras itself gives 0.359375 for a beta of 0.3616 here: it folds the mean into an
        # offset of a million times gamma. This form subtracts first.
        model = made(layers.LayerNormalization(epsilon=1e-12))
        beta = model.layers[-1].beta.numpy()
        with lowered(model, "fused", integer=False):
            given = answers(model, np.full((1, *INPUT), value, np.float32))
        np.testing.assert_allclose(given, np.broadcast_to(beta, given.shape), atol=1e-6)

    def test_does_not_negate(self):
        model = made(layers.LayerNormalization())
        assert "Neg" not in op_types(model, np.zeros((1, *INPUT), np.float32))

    def test_by_root_mean_square_is_left_alone(self):
        with pytest.warns(UserWarning, match="deprecated"):
            layer = layers.LayerNormalization(rms_scaling=True)
        model = made(layer)
        with lowered(model, "fused", integer=False):
            assert calls(model) == []


class TestEmbedding:
    @pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
    def test_equals_keras(self, dtype):
        model = made(layers.Embedding(VOCABULARY, 3), (7,), dtype)
        x = np.random.default_rng(1).integers(0, VOCABULARY, size=(6, 7)).astype(dtype)
        expected = answers(model, x)
        with lowered(model, "fused", integer=False):
            assert len(calls(model)) == 1
            np.testing.assert_array_equal(answers(model, x), expected)
        assert calls(model) == []

    def test_does_not_count_from_the_end(self):
        model = made(layers.Embedding(VOCABULARY, 3), (7,), "int32")
        assert not {"Less", "Select", "SelectV2"} & op_types(model, np.zeros((1, 7), np.int32))

    def test_the_mask_is_still_made(self):
        inputs = keras.Input((7,), dtype="int32")
        x = layers.Embedding(VOCABULARY, 3, mask_zero=True)(inputs)
        model = keras.Model(inputs, layers.GlobalAveragePooling1D()(x))
        x = np.array([[3, 4, 0, 0, 0, 0, 0]], np.int32)
        expected = answers(model, x)
        with lowered(model, "fused", integer=False):
            np.testing.assert_allclose(answers(model, x), expected, atol=1e-6)

    def test_what_is_more_than_an_embedding_is_left_alone(self):
        class Scaled(layers.Embedding):
            def call(self, inputs):
                return super().call(inputs) * 2.0

        low_rank = layers.Embedding(VOCABULARY, 3)
        models = [made(layer, (7,), "int32") for layer in (Scaled(VOCABULARY, 3), low_rank)]
        low_rank.enable_lora(2)
        for model in models:
            with lowered(model, "fused", integer=False):
                assert calls(model) == []


class TestRecurrent:
    def test_a_gru_is_unrolled(self):
        model, x = gru(), sequences("gru", 8)
        (layer,) = (each for each in model.layers if isinstance(each, layers.GRU))
        expected = answers(model, x)
        with lowered(model, "fused", integer=False):
            assert layer.unroll
            np.testing.assert_allclose(answers(model, x), expected, atol=1e-6)
        assert not layer.unroll
        assert "While" not in op_types(model, x)

    def test_what_was_unrolled_stays_so(self):
        layer = layers.GRU(3, unroll=True)
        model = made(layer, (4, 2))
        with lowered(model, "fused", integer=False):
            assert layer.unroll
        assert layer.unroll

    @pytest.mark.parametrize("form", ["fused", "unrolled"])
    def test_an_lstm(self, form):
        model, x = bidirectional(), sequences("bidirectional", 8)
        expected = answers(model, x)
        with lowered(model, form, integer=False):
            np.testing.assert_allclose(answers(model, x), expected, atol=1e-6)
        assert calls(model) == []
        assert not any(getattr(each, "unroll", False) for each in model._flatten_layers())

    @pytest.mark.parametrize("made", [lstm, gru, bidirectional])
    def test_while_leaves_all_alone(self, made):
        model = made()
        recurrent = [each for each in model._flatten_layers() if isinstance(each, layers.RNN)]
        with lowered(model, "while", integer=False):
            for layer in recurrent:
                assert not layer.unroll
                assert not isinstance(layer.__dict__.get("call"), CallHook)


def test_all_is_undone_after_an_error():
    model = tiny_bert()
    hooked = []

    def fail():
        with lowered(model, "fused", integer=True):
            hooked.extend(calls(model))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert len(hooked) == 6
    assert calls(model) == []
