"""compresskit.weights: the table of weights and the order that the runtime keeps them in."""

from __future__ import annotations

from operator import attrgetter

import keras
import numpy as np
import pytest
from keras import layers

from compresskit.weights import TABLE, Layout, Weight, layout_of, leaves, weights_of
from tests.models import MODELS, cnn, nested, subclassed

# What one output channel reads, by index and without any transposing: the window row by
# row, input channels innermost.
CASES = {
    "dense": (layers.Dense(5), (4,), lambda k, o: k[:, o]),
    "conv1d": (layers.Conv1D(5, 3), (8, 4), lambda k, o: k[:, :, o]),
    "conv2d": (layers.Conv2D(5, (2, 3)), (8, 8, 4), lambda k, o: k[:, :, :, o]),
    "grouped": (layers.Conv2D(6, (2, 3), groups=2), (8, 8, 4), lambda k, o: k[:, :, :, o]),
    "transposed": (
        layers.Conv2DTranspose(5, (2, 3)),
        (8, 8, 4),
        lambda k, o: k[:, :, o, :],
    ),
    "depthwise1d": (
        layers.DepthwiseConv1D(3, depth_multiplier=2),
        (8, 4),
        lambda k, o: k[:, o // 2, o % 2],
    ),
    "depthwise2d": (
        layers.DepthwiseConv2D((2, 3), depth_multiplier=2),
        (8, 8, 4),
        lambda k, o: k[:, :, o // 2, o % 2],
    ),
}
SEPARABLE = {
    "separable1d": layers.SeparableConv1D(5, 3, depth_multiplier=2),
    "separable2d": layers.SeparableConv2D(5, (2, 3), depth_multiplier=2),
}


def built(layer, shape):
    layer = type(layer).from_config(layer.get_config())
    layer.build((None, *shape))
    return layer


def weight_of(layer, row=0):
    layout = layout_of(layer)[row]
    return Weight(layer=layer, variable=getattr(layer, layout.attribute), layout=layout)


class TestMatrix:
    @pytest.mark.parametrize("name", CASES)
    def test_a_row_is_what_one_output_channel_reads(self, name):
        layer, shape, reads = CASES[name]
        weight = weight_of(built(layer, shape))
        values = np.random.default_rng(0).normal(size=weight.shape)
        matrix = weight.matrix(values)
        assert matrix.size == values.size
        for channel, row in enumerate(matrix):
            np.testing.assert_array_equal(row, reads(values, channel).reshape(-1))

    @pytest.mark.parametrize("name", CASES)
    def test_from_matrix_is_the_inverse(self, name):
        layer, shape, _ = CASES[name]
        weight = weight_of(built(layer, shape))
        values = np.random.default_rng(0).normal(size=weight.shape)
        np.testing.assert_array_equal(weight.from_matrix(weight.matrix(values)), values)

    @pytest.mark.parametrize(
        ("name", "shape"), [("separable1d", (8, 4)), ("separable2d", (8, 8, 4))]
    )
    def test_separable_has_two(self, name, shape):
        layer = built(SEPARABLE[name], shape)
        depthwise, pointwise = weight_of(layer, 0), weight_of(layer, 1)
        assert depthwise.path.endswith("depthwise_kernel")
        assert depthwise.matrix(np.zeros(depthwise.shape)).shape[0] == 4 * 2
        assert pointwise.matrix(np.zeros(pointwise.shape)).shape == (5, 4 * 2)
        for weight in (depthwise, pointwise):
            values = np.random.default_rng(0).normal(size=weight.shape)
            np.testing.assert_array_equal(weight.from_matrix(weight.matrix(values)), values)

    @pytest.mark.parametrize(
        ("name", "run"),
        [
            ("dense", 4),
            ("conv1d", 4),
            ("conv2d", 4),
            ("grouped", 2),
            ("transposed", 4),
            ("depthwise1d", 1),
            ("depthwise2d", 1),
        ],
    )
    def test_input_channels(self, name, run):
        layer, shape, _ = CASES[name]
        assert weight_of(built(layer, shape)).input_channels == run

    @pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
    def test_a_weight_without_layout_has_its_outputs_last(self, shape):
        variable = keras.Variable(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
        weight = Weight(layer=layers.Layer(), variable=variable, layout=None)
        values = variable.numpy()
        matrix = weight.matrix(values)
        np.testing.assert_array_equal(matrix, values.reshape(-1, shape[-1]).T)
        np.testing.assert_array_equal(weight.from_matrix(matrix), values)
        assert weight.input_channels == shape[-2]


class TestTable:
    @pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.__name__)
    def test_every_row_names_a_variable_with_those_axes(self, kind):
        recurrent = issubclass(kind, layers.RNN)
        shape = (8, 4) if kind.__name__.endswith("1D") or recurrent else (8, 8, 4)
        one = recurrent or kind is layers.Dense or "Depthwise" in kind.__name__
        layer = kind(3) if one else kind(3, 2)
        layer.build((None, *shape))
        for row in layout_of(layer):
            rank = len(attrgetter(row.attribute)(layer).shape)
            axes = [*row.channels, *(() if row.inputs is None else (row.inputs,))]
            assert len(set(axes)) == len(axes)
            assert max(axes) < rank

    def test_dense_is_what_runs_as_a_matrix_product(self):
        dense = {kind for kind, rows in TABLE.items() for row in rows if row.dense}
        assert dense == {layers.Dense, layers.GRU}

    def test_only_an_lstm_has_gates_and_only_an_embedding_is_a_table(self):
        rows = [(kind, row) for kind, rows in TABLE.items() for row in rows]
        assert {(kind, row.gates) for kind, row in rows if row.gates} == {(layers.LSTM, 4)}
        assert {kind for kind, row in rows if row.table} == {layers.Embedding}

    @pytest.mark.parametrize(
        ("equation", "shape", "channels", "inputs"),
        [
            ("abc,cd->abd", (None, 6), (1,), 0),
            ("abc,cde->abde", (None, 2, 3), (1, 2), 0),
            ("abcd,cde->abe", (None, 6), (2,), 1),
            ("...x,xy->...y", (6,), (1,), 0),
        ],
    )
    def test_an_equation_says_the_layout(self, equation, shape, channels, inputs):
        layer = layers.EinsumDense(equation, output_shape=shape)
        assert layout_of(layer) == (
            Layout(attribute="kernel", channels=channels, inputs=inputs, dense=True, narrow=True),
        )

    def test_an_equation_that_is_no_matrix_product(self):
        assert layout_of(layers.EinsumDense("ab,b->ab", output_shape=(4,))) is None

    def test_a_row_of_an_einsum_is_what_one_output_channel_reads(self):
        layer = layers.EinsumDense("abcd,cde->abe", output_shape=(None, 5))
        layer.build((None, 7, 2, 3))
        weight = weight_of(layer)
        values = np.random.default_rng(0).normal(size=weight.shape)
        np.testing.assert_array_equal(weight.matrix(values), values.reshape(6, 5).T)
        np.testing.assert_array_equal(weight.from_matrix(weight.matrix(values)), values)

    def test_depthwise_kernels_are_not_pruned_unless_named(self):
        spared = {row.attribute for rows in TABLE.values() for row in rows if not row.pruned}
        assert spared == {"kernel", "depthwise_kernel"}
        assert all(
            row.pruned == (row.inputs is not None) for rows in TABLE.values() for row in rows
        )

    def test_a_subclass_is_its_base(self):
        class MyDense(layers.Dense):
            pass

        assert layout_of(MyDense(3)) == TABLE[layers.Dense]

    def test_the_transposed_convolution_is_not_a_convolution(self):
        assert layout_of(layers.Conv2DTranspose(3, 2)) == (
            Layout(attribute="kernel", channels=(2,), inputs=3),
        )

    @pytest.mark.parametrize("layer", [layers.SimpleRNN(2), layers.Layer()])
    def test_others_are_not_guessed_at(self, layer):
        assert layout_of(layer) is None


class Custom(layers.Layer):
    """A layer that the table does not know."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 3), name="matrix")
        self.bias = self.add_weight(shape=(3,), name="bias")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.matrix) + self.bias


class TestWeightsOf:
    def test_in_the_order_of_the_model(self):
        paths = [weight.path for weight in weights_of(cnn())]
        assert paths == ["conv1/kernel", "conv2/kernel", "logits/kernel"]

    @pytest.mark.parametrize("name", MODELS)
    def test_every_weight_once_and_known(self, name):
        model = MODELS[name]()
        found = weights_of(model)
        expected = {
            variable.path for variable in model.trainable_variables if len(variable.shape) > 1
        }
        assert [weight.path for weight in found] == [
            variable.path for variable in model.weights if variable.path in expected
        ]
        assert all(weight.layout is not None for weight in found)

    def test_nested(self):
        model = nested()
        conv = model.get_layer("features").get_layer("conv1")
        first = weights_of(model)[0]
        assert first.layer is conv
        assert first.variable is conv.kernel

    def test_subclassed(self):
        model = subclassed()
        assert [weight.layer for weight in weights_of(model)] == [model.conv1, model.logits]

    def test_a_shared_layer_once(self):
        dense = layers.Dense(4, name="shared")
        inputs = keras.Input((4,))
        model = keras.Model(inputs, dense(dense(inputs)))
        assert [weight.path for weight in weights_of(model)] == ["shared/kernel"]

    def test_a_shared_model_once(self):
        inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="fc")], name="inner")
        inputs = keras.Input((4,))
        model = keras.Model(inputs, inner(inner(inputs)))
        assert len(weights_of(model)) == 1

    def test_an_unknown_layer_has_no_layout(self):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, Custom(name="custom")(inputs))
        (weight,) = weights_of(model)
        assert weight.path == "custom/matrix"
        assert weight.layout is None

    def test_recurrent_and_embedding_weights(self):
        inputs = keras.Input((3,), dtype="int32")
        x = layers.Embedding(5, 4, name="embedding")(inputs)
        model = keras.Model(inputs, layers.Dense(2, name="fc")(layers.LSTM(3, name="lstm")(x)))
        found = {weight.path: weight.layout for weight in weights_of(model)}
        assert list(found) == [
            "embedding/embeddings",
            "lstm/lstm_cell/kernel",
            "lstm/lstm_cell/recurrent_kernel",
            "fc/kernel",
        ]
        assert [layout.gates for layout in found.values()] == [0, 4, 4, 0]
        assert [layout.table for layout in found.values()] == [True, False, False, False]

    def test_the_biases_of_attention_are_no_weights(self):
        inputs = keras.Input((5, 4))
        attention = layers.MultiHeadAttention(2, 3, name="attention")
        found = weights_of(keras.Model(inputs, attention(inputs, inputs)))
        assert len(found) == 4
        assert all(weight.path.endswith("/kernel") and weight.layout for weight in found)

    def test_a_tied_variable_belongs_to_the_layer_that_the_table_knows(self):
        class Tied(layers.Layer):
            def __init__(self, kernel):
                super().__init__()
                self.matrix = kernel

            def call(self, inputs):
                return keras.ops.matmul(inputs, keras.ops.transpose(self.matrix))

        dense = layers.Dense(4, name="fc")
        dense.build((None, 4))
        inputs = keras.Input((4,))
        model = keras.Model(inputs, dense(Tied(dense.kernel)(inputs)))
        (weight,) = weights_of(model)
        assert weight.layer is dense
        assert weight.layout is not None

    def test_weights_of_a_layer_alone(self):
        layer = built(layers.Dense(2), (3,))
        assert [weight.variable for weight in weights_of(layer)] == [layer.kernel]

    def test_a_model_without_weights(self):
        inputs = keras.Input((4,))
        assert weights_of(keras.Model(inputs, layers.ReLU()(inputs))) == []


def test_a_recurrent_layer_is_one_leaf():
    inputs = keras.Input((4, 3))
    lstm = layers.LSTM(2, return_sequences=True, name="lstm")
    x = layers.Bidirectional(lstm, name="both")(inputs)
    model = keras.Model(inputs, layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)])(x))
    found = {type(leaf) for leaf in leaves(model)}
    assert {layers.LSTM, layers.RNN} <= found
    assert not {layers.Bidirectional, layers.LSTMCell, layers.GRUCell} & found


def test_leaves_hold_no_other_layers():
    found = list(leaves(nested()))
    assert {"conv1", "pool1", "flatten", "logits"} <= {leaf.name for leaf in found}
    assert "features" not in {leaf.name for leaf in found}
    assert len(set(map(id, found))) == len(found)
