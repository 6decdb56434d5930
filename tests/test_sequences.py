"""What holds of every model of sequences, from pruning to its files."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from keras import layers

from compresskit.methods.prune import Pruning
from compresskit.methods.quantize import Quantization
from compresskit.stages import QAT, Prune
from compresskit.target import Grid, Precision
from compresskit.tflite.audit import audit
from compresskit.tflite.convert import convert
from compresskit.tflite.lower import frozen, predictions
from compresskit.tflite.match import find
from compresskit.tflite.runtime import Runner
from compresskit.tflite.scales import check_scales
from compresskit.weights import weights_of
from tests.files import PRECISIONS, int8_file
from tests.models import CLASSES, FEATURES, SEQUENCE_MODELS, VOCABULARY, lstm, sequences
from tests.training import FOLDED, WARM_UP, answers, calls, compiled, compressed, fit, length

INT8 = Precision(weights="int8", activations="int8", io="int8")


@functools.cache
def file_of(name, precision):
    """The file of a model that was pruned, without its ranges."""
    return convert(compressed(name).model, PRECISIONS[precision], sample=sequences(name, 1))


def parts_of(weight):
    """A weight as the tensors of one scale each, or of one scale a row, that a file holds."""
    return max(1, weight.layout.gates)


def integers(weight):
    """The grid of training: what an int8 file has to hold, output channels by inputs."""
    made = []
    for part in np.split(weight.matrix(weight.variable.numpy()), parts_of(weight)):
        one_scale = weight.layout.gates or weight.layout.table
        largest = np.abs(part).max(axis=None if one_scale else 1, keepdims=True)
        made.append(part.astype(np.float64) / np.where(largest > 0, largest, 1.0) * 127)
    return np.concatenate(made)


def stored(name, weight):
    return find(weight.matrix(weight.variable.numpy()), audit(int8_file(name)), parts_of(weight))


def folded(name):
    return {f"{layer}/embeddings" for layer in FOLDED.get(name, ())}


def spread(outputs):
    """How far answers differ from sample to sample; none, and to agree is no feat."""
    return np.std(outputs, axis=0).mean()


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
class TestTraining:
    def test_the_answers_differ(self, name):
        done = compressed(name)
        assert spread(done.trained) > 0.05
        assert len(set(done.trained.argmax(-1))) >= 5

    def test_trained_is_detached(self, name):
        done = compressed(name)
        assert calls(done.model) == []
        rounded = predictions(done.model, done.x, done.ranges)
        np.testing.assert_allclose(rounded, done.trained, atol=1e-6)

    def test_every_weight_is_on_the_grid(self, name):
        for weight in weights_of(compressed(name).model):
            grid = integers(weight)
            np.testing.assert_allclose(grid, np.round(grid), atol=1e-3)
            assert np.abs(grid).max() == pytest.approx(127)

    def test_no_rounding_touches_a_fused_layer(self, name):
        """In the exported graph: what the converter will see."""
        done = compressed(name)
        graph = frozen(done.model, done.x[:1], done.ranges, integer=True).graph
        marked = {
            each.signature.name
            for each in graph.as_graph_def().library.function
            if each.attr["api_implements"].s
        }
        fused = [
            op
            for op in graph.get_operations()
            if "PartitionedCall" in op.type and op.get_attr("f").name in marked
        ]
        count = sum(isinstance(each, layers.LSTM) for each in done.model._flatten_layers())
        assert len(fused) == count
        for op in fused:
            around = [each.op for each in op.inputs] + [
                reader for output in op.outputs for reader in output.consumers()
            ]
            # Through what copies values and computes nothing.
            around += [
                each.op
                for near in around
                if near.type in ("ReverseV2", "Identity", "Reshape", "Transpose")
                for each in near.inputs
            ]
            assert not [each.name for each in around if "FakeQuant" in each.type]


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
class TestIntegers:
    def test_no_op_computes_in_float(self, name):
        read = audit(int8_file(name))
        assert read.computed_in_float() == []
        assert "WHILE" not in read.counts
        check_scales(read, "file")

    def test_has_exactly_the_integers_of_training(self, name):
        for weight in weights_of(compressed(name).model):
            if not weight.layout.table:
                theirs = stored(name, weight)
                np.testing.assert_array_equal(theirs, np.round(integers(weight)))

    def test_is_as_sparse_as_the_masks(self, name):
        done = compressed(name)
        found = {weight.path: weight for weight in weights_of(done.model)}
        assert set(done.masks) == set(found) - folded(name)
        for path, mask in done.masks.items():
            if not found[path].layout.table:
                weight = found[path]
                theirs = stored(name, weight)
                assert not theirs[~weight.matrix(mask)].any()
                assert np.mean(theirs == 0) >= np.mean(~mask)

    def test_answers_as_the_model_did_in_training(self, name):
        done = compressed(name)
        given = Runner(int8_file(name)).predict(done.x)
        assert np.abs(given - done.trained).mean() <= 0.003
        assert np.mean(given.argmax(-1) == done.trained.argmax(-1)) > 0.9


def test_the_scores_of_attention_are_more_than_zero():
    read = audit(int8_file("tiny_bert"))
    scales = [read.tensors[op.inputs[0]].scales[0] for op in read.ops if op.name == "SOFTMAX"]
    assert len(scales) == 2
    assert max(scales) < 1.0


class TestTables:
    """The table of an embedding, whose kernel hands its scale on to its output."""

    def table(self, name):
        weights = weights_of(compressed(name).model)
        return next(each for each in weights if each.layout.table and each.path not in folded(name))

    @pytest.mark.parametrize("name", ["bidirectional", "tiny_bert"])
    def test_those_of_constant_ids_are_folded(self, name):
        read = audit(int8_file(name))
        lookups = [op for op in read.ops if op.name == "GATHER"]
        # Others turn a sequence round.
        tables = [op for op in lookups if read.tensors[op.inputs[0]].values is not None]
        assert len(tables) == 1

    @pytest.mark.parametrize("name", ["bidirectional", "tiny_bert"])
    def test_has_exactly_the_integers_of_training(self, name):
        weight = self.table(name)
        theirs = stored(name, weight)
        assert theirs is not None
        np.testing.assert_array_equal(theirs, np.round(integers(weight)))

    @pytest.mark.parametrize("name", ["bidirectional", "tiny_bert"])
    def test_is_as_sparse_as_the_mask(self, name):
        weight = self.table(name)
        theirs = stored(name, weight)
        assert theirs is not None
        assert not theirs[~weight.matrix(compressed(name).masks[weight.path])].any()


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-5), ("float16", 5e-3), ("dynamic", 0.1)]
)
def test_the_file_answers_as_the_model(name, precision, tolerance):
    done = compressed(name)
    content = file_of(name, precision)
    expected = predictions(done.model, done.x)
    given = Runner(content).predict(done.x)
    np.testing.assert_allclose(given, expected, atol=tolerance)
    assert np.mean(given.argmax(-1) == expected.argmax(-1)) >= 0.95
    assert "WHILE" not in audit(content).counts


def nested_lstm():
    """An LSTM in a model in a model."""
    inner = keras.Sequential([keras.Input(FEATURES), layers.LSTM(8, name="lstm1")], name="encoder")
    inputs = keras.Input(FEATURES, name="features")
    x = layers.Dense(8, activation="relu", name="fc1")(inner(inputs))
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax", name="logits")(x))


class SubclassedLSTM(keras.Model):
    """Code around an LSTM."""

    def __init__(self):
        super().__init__(name="subclassed_lstm")
        self.lstm1 = layers.LSTM(8, name="lstm1")
        self.logits = layers.Dense(CLASSES, activation="softmax", name="logits")

    def call(self, inputs):
        return self.logits(self.lstm1(inputs))


class SubclassedAttention(keras.Model):
    """Code around an attention."""

    def __init__(self):
        super().__init__(name="subclassed_attention")
        self.embedding = layers.Embedding(VOCABULARY, 8, name="embedding")
        self.attention = layers.MultiHeadAttention(2, 4, name="attention")
        self.norm = layers.LayerNormalization(name="norm")
        self.logits = layers.Dense(CLASSES, activation="softmax", name="logits")

    def call(self, inputs):
        x = self.embedding(inputs)
        x = self.norm(x + self.attention(x, x))
        return self.logits(keras.ops.mean(x, axis=1))


# With the inputs of which model, and how many fused ops and weights there are.
OTHERS = {
    "nested": (nested_lstm, "lstm", 1, 4),
    "subclassed lstm": (SubclassedLSTM, "lstm", 1, 3),
    "subclassed attention": (SubclassedAttention, "tiny_bert", 0, 6),
}


@functools.cache
def other(name):
    """A model of OTHERS after pruning and QAT, its ranges, answers and integer file."""
    make, like, _, _ = OTHERS[name]
    keras.utils.set_random_seed(0)
    model, x = make(), sequences(like)
    model(x[:1])
    compiled(model, keras.optimizers.Adam(1e-2))
    fit(model, x, epochs=WARM_UP)
    prune = Pruning(Prune(sparsity=0.5, frequency="4st")).attach(model, x[:2], Grid(), length())
    qat = Quantization(QAT()).attach(model, x[:2], Grid(), length())
    fit(model, x, prune, qat)
    trained = answers(model, x)
    prune.detach()
    ranges = qat.detach()["ranges"]
    content = convert(model, INT8, sample=x[:1], calibration=x, ranges=ranges)
    return model, x, (prune, qat), trained, ranges, content


@pytest.mark.parametrize("name", OTHERS)
class TestOtherModels:
    def test_all_weights_are_touched(self, name):
        model, _, attached, _, _, _ = other(name)
        paths = tuple(weight.path for weight in weights_of(model))
        assert len(paths) == OTHERS[name][3]
        for each in attached:
            assert each.touched == paths
            assert each.skipped == ()

    def test_trained_is_detached(self, name):
        model, x, _, trained, ranges, _ = other(name)
        assert calls(model) == []
        np.testing.assert_allclose(predictions(model, x, ranges), trained, atol=1e-6)

    def test_the_integer_file(self, name):
        model, x, _, trained, _, content = other(name)
        read = audit(content)
        check_scales(read, "file")
        assert read.computed_in_float() == []
        assert read.counts.get("UNIDIRECTIONAL_SEQUENCE_LSTM", 0) == OTHERS[name][2]
        assert spread(trained) > 0.05
        assert np.abs(Runner(content).predict(x) - trained).mean() <= 0.015
        for weight in weights_of(model):
            if weight.layout.table:
                continue
            theirs = find(weight.matrix(weight.variable.numpy()), read, parts_of(weight))
            np.testing.assert_array_equal(theirs, np.round(integers(weight)))


class TestSkipped:
    def test_has_a_reason(self):
        model = lstm()
        for method in (
            Pruning(Prune(sparsity=0.5, targets=["type:LSTM"])),
            Quantization(QAT(targets=["type:LSTM"])),
        ):
            selection = method.select(model, "stage")
            assert [weight.path.split("/")[0] for weight in selection.taken] == ["lstm1"] * 2
            assert {each.path: each.reason for each in selection.skipped} == {
                "fc1/kernel": "not among the targets",
                "logits/kernel": "not among the targets",
            }

    def test_a_recurrent_layer_that_no_kernel_is_known_for(self):
        inputs = keras.Input(FEATURES)
        x = layers.Dense(4, name="fc")(layers.SimpleRNN(4, name="rnn")(inputs))
        model = keras.Model(inputs, x)
        for method in (Pruning(Prune(sparsity=0.5)), Quantization(QAT())):
            selection = method.select(model, "stage")
            assert [weight.path for weight in selection.taken] == ["fc/kernel"]
            assert len(selection.skipped) == 2
            assert all("layers of type SimpleRNNCell" in each.reason for each in selection.skipped)
