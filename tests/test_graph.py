"""compresskit.graph: which operation reads whose output."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from compresskit.graph import operations, trace
from compresskit.parametrize import CallHook, hook
from tests.models import MODELS, cnn, cnn_bn, concat, nested, subclassed
from tests.training import calls, inputs_of


def edges(graph):
    """(writer, reader) by name, for every tensor that one operation hands to another."""
    return [
        (writer.operation.name, call.operation.name)
        for call in graph.calls
        for tensor in call.inputs
        if (writer := graph.writer(tensor)) is not None
    ]


def traced(model, shape=(8, 8, 1)):
    return trace(model, np.zeros((2, *shape), np.float32))


CHAIN = [("conv1", "pool1"), ("pool1", "conv2"), ("conv2", "flatten"), ("flatten", "logits")]


class TestTrace:
    def test_chain(self):
        graph = traced(cnn())
        assert edges(graph) == CHAIN
        assert graph.calls[-1].outputs[0] in graph.outputs
        assert graph.writer(graph.calls[0].inputs[0]) is None

    def test_residual(self):
        graph = traced(cnn_bn())
        found = edges(graph)
        assert ("conv1_relu", "conv2") in found
        assert ("conv1_relu", "add") in found
        assert ("conv3_bn", "add") in found
        (relu,) = [call for call in graph.calls if call.operation.name == "conv1_relu"]
        readers = [call.operation.name for call in graph.readers(relu.outputs[0])]
        assert readers == ["conv2", "add"]

    def test_concatenation(self):
        found = edges(traced(concat()))
        assert found[:2] == [("narrow", "concat"), ("wide", "concat")]

    def test_nested(self):
        assert edges(traced(nested())) == [
            ("conv1", "pool1"),
            ("pool1", "flatten"),
            ("flatten", "logits"),
        ]

    def test_subclassed(self):
        assert edges(traced(subclassed())) == [("conv1", "pool"), ("pool", "logits")]

    def test_a_shared_layer_is_called_twice(self):
        shared = layers.Dense(4, name="shared")
        inputs = keras.Input((4,))
        graph = traced(keras.Model(inputs, shared(shared(inputs))), (4,))
        first, second = graph.of(shared)
        assert graph.calls == (first, second)
        assert first.outputs == second.inputs
        assert set(second.outputs) == graph.outputs

    def test_functions_of_tensors(self):
        inputs = keras.Input((4,))
        x = layers.Dense(4, name="fc1")(inputs)
        y = layers.Dense(4, name="fc2")(inputs)
        graph = traced(keras.Model(inputs, keras.ops.relu(x + y)), (4,))
        assert [type(call.operation).__name__ for call in graph.calls[-2:]] == ["Add", "Relu"]
        add, relu = graph.calls[-2:]
        assert [graph.writer(tensor).operation.name for tensor in add.inputs] == ["fc1", "fc2"]
        assert relu.inputs == add.outputs

    def test_dropout_is_invisible(self):
        inputs = keras.Input((4,))
        x = layers.Dense(4, name="fc1")(inputs)
        x = layers.Dropout(0.5, name="dropout")(x)
        x = layers.ActivityRegularization(name="regularization")(x)
        model = keras.Model(inputs, layers.Dense(4, name="fc2")(x))
        assert edges(traced(model, (4,))) == [("fc1", "fc2")]

    def test_several_inputs_and_outputs(self):
        left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
        x = layers.Add(name="add")([left, right])
        outputs = {"a": layers.Dense(2, name="a")(x), "b": layers.Dense(3, name="b")(x)}
        model = keras.Model({"left": left, "right": right}, outputs)
        sample = {key: np.zeros((2, 4), np.float32) for key in ("left", "right")}
        graph = trace(model, sample)
        assert sorted(edges(graph)) == [("add", "a"), ("add", "b")]
        assert len(graph.outputs) == 2

    @pytest.mark.parametrize("name", MODELS)
    def test_every_weighted_layer_is_seen(self, name):
        model = MODELS[name]()
        graph = trace(model, inputs_of(name, 2))
        seen = {id(call.operation) for call in graph.calls}
        from compresskit.weights import weights_of

        assert {id(weight.layer) for weight in weights_of(model)} <= seen
        assert calls(model) == []

    def test_a_hook_is_restored_and_sees_the_call(self):
        model = cnn()
        layer = model.get_layer("conv2")
        made = hook(layer)
        made.outputs.append(lambda values: values + 1.0)
        graph = traced(model)
        assert layer.call is made
        assert calls(model) == ["conv2"]
        assert edges(graph) == CHAIN

    def test_calls_are_restored_after_an_error(self):
        model = cnn()

        def fails(values):
            raise ZeroDivisionError

        hook(model.get_layer("conv2")).outputs.append(fails)
        with pytest.raises(ZeroDivisionError):
            traced(model)
        assert calls(model) == ["conv2"]
        assert isinstance(model.get_layer("conv2").call, CallHook)


class TestOperations:
    def test_of_a_chain(self):
        names = [each.name for each in operations(cnn())]
        assert names == ["image", "conv1", "pool1", "conv2", "flatten", "logits"]

    def test_the_order_is_the_same_each_time_and_each_is_there_once(self):
        model = nested()
        first, second = list(operations(model)), list(operations(model))
        assert first == second
        assert len(set(map(id, first))) == len(first)
        assert {"conv1", "pool1", "flatten", "logits"} <= {each.name for each in first}

    def test_functions_are_among_them(self):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, layers.Dense(2)(inputs * 2.0))
        assert "Multiply" in [type(each).__name__ for each in operations(model)]

    def test_the_order_survives_saving(self, tmp_path):
        inputs = keras.Input((4,))
        x = layers.Dense(4, name="fc1")(inputs)
        model = keras.Model(inputs, keras.ops.relu(x + inputs))
        model.save(tmp_path / "m.keras")
        again = keras.models.load_model(tmp_path / "m.keras")
        kinds = [[type(each).__name__ for each in operations(m)] for m in (model, again)]
        assert kinds[0] == kinds[1]
