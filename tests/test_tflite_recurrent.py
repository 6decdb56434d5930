"""compresskit.tflite.recurrent: LSTMs as the converter fuses them, and as files answer."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from compresskit.errors import ModelError
from compresskit.target import Precision
from compresskit.tflite.audit import audit
from compresskit.tflite.convert import convert
from compresskit.tflite.lower import frozen, predictions
from compresskit.tflite.runtime import Runner
from compresskit.tflite.scales import check_scales
from tests.files import PRECISIONS
from tests.models import FEATURES, lstm, sequences

FUSED = "UNIDIRECTIONAL_SEQUENCE_LSTM"
INT8 = Precision(weights="int8", activations="int8", io="int8")
UNITS = 8


def recurrent(name="lstm", **kwargs):
    # A bias that is not zero: one that is lost shows.
    bias = keras.initializers.RandomNormal(stddev=0.5, seed=3)
    return layers.LSTM(UNITS, name=name, bias_initializer=bias, **kwargs)


def both_ways(**kwargs):
    return layers.Bidirectional(recurrent(), name="both", **kwargs)


# The layers between inputs and outputs, with how many fused ops they become.
VARIANTS = {
    "last": (1, lambda x: recurrent()(x)),
    "sequences": (1, lambda x: recurrent(return_sequences=True)(x)),
    "state unread": (1, lambda x: recurrent(return_state=True)(x)[0]),
    "backwards": (1, lambda x: recurrent(go_backwards=True)(x)),
    "sequences backwards": (1, lambda x: recurrent(go_backwards=True, return_sequences=True)(x)),
    "stacked": (2, lambda x: recurrent("two")(recurrent("one", return_sequences=True)(x))),
    "no bias": (1, lambda x: recurrent(use_bias=False)(x)),
    "concatenated": (2, lambda x: both_ways()(x)),
    "summed": (2, lambda x: both_ways(merge_mode="sum")(x)),
    # Whoever reads the states has the converter write the steps out: there is no such output.
    "state": (0, lambda x: layers.Concatenate(name="all")(recurrent(return_state=True)(x))),
}


def model_of(make, shape=FEATURES, **kwargs):
    inputs = keras.Input(shape, name="inputs", **kwargs)
    return keras.Model(inputs, make(inputs), name="recurrent")


@functools.cache
def converted(name):
    """A variant with its float file."""
    keras.utils.set_random_seed(1)
    model = model_of(VARIANTS[name][1])
    content = convert(model, PRECISIONS["float32"], sample=sequences("lstm", 1))
    return model, content


class TestFloat:
    @pytest.mark.parametrize("name", VARIANTS)
    def test_the_file_answers_as_keras(self, name):
        model, content = converted(name)
        counts = audit(content).counts
        assert counts.get(FUSED, 0) == VARIANTS[name][0]
        assert "WHILE" not in counts
        x = sequences("lstm", 50)
        given = Runner(content).predict(x)
        np.testing.assert_allclose(given, predictions(model, x), atol=1e-5)

    def test_a_sequence_does_not_depend_on_the_one_before(self):
        _, content = converted("stacked")
        first, second = sequences("lstm", 2)[:, np.newaxis]
        together = Runner(content).predict(np.concatenate([first, second]))
        np.testing.assert_array_equal(together[0], Runner(content).predict(first)[0])
        np.testing.assert_array_equal(together[1], Runner(content).predict(second)[0])

    def test_without_a_reset_it_would(self):
        """Why `Runner` resets: the op keeps its state from one call to the next."""
        _, content = converted("last")
        first, second = sequences("lstm", 2)[:, np.newaxis]
        alone = Runner(content).predict(second)
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        given, (taken,) = interpreter.get_input_details()[0], interpreter.get_output_details()

        def invoke(x):
            interpreter.set_tensor(given["index"], x)
            interpreter.invoke()
            return interpreter.get_tensor(taken["index"])

        invoke(first)
        assert np.abs(invoke(second) - alone).max() > 1e-3
        interpreter.reset_all_variables()
        np.testing.assert_array_equal(invoke(second), alone)

    def test_two_conversions_give_the_same_bytes(self):
        model, content = converted("concatenated")
        assert convert(model, PRECISIONS["float32"], sample=sequences("lstm", 1)) == content

    @pytest.mark.parametrize("form", ["unrolled", "while"])
    def test_other_forms(self, form):
        x = sequences("lstm", 20)
        model, _ = converted("last")
        content = convert(model, PRECISIONS["float32"], sample=x[:1], lstm=form)
        counts = audit(content).counts
        assert FUSED not in counts
        assert ("WHILE" in counts) == (form == "while")
        np.testing.assert_allclose(Runner(content).predict(x), predictions(model, x), atol=1e-5)


def two_joined(x):
    return layers.Concatenate(name="joined")(
        [recurrent("one")(x), recurrent("two", go_backwards=True)(x)]
    )


JOINED = {
    "bidirectional": lambda x: both_ways()(x),
    "bidirectional sum": lambda x: both_ways(merge_mode="sum")(x),
    "concatenate": two_joined,
}


@functools.cache
def integer_file(name):
    keras.utils.set_random_seed(1)
    model = model_of(
        lambda x: layers.Dense(5, activation="softmax", name="logits")(JOINED[name](x))
    )
    x = sequences("lstm")
    return model, convert(model, INT8, sample=x[:1], calibration=x)


class TestInteger:
    @pytest.mark.parametrize("name", JOINED)
    def test_what_is_joined(self, name):
        """A concatenation once gave an LSTM's output another scale than its state has."""
        model, content = integer_file(name)
        read = audit(content)
        check_scales(read, "file")
        assert read.counts[FUSED] == 2
        assert read.computed_in_float() == []
        x = sequences("lstm")
        expected = predictions(model, x)
        assert np.std(expected, axis=0).mean() > 0.02  # or to agree would be no feat
        assert np.abs(Runner(content).predict(x) - expected).mean() <= 0.003

    @pytest.mark.parametrize("seed", [2, 3])
    def test_all_steps_of_both_directions(self, seed):
        keras.utils.set_random_seed(seed)
        both = layers.Bidirectional(
            layers.LSTM(UNITS, return_sequences=True, name="lstm"), name="both"
        )
        model = model_of(both)
        x = sequences("lstm")
        content = convert(model, INT8, sample=x[:1], calibration=x)
        read = audit(content)
        assert "REVERSE_V2" not in read.counts  # its output had another scale than its input
        check_scales(read, "file")
        assert np.abs(Runner(content).predict(x) - predictions(model, x)).mean() <= 0.003

    def test_a_sequence_does_not_depend_on_the_one_before(self):
        _, content = integer_file("bidirectional")
        x = sequences("lstm", 4)
        together = Runner(content).predict(x)
        for index in (3, 0):
            alone = Runner(content).predict(x[index : index + 1])
            np.testing.assert_array_equal(alone[0], together[index])


