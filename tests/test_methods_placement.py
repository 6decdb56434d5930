"""compresskit.methods.placement: where an integer graph rounds its activations."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from compresskit.graph import trace
from compresskit.methods.placement import FIXED_RANGES, hands_scale_on, placements
from tests.models import MODELS, cnn, cnn_bn, concat, depthwise, mlp, nested, subclassed


def found(model, shape=(8, 8, 1), ignored=()):
    sample = (
        keras.tree.map_structure(
            lambda each: np.zeros((2, *each), np.float32), shape, none_is_leaf=False
        )
        if not isinstance(shape, tuple)
        else np.zeros((2, *shape), np.float32)
    )
    graph = trace(model, sample)
    skip = {id(model.get_layer(name)) for name in ignored}
    return placements(model, graph, skip)


def places(*args, **kwargs):
    """(operation, place) of each, without the model's own input and softmax's pair."""
    made = [(each.operation.name, each.place) for each in found(*args, **kwargs)]
    assert made[0][1] == "input"
    return made[1:]


SOFTMAX = [("logits", "activation"), ("logits", "output")]


def chain(*made, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *made])


def conv(name="conv", **kwargs):
    return layers.Conv2D(4, 3, name=name, **kwargs)


class TestModels:
    def test_a_chain(self):
        assert places(cnn()) == [("conv1", "output"), ("conv2", "output"), *SOFTMAX]

    def test_between_convolution_normalization_and_relu_nothing_is_rounded(self):
        assert places(cnn_bn()) == [
            ("conv1_relu", "output"),
            ("conv2_relu", "output"),
            ("conv3_bn", "output"),
            ("add_relu", "output"),
            ("pool", "output"),
            *SOFTMAX,
        ]

    def test_what_is_concatenated_has_one_range(self):
        assert places(concat()) == [("concat", "output"), *SOFTMAX]

    def test_a_separable_convolution_is_rounded_inside(self):
        assert places(depthwise()) == [
            ("conv1_relu", "output"),
            ("depthwise_relu", "output"),
            ("separable", "inside"),
            ("separable_relu", "output"),
            ("pool", "output"),
            *SOFTMAX,
        ]
        assert [each.inner for each in found(depthwise()) if each.place == "inside"] == [
            "depthwise"
        ]

    def test_nested(self):
        assert places(nested()) == [("conv1", "output"), *SOFTMAX]

    def test_subclassed(self):
        assert places(subclassed()) == [("conv1", "output"), ("pool", "output"), *SOFTMAX]

    @pytest.mark.parametrize("name", MODELS)
    def test_the_input_first_and_no_place_twice(self, name):
        model = MODELS[name]()
        made = found(model, (16, 4) if name == "conv1d" else (8, 8, 1))
        assert made[0].operation is model
        assert [each.place for each in made].count("input") == 1
        keys = [(id(each.operation), each.place, each.inner) for each in made]
        assert len(set(keys)) == len(keys)


class TestFixed:
    def test_softmax_gets_what_goes_in_and_a_fixed_range(self):
        logits = [each for each in found(mlp()) if each.operation.name == "logits"]
        assert [(each.place, each.fixed) for each in logits] == [
            ("activation", None),
            ("output", (0.0, 255 / 256)),
        ]

    @pytest.mark.parametrize("activation", ["softmax", "sigmoid", "tanh"])
    @pytest.mark.parametrize("how", ["argument", "layer", "function"])
    def test_ranges_that_the_kernel_dictates(self, activation, how):
        if how == "argument":
            model = chain(layers.Dense(4, activation=activation, name="fc"), shape=(4,))
        elif how == "layer":
            model = chain(
                layers.Dense(4, name="fc"), layers.Activation(activation, name="last"), shape=(4,)
            )
        else:
            inputs = keras.Input((4,))
            x = layers.Dense(4, name="fc")(inputs)
            model = keras.Model(inputs, getattr(keras.ops, activation)(x))
        made = found(model, (4,))[1:]
        assert [each.fixed for each in made] == [None, FIXED_RANGES[activation]]
        assert made[0].operation.name == "fc"

    def test_the_softmax_layer(self):
        made = found(chain(layers.Dense(4, name="fc"), layers.Softmax(name="s"), shape=(4,)), (4,))
        assert [(each.operation.name, each.fixed) for each in made[1:]] == [
            ("fc", None),
            ("s", (0.0, 255 / 256)),
        ]

    def test_a_fixed_range_is_not_given_up_for_a_concatenation(self):
        inputs = keras.Input((4,))
        left = layers.Dense(4, activation="sigmoid", name="left")(inputs)
        right = layers.Dense(4, activation="relu", name="right")(inputs)
        model = keras.Model(inputs, layers.Concatenate(name="concat")([left, right]))
        assert places(model, (4,)) == [
            ("left", "activation"),
            ("left", "output"),
            ("concat", "output"),
        ]


class TestRelu:
    @pytest.mark.parametrize(
        "relu",
        [
            layers.ReLU(name="relu"),
            layers.ReLU(max_value=6, name="relu"),
            layers.Activation("relu", name="relu"),
            layers.Activation("relu6", name="relu"),
        ],
        ids=["relu", "six", "activation", "activation six"],
    )
    def test_is_fused_into_what_it_can_be(self, relu):
        relu = type(relu).from_config(relu.get_config())
        assert places(chain(conv(), relu), (8, 8, 3)) == [("relu", "output")]

    @pytest.mark.parametrize(
        "relu",
        [
            layers.ReLU(max_value=3, name="relu"),
            layers.ReLU(negative_slope=0.1, name="relu"),
            layers.ReLU(threshold=0.5, name="relu"),
            layers.LeakyReLU(name="relu"),
            layers.ELU(name="relu"),
        ],
        ids=["three", "slope", "threshold", "leaky", "elu"],
    )
    def test_others_are_ops_of_their_own(self, relu):
        relu = type(relu).from_config(relu.get_config())
        assert places(chain(conv(), relu), (8, 8, 3)) == [("conv", "output"), ("relu", "output")]

    def test_as_a_function(self):
        inputs = keras.Input((8, 8, 3))
        model = keras.Model(inputs, keras.ops.relu(conv()(inputs)))
        assert [name for name, _ in places(model, (8, 8, 3))] == ["relu"]

    @pytest.mark.parametrize("kind", [layers.Add, layers.Subtract, layers.Multiply])
    def test_into_arithmetic(self, kind):
        inputs = keras.Input((4,))
        x, y = (layers.Dense(4, activation="relu", name=name)(inputs) for name in "xy")
        model = keras.Model(inputs, layers.ReLU(name="relu")(kind(name="both")([x, y])))
        assert places(model, (4,)) == [("x", "output"), ("y", "output"), ("relu", "output")]

    def test_into_an_addition_of_tensors(self):
        inputs = keras.Input((4,))
        x, y = (layers.Dense(4, activation="relu", name=name)(inputs) for name in "xy")
        model = keras.Model(inputs, keras.ops.relu(x + y))
        assert [name for name, _ in places(model, (4,))] == ["x", "y", "relu"]

    def test_not_over_pooling(self):
        model = chain(conv(), layers.MaxPooling2D(2, name="pool"), layers.ReLU(name="relu"))
        assert places(model, (8, 8, 3)) == [("conv", "output"), ("relu", "output")]

    def test_not_if_another_reads_what_goes_in(self):
        inputs = keras.Input((8, 8, 3))
        x = conv(padding="same")(inputs)
        model = keras.Model(inputs, layers.Add(name="add")([layers.ReLU(name="relu")(x), x]))
        assert places(model, (8, 8, 3)) == [
            ("conv", "output"),
            ("relu", "output"),
            ("add", "output"),
        ]

    def test_not_if_what_goes_in_is_an_output(self):
        inputs = keras.Input((8, 8, 3))
        x = conv()(inputs)
        model = keras.Model(inputs, [x, layers.ReLU(name="relu")(x)])
        assert places(model, (8, 8, 3)) == [("conv", "output"), ("relu", "output")]


class TestNormalization:
    def test_after_an_activation_stands_alone(self):
        model = chain(conv(activation="relu"), layers.BatchNormalization(name="bn"))
        assert places(model, (8, 8, 3)) == [("conv", "output"), ("bn", "output")]

    def test_after_pooling_stands_alone(self):
        model = chain(
            conv(), layers.MaxPooling2D(2, name="pool"), layers.BatchNormalization(name="bn")
        )
        assert places(model, (8, 8, 3)) == [("conv", "output"), ("bn", "output")]

    def test_after_dense(self):
        model = chain(
            layers.Dense(4, name="fc"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="relu"),
            shape=(4,),
        )
        assert places(model, (4,)) == [("relu", "output")]


class TestOneScale:
    @pytest.mark.parametrize(
        "layer",
        [
            layers.MaxPooling2D(2),
            layers.AveragePooling2D(2),
            layers.GlobalMaxPooling2D(),
            layers.Flatten(),
            layers.Reshape((-1,)),
            layers.Permute((2, 1, 3)),
            layers.ZeroPadding2D(),
            layers.Cropping2D(),
            layers.UpSampling2D(),
        ],
        ids=lambda layer: type(layer).__name__,
    )
    def test_is_handed_on(self, layer):
        assert hands_scale_on(layer)
        layer = type(layer).from_config(layer.get_config())
        assert places(chain(conv(), layer), (8, 8, 3)) == [("conv", "output")]

    @pytest.mark.parametrize(
        "layer",
        [layers.UpSampling2D(interpolation="bilinear"), layers.GlobalAveragePooling2D()],
        ids=["bilinear", "mean"],
    )
    def test_is_not(self, layer):
        assert not hands_scale_on(layer)
        layer = type(layer).from_config({**layer.get_config(), "name": "last"})
        assert places(chain(conv(), layer), (8, 8, 3)) == [("conv", "output"), ("last", "output")]


class TestIgnored:
    def test_a_layer_that_is_ignored_is_not_rounded(self):
        assert places(cnn(), ignored=["conv2"]) == [("conv1", "output"), *SOFTMAX]


def test_a_layer_that_is_called_twice_is_rounded_if_one_of_its_calls_is():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    x = layers.ReLU(name="relu")(shared(inputs))
    model = keras.Model(inputs, shared(x))
    assert places(model, (4,)) == [("shared", "output"), ("relu", "output")]
