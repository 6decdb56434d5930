"""compresskit.methods.ptq and .gptq: other weights without training."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import compresskit as ck
from compresskit.errors import RecipeError
from compresskit.method import Examples, Length
from compresskit.methods.fake_quant import weight_transform
from compresskit.methods.gptq import gptq
from compresskit.methods.grids import scales_of
from compresskit.methods.ptq import PostTraining
from compresskit.stages import PTQ
from compresskit.structure.pairs import pairs
from compresskit.target import Grid
from compresskit.weights import weights_of
from tests.models import MODELS, SEQUENCE_MODELS
from tests.recipes import stage_problem
from tests.runs import QUANTIZE, digits, recipe, untrained
from tests.training import answers, calls, inputs_of, trained

FOUR = Grid(bits=4, activations=False)


def copied(name):
    model = MODELS[name]()
    model.set_weights(trained(name).get_weights())
    return model


def applied(model, x, *algorithms, grid=FOUR, **settings):
    """A model after the stage, and what it says of itself."""
    stage = PTQ(algorithms=algorithms, samples=len(x), **settings)
    attached = PostTraining(stage).attach(
        model,
        x[:2],
        grid,
        Length(epochs=0, steps_per_epoch=0),
        Examples(representative=lambda count: x[:count]),
    )
    assert attached.detach() == {}
    return attached


def error(model, before, x, grid=FOUR):
    """Mean difference of a model, its weights rounded, from answers in floats."""
    kept = model.get_weights()
    for weight in weights_of(model):
        if weight.layout is not None:
            transform = weight_transform(scales_of(weight, grid), 8)
            weight.variable.assign(transform(weight.variable.value))
    after = answers(model, x)
    model.set_weights(kept)
    return float(np.mean(np.abs(after - before)))


class TestContract:
    """What holds of every model."""

    @pytest.mark.parametrize("name", ["cnn_bn", "depthwise", "transpose", "nested", "subclassed"])
    def test_all_three_leave_a_plain_model(self, name):
        model, x = copied(name), inputs_of(name, 32)
        every = {weight.path for weight in weights_of(model)}
        attached = applied(model, x, "cross_layer_equalization", "gptq", "bias_correction")
        assert calls(model) == []
        assert {*attached.touched, *(each.path for each in attached.skipped)} == every
        assert not {*attached.touched} & {each.path for each in attached.skipped}
        assert attached.difference <= 1e-6

    @pytest.mark.parametrize("name", ["lstm", "gru", "tiny_bert"])
    def test_models_of_sequences(self, name):
        model, x = SEQUENCE_MODELS[name](), inputs_of(name, 16)
        attached = applied(model, x, "gptq", "bias_correction")
        assert attached.touched
        assert calls(model) == []
        reasons = {each.reason for each in attached.skipped}
        assert any(word in " ".join(reasons) for word in ("recurrent", "table"))


class TestEqualization:
    def test_both_layers_of_a_pair_get_equal_ranges(self):
        model, x = copied("cnn_bn"), inputs_of("cnn_bn", 16)
        (pair,) = pairs(model)
        assert (pair.first.name, pair.norm.name, pair.second.name) == (
            "conv2",
            "conv2_bn",
            "conv3",
        )
        before, ranges = answers(model, x), pair.largest_first() / pair.largest_second()
        applied(model, x, "cross_layer_equalization")
        assert np.abs(np.log(ranges)).max() > 0.05
        np.testing.assert_allclose(pair.largest_first(), pair.largest_second(), rtol=1e-3)
        np.testing.assert_allclose(answers(model, x), before, atol=1e-6)

    def test_it_makes_up_for_channels_of_unequal_size(self):
        """With one scale for all rows, channels a hundred times smaller would be lost."""
        model, x = copied("mlp"), inputs_of("mlp", 32)
        (pair,) = pairs(model)
        before = answers(model, x)
        pair.scale(np.geomspace(0.01, 100, pair.channels))
        np.testing.assert_allclose(answers(model, x), before, atol=1e-5)
        one_scale = Grid(per_channel_dense=False)
        lost = error(model, before, x, one_scale)
        applied(model, x, "cross_layer_equalization", grid=one_scale)
        assert error(model, before, x, one_scale) < lost / 5

    def test_pairs_through_pooling_flattening_and_depthwise(self):
        inputs = keras.Input((8, 8, 3))
        x = layers.Conv2D(4, 3, name="a")(inputs)
        x = layers.BatchNormalization(name="a_bn")(x)
        x = layers.ReLU()(x)
        x = layers.DepthwiseConv2D(3, activation="relu", name="b")(x)
        x = layers.Conv2D(6, 1, activation="relu", name="c")(x)
        x = layers.Flatten()(layers.MaxPooling2D(2)(x))
        model = keras.Model(inputs, layers.Dense(5, name="d")(x))
        found = [(pair.first.name, pair.second.name) for pair in pairs(model)]
        assert found == [("a", "b"), ("b", "c"), ("c", "d")]
        given = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
        before = answers(model, given)
        for pair in pairs(model):
            pair.scale(np.geomspace(0.1, 10, pair.channels).astype(np.float32))
        np.testing.assert_allclose(answers(model, given), before, atol=1e-5)

    @pytest.mark.parametrize(
        "between",
        [
            layers.ReLU(max_value=6.0),
            layers.Activation("sigmoid"),
            layers.BatchNormalization(scale=False),
            layers.Reshape((2, -1)),
        ],
        ids=["relu6", "sigmoid", "no scale", "reshape"],
    )
    def test_what_is_not_homogeneous_parts_a_pair(self, between):
        inputs = keras.Input((6,))
        x = between(layers.Dense(8)(inputs))
        assert list(pairs(keras.Model(inputs, layers.Dense(4)(x)))) == []

    def test_two_readers_or_an_output_part_a_pair(self):
        inputs = keras.Input((6,))
        shared = layers.Dense(8)(inputs)
        two = keras.Model(inputs, layers.Add()([layers.Dense(4)(shared), layers.Dense(4)(shared)]))
        assert list(pairs(two)) == []
        shown = keras.Model(inputs, [shared, layers.Dense(4)(shared)])
        assert list(pairs(shown)) == []

    def test_a_layer_that_is_called_twice_is_in_no_pair(self):
        inputs, twice = keras.Input((6,)), layers.Dense(6)
        assert list(pairs(keras.Model(inputs, layers.Dense(4)(twice(twice(inputs)))))) == []


class TestBiasCorrection:
    @pytest.mark.parametrize("name", ["cnn", "cnn_bn", "depthwise"])
    def test_rounded_layers_give_on_average_what_they_gave(self, name):
        model, x = copied(name), inputs_of(name, 64)
        before = answers(model, x)
        lost = error(model, before, x)
        attached = applied(model, x, "bias_correction")
        assert attached.difference is None
        assert error(model, before, x) < 0.9 * lost

    def test_without_a_bias_the_mean_of_the_normalization_moves(self):
        model, x = copied("cnn_bn"), inputs_of("cnn_bn", 32)
        applied(model, x, "bias_correction")
        norm, same = model.get_layer("conv1_bn"), trained("cnn_bn").get_layer("conv1_bn")
        assert not np.array_equal(norm.moving_mean, same.moving_mean)
        np.testing.assert_array_equal(norm.gamma, same.gamma)

    def test_nothing_takes_a_correction(self):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, layers.Dense(3, use_bias=False)(inputs))
        (skip,) = applied(model, np.eye(4, dtype=np.float32), "bias_correction").skipped
        assert skip.reason == "has no bias and no normalization behind it"


class TestGptq:
    def test_the_error_of_the_answers_is_smaller_than_of_rounding(self):
        random = np.random.default_rng(0)
        read = random.normal(size=(256, 24)) @ random.normal(size=(24, 24))
        matrix = random.normal(size=(6, 24))
        steps = np.abs(matrix).max(axis=1, keepdims=True) / 7
        whole = gptq(matrix, read.T @ read, steps, 7)
        np.testing.assert_array_equal(whole, np.round(whole))
        assert np.abs(whole).max() == 7
        rounded = np.round(matrix / steps)
        made, usual = (
            np.square(read @ (each * steps - matrix).T).mean() for each in (whole, rounded)
        )
        assert made < usual / 2

    def test_the_largest_weight_stays_so_that_the_step_is_found_again(self):
        random = np.random.default_rng(1)
        matrix = random.normal(size=(20, 9))
        steps = np.abs(matrix).max(axis=1, keepdims=True) / 7
        read = random.normal(size=(12, 9)) + 3  # strongly correlated
        whole = gptq(matrix, read.T @ read, steps, 7)
        largest = np.abs(matrix).argmax(axis=1)
        np.testing.assert_array_equal(np.abs(whole[np.arange(20), largest]), 7)

    def test_inputs_that_are_always_zero_are_rounded_to_the_nearest(self):
        matrix = np.array([[0.7, 0.31, -0.2]])
        whole = gptq(matrix, np.diag([1.0, 0.0, 0.0]), np.array([[0.1]]), 7)
        np.testing.assert_array_equal(whole, [[7, 3, -2]])

    @pytest.mark.parametrize("name", ["cnn", "conv1d", "mlp"])
    @pytest.mark.parametrize(("grid", "bits"), [(FOUR, 8), (Grid(), 4)], ids=["int4", "int8"])
    def test_weights_are_on_the_grid_of_the_kernel(self, name, grid, bits):
        model, x = copied(name), inputs_of(name, 32)
        before = answers(model, x)
        lost = error(model, before, x, grid if bits == 8 else FOUR)
        applied(model, x, "gptq", grid=grid, weight_bits=bits)
        for weight in weights_of(model):
            values = weight.variable.numpy()
            on_grid = weight_transform(scales_of(weight, grid), 8)(weight.variable.value)
            np.testing.assert_allclose(on_grid, values, atol=1e-6 * np.abs(values).max())
            assert max(len(np.unique(row)) for row in weight.matrix(values)) <= 15
        assert np.mean(np.abs(answers(model, x) - before)) < lost


class TestRecipe:
    def test_a_stage_of_a_run(self):
        stage = {
            "type": "ptq",
            "algorithms": ["cross_layer_equalization", "gptq", "bias_correction"],
            "samples": 64,
        }
        four = {"target": "edge-cpu", "precision": "int4", "parity": {"min_agreement": 0.9}}
        made = recipe(stages=[stage], export=[four])
        report = ck.compress(untrained("cnn_bn"), made, data=digits("cnn_bn")).report
        assert report.broken == ()
        (done,) = report.stages
        assert done.history == {}
        what = {promise.what: promise for promise in report.promises}
        equalized = what["mean difference of the outputs after equalization from those before"]
        assert equalized.measured <= equalized.expected == 1e-4
        file = report.artifacts[0].path
        for path in ("conv1/kernel", "logits/kernel"):
            assert what[f"distinct values in a channel of {path} in {file}"].measured <= 15
        assert {tensor.dtype for tensor in report.artifacts[0].tensors} == {"INT4"}

    def test_the_order_of_algorithms(self):
        problem = stage_problem("{type: ptq, algorithms: [gptq, cross_layer_equalization]}")
        assert "cross_layer_equalization, gptq, bias_correction" in problem.expected

    def test_it_does_not_train(self):
        problem = stage_problem("{type: ptq, algorithms: [gptq], epochs: 2}")
        assert "epochs" in problem.where or "epochs" in problem.found

    def test_not_after_qat(self):
        after = [QUANTIZE, {"type": "ptq", "algorithms": ["gptq"]}]
        with pytest.raises(RecipeError) as caught:
            ck.compress(untrained("mlp"), recipe(stages=after), data=digits("mlp"))
        (problem,) = caught.value.problems
        assert "learned with other weights" in problem.found