def problem_of(model, x):
    with pytest.raises(ModelError) as raised:
        frozen(model, x)
    (problem,) = raised.value.problems
    return problem


class TestUnfit:
    """What the fused kernel does not compute is an error that says what to do."""

    @pytest.mark.parametrize(
        ("kwargs", "found"),
        [
            ({"activation": "relu"}, "activation relu"),
            ({"recurrent_activation": "hard_sigmoid"}, "recurrent_activation hard_sigmoid"),
            ({"activation": None}, "activation linear"),
        ],
        ids=["activation", "recurrent", "linear"],
    )
    def test_other_activations(self, kwargs, found):
        model = model_of(lambda x: recurrent(**kwargs)(x))
        problem = problem_of(model, sequences("lstm", 1))
        assert problem.where == "layer lstm"
        assert problem.found == found
        assert "lstm: unrolled" in problem.fix
        # As it says.
        x = sequences("lstm", 1)
        (given,) = frozen(model, x, lstm="unrolled")(keras.ops.convert_to_tensor(x)).values()
        np.testing.assert_allclose(given, predictions(model, x), atol=1e-5)

    def test_a_state_that_is_kept(self):
        inputs = keras.Input(batch_shape=(1, *FEATURES))
        model = keras.Model(inputs, recurrent(stateful=True)(inputs))
        assert problem_of(model, sequences("lstm", 1)).found == "stateful=True"

    @pytest.mark.parametrize("how", ["embedding", "masking"])
    def test_a_mask(self, how):
        if how == "embedding":
            embed = layers.Embedding(20, 4, mask_zero=True)
            model = model_of(lambda x: recurrent()(embed(x)), (12,), dtype="int32")
        else:
            model = model_of(lambda x: recurrent()(layers.Masking()(x)))
        problem = problem_of(model, sequences("tiny_bert" if how == "embedding" else "lstm", 1))
        assert problem.where == "layer lstm"
        assert problem.found == "a mask"
        assert "mask_zero=False" in problem.fix
        assert "lstm: while" in problem.fix

    def test_an_initial_state(self):
        def make(x):
            state = layers.Dense(UNITS)(x[:, 0])
            return recurrent()(x, initial_state=[state, state])

        problem = problem_of(model_of(make), sequences("lstm", 1))
        assert problem.found == "an initial state"

    def test_the_model_is_as_it_was(self):
        model = model_of(
            lambda x: recurrent("two", activation="relu")(
                recurrent("one", return_sequences=True)(x)
            )
        )
        problem_of(model, sequences("lstm", 1))
        assert all("call" not in each.__dict__ for each in model._flatten_layers())


def test_the_names_of_the_functions_are_those_of_the_layers():
    names = [
        node.attr["api_implements"].s.decode()
        for node in frozen(lstm(), sequences("lstm", 1)).graph.as_graph_def().library.function
    ]
    assert [name for name in names if name] == ["lstm_lstm1"]
