"""compresskit.tflite.forms: layers called in equal forms that convert well."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compresskit.attention import attentions
from compresskit.errors import ModelError
from compresskit.graph import operations
from compresskit.parametrize import CallHook
from compresskit.target import Precision
from compresskit.tflite.audit import audit
from compresskit.tflite.convert import convert
from compresskit.tflite.forms import lowered
from compresskit.tflite.lower import frozen, predictions
from compresskit.tflite.runtime import Runner
from compresskit.tflite.scales import check_scales
from tests.models import VOCABULARY, bidirectional, gru, lstm, sequences, tiny_bert
from tests.training import answers, calls

INPUT = (4, 3, 5)
INT8 = Precision(weights="int8", activations="int8", io="int8")


def made(layer, shape=INPUT, dtype="float32"):
    """A model of one layer whose parameters are random."""
    inputs = keras.Input(shape, dtype=dtype)
    model = keras.Model(inputs, layer(inputs))
    random = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        variable.assign(random.normal(size=variable.shape))
    return model


def op_types(model, x, form="fused", *, integer=False):
    """Types of the ops of an exported graph, those of inner functions included."""
    graph = frozen(model, x, lstm=form, integer=integer).graph.as_graph_def()
    inner = [node.op for function in graph.library.function for node in function.node_def]
    return {*(node.op for node in graph.node), *inner}


class TestInner:
    """Layers with tensors inside; that their forms are equal is tested with the forms."""

    @pytest.mark.parametrize("integer", [False, True])
    @pytest.mark.parametrize("layer", [layers.LayerNormalization, layers.SeparableConv2D])
    def test_equals_keras(self, layer, integer):
        model = made(layer() if layer is layers.LayerNormalization else layer(3, 2))
        x = np.random.default_rng(1).normal(2.0, 3.0, size=(6, *INPUT)).astype(np.float32)
        expected = answers(model, x)
        with lowered(model, "fused", integer=integer, calibration=x):
            assert calls(model) == [model.layers[-1].name]
            np.testing.assert_allclose(answers(model, x), expected, atol=1e-5)
        assert calls(model) == []
        np.testing.assert_array_equal(answers(model, x), expected)

    def test_a_normalization_does_not_negate(self):
        model = made(layers.LayerNormalization())
        assert "Neg" not in op_types(model, np.zeros((1, *INPUT), np.float32))

    def test_what_has_none_is_left_alone(self):
        class Twice(layers.SeparableConv2D):
            def call(self, inputs):
                return super().call(inputs) * 2.0

        model = made(Twice(3, 2))
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


STEPS, WIDTH = 6, 4
SIGNAL = np.random.default_rng(1).normal(size=(40, STEPS, WIDTH)).astype(np.float32)


def flipped(axis):
    """A model that turns a sequence of features round."""
    inputs = keras.Input((STEPS, WIDTH))
    x = keras.ops.flip(layers.Dense(WIDTH, name="first")(inputs), axis=axis)
    # Each feature of each step counts in its place.
    x = layers.Dense(8, activation="tanh", name="last")(layers.Flatten()(x))
    return keras.Model(inputs, x)


def both_ways(merge_mode, cell=layers.LSTM):
    inputs = keras.Input((STEPS, WIDTH))
    both = layers.Bidirectional(
        cell(3, return_sequences=True, name="cell"), merge_mode=merge_mode, name="both"
    )
    x = both(inputs)
    x = layers.Concatenate(name="joined")(x) if merge_mode is None else x
    return keras.Model(inputs, x)


def several_axes():
    """Whether this Keras turns several axes at once; 3.12, the last for Python 3.10, does not."""
    try:
        keras.ops.flip(SIGNAL, axis=(1, 2))
    except tf.errors.InvalidArgumentError:
        return False
    return True


REVERSED = {
    **{f"flip {axis}": (flipped, axis) for axis in (1, -1, *([(1, 2)] if several_axes() else []))},
    **{f"merge {mode}": (both_ways, mode) for mode in ("concat", "sum", "ave", "mul", None)},
}


@pytest.mark.parametrize("name", REVERSED)
class TestReverse:
    """REVERSE_V2 has an output of another scale than its input; a lookup has not."""

    def model(self, name):
        make, argument = REVERSED[name]
        keras.utils.set_random_seed(1)
        return make(argument)

    def test_is_a_lookup_in_integers(self, name):
        model = self.model(name)
        expected = answers(model, SIGNAL)
        with lowered(model, "fused", integer=True):
            np.testing.assert_allclose(answers(model, SIGNAL), expected, atol=1e-6)
        both = {"ReverseV2", "GatherV2"}
        assert op_types(model, SIGNAL[:1]) & both == {"ReverseV2"}
        assert op_types(model, SIGNAL[:1], integer=True) & both == {"GatherV2"}

    def test_the_integer_file(self, name):
        model = self.model(name)
        content = convert(model, INT8, sample=SIGNAL[:1], calibration=SIGNAL)
        read = audit(content)
        assert "REVERSE_V2" not in read.counts
        assert "GATHER" in read.counts
        assert read.computed_in_float() == []
        check_scales(read, "file")
        expected = predictions(model, SIGNAL)
        error = np.abs(Runner(content).predict(SIGNAL) - expected).mean()
        assert error <= 0.03 * np.std(expected, axis=0).mean()

    def test_is_undone(self, name):
        model = self.model(name)
        expected = answers(model, SIGNAL)
        with pytest.raises(ZeroDivisionError), lowered(model, "fused", integer=True):
            raise ZeroDivisionError
        everything = [*model._flatten_layers(), *operations(model)]
        assert [each.name for each in everything if "call" in vars(each)] == []
        np.testing.assert_array_equal(answers(model, SIGNAL), expected)


@pytest.mark.parametrize("form", ["fused", "unrolled", "while"])
def test_both_ways_of_any_form(form):
    model = both_ways("concat", layers.GRU)
    expected = answers(model, SIGNAL)
    with lowered(model, form, integer=True):
        np.testing.assert_allclose(answers(model, SIGNAL), expected, atol=1e-6)


@pytest.mark.parametrize("settings", [{"return_state": True}, {"return_sequences": False}], ids=str)
def test_both_ways_of_what_is_left_to_keras(settings):
    inputs = keras.Input((STEPS, WIDTH))
    cell = layers.GRU(3, **{"return_sequences": True, **settings})
    model = keras.Model(inputs, layers.Bidirectional(cell)(inputs))
    expected = model(SIGNAL)
    with lowered(model, "fused", integer=True):
        given = model(SIGNAL)
    for one, other in zip(keras.tree.flatten(given), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


class TestAttention:
    """The score of hidden tokens; what it is, is tested with attention."""

    def test_hides_by_a_fixed_score_in_integers(self):
        model, x = tiny_bert(), sequences("tiny_bert", 16)
        expected = answers(model, x)
        (layer,) = attentions(model)
        with lowered(model, "fused", integer=True, calibration=x):
            assert "_compute_attention" in vars(layer)
            np.testing.assert_allclose(answers(model, x), expected, atol=1e-3)
        assert "_compute_attention" not in vars(layer)
        np.testing.assert_array_equal(answers(model, x), expected)

    def test_is_left_alone_in_floats(self):
        model = tiny_bert()
        with lowered(model, "fused", integer=False):
            assert "_compute_attention" not in vars(attentions(model)[0])

    def test_no_score_is_far_from_the_others(self):
        model, x = tiny_bert(), sequences("tiny_bert", 16)
        graph = frozen(model, x[:1], integer=True, calibration=x).graph
        constants = [
            tf.make_ndarray(op.get_attr("value"))
            for op in graph.get_operations()
            if op.type == "Const" and op.get_attr("dtype") == tf.float32
        ]
        assert max(np.abs(values).max(initial=0.0) for values in constants) < 100


def test_a_layer_that_cannot_be_fused_says_so_beside_an_attention():
    """Its scores are measured before the model is traced."""
    tokens = keras.Input((STEPS,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 4, mask_zero=True)(tokens)
    x = layers.LSTM(4, return_sequences=True, name="lstm")(x)
    model = keras.Model(tokens, layers.MultiHeadAttention(2, 2)(x, x))
    ids = np.ones((2, STEPS), np.int32)
    with pytest.raises(ModelError) as raised:
        frozen(model, ids[:1], integer=True, calibration=ids)
    (problem,) = raised.value.problems
    assert problem.where == "layer lstm"
    assert problem.found == "a mask"


def test_all_is_undone_after_an_error():
    model = tiny_bert()
    hooked = []

    def fail():
        with lowered(model, "fused", integer=True, calibration=sequences("tiny_bert", 4)):
            hooked.extend(calls(model))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert len(hooked) == 6
    assert calls(model) == []
