"""compresskit.methods.quantize: the model learns behind the rounding of the kernels."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from compresskit.graph import operations
from compresskit.holds import enforce
from compresskit.methods.fake_quant import fake_quant_weight
from compresskit.methods.prune import Pruning
from compresskit.methods.quantize import Quantization
from compresskit.stages import QAT, Prune
from compresskit.target import Grid
from compresskit.tflite.lower import predictions
from compresskit.weights import weights_of
from tests.models import MODELS, cnn, cnn_bn, mlp, tiny_bert
from tests.training import (
    answers,
    calls,
    compiled,
    compressed,
    fit,
    inputs_of,
    labels,
    length,
    trained,
)


def attach(model, x, grid=None, **settings):
    return Quantization(QAT(**settings)).attach(model, x[:2], grid or Grid(), length())


def off_grid(values, axis):
    """Largest distance from the int8 grid, in steps of it."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    steps = values.astype(np.float64) * 127.0 / np.where(largest > 0, largest, 1.0)
    return np.abs(steps - np.round(steps)).max()


def dense_bn(signs=(1, -1, 1)):
    """Dense and BatchNormalization whose scales differ by channel and in sign."""
    inputs = keras.Input((6,))
    x = layers.Dense(3, use_bias=False, name="fc")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    model = keras.Model(inputs, layers.ReLU(name="relu")(x))
    model.get_layer("bn").gamma.assign(np.array([0.5, 2.0, 1.0]) * signs)
    model.get_layer("bn").moving_variance.assign([4.0, 0.25, 1.0])
    return model


class TestContract:
    """What holds of every model."""

    @pytest.mark.parametrize("name", MODELS)
    def test_detached_with_its_ranges_it_answers_as_it_did_in_training(self, name):
        done = compressed(name)
        np.testing.assert_allclose(
            predictions(done.model, done.x, done.ranges), done.trained, atol=1e-6
        )
        # Without them the model answers otherwise, so they are of weight.
        assert np.abs(answers(done.model, done.x) - done.trained).max() > 1e-5

    @pytest.mark.parametrize("name", MODELS)
    def test_detached_it_is_plain(self, name):
        assert calls(compressed(name).model) == []

    @pytest.mark.parametrize("name", MODELS)
    def test_detached_it_saves_and_loads(self, name, tmp_path):
        done = compressed(name)
        done.model.save(tmp_path / "m.keras")
        again = keras.models.load_model(tmp_path / "m.keras")
        np.testing.assert_allclose(predictions(again, done.x, done.ranges), done.trained, atol=1e-6)

    @pytest.mark.parametrize("name", MODELS)
    def test_weights_are_on_the_grid_and_zeros_stay(self, name):
        done = compressed(name)
        for weight in weights_of(done.model):
            values = weight.variable.numpy()
            assert off_grid(weight.matrix(values), 1) < 1e-3
            if weight.path in done.masks:
                assert not values[~done.masks[weight.path]].any()

    @pytest.mark.parametrize("name", MODELS)
    def test_ranges_hold_zero_and_name_their_operations(self, name):
        done = compressed(name)
        known = list(operations(done.model))
        assert done.ranges[0].operation is None
        assert done.ranges[0].place == "input"
        for each in done.ranges:
            assert each.low <= 0 < each.high or each.low < 0 <= each.high
            assert np.isfinite([each.low, each.high]).all()
            assert each.bits == 8
            if each.operation is not None:
                assert known[each.operation].name == each.name
        assert (done.ranges[-1].low, done.ranges[-1].high) == (0.0, 255 / 256)

    @pytest.mark.parametrize("name", MODELS)
    def test_attached_it_answers_in_steps_of_its_last_range(self, name):
        steps = compressed(name).trained * 256
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


class TestTraining:
    def test_the_weights_learn(self):
        x = inputs_of("cnn")
        model = compiled(cnn(), keras.optimizers.Adam(1e-2))
        before = [variable.numpy() for variable in model.trainable_variables]
        attached = attach(model, x)
        fit(model, x, attached, epochs=1)
        for variable, old in zip(model.trainable_variables, before, strict=True):
            assert np.abs(variable.numpy() - old).max() > 1e-4
        # The masters are free of the grid; what the layer reads is on it.
        kernel = model.get_layer("conv2").kernel
        assert off_grid(kernel.numpy().reshape(-1, 16), 0) > 0.1
        attached.detach()
        assert off_grid(kernel.numpy().reshape(-1, 16), 0) < 1e-3

    def test_moving_averages_move(self):
        x = inputs_of("cnn_bn")
        model = compiled(cnn_bn())
        attached = attach(model, x)
        fit(model, x, attached, epochs=1)
        assert model.get_layer("conv1_bn").moving_mean.numpy().any()

    def test_ranges_stand_still_in_evaluation(self):
        x = inputs_of("mlp")
        model = compiled(mlp())
        attached = attach(model, x)
        fit(model, x, attached, epochs=1)
        model.make_test_function(force=True)
        model.evaluate(100 * x, labels(), verbose=0, callbacks=list(attached.callbacks))
        model.evaluate(100 * x, labels(), verbose=0)
        model.predict(100 * x, verbose=0)
        (first, *_) = attached.detach()["ranges"]
        assert first.high < 10

    def test_ranges_stand_still_in_validation(self):
        x = inputs_of("mlp")
        model = compiled(mlp())
        attached = attach(model, x)
        model.fit(
            x,
            labels(),
            validation_data=(100 * x, labels()),
            epochs=2,
            verbose=0,
            callbacks=list(attached.callbacks),
        )
        (first, *_) = attached.detach()["ranges"]
        assert 1 < first.high < 10

    def test_ranges_follow_the_data(self):
        x = inputs_of("mlp")
        model = compiled(mlp(), keras.optimizers.SGD(0.0))
        attached = attach(model, x, ema_decay=0.0)
        model.fit(x, labels(), batch_size=64, verbose=0, callbacks=list(attached.callbacks))
        ranges = {(each.name, each.place): each for each in attached.detach()["ranges"]}
        first = ranges["mlp", "input"]
        assert (first.low, first.high) == pytest.approx((x.min(), x.max()))
        hidden = ranges["fc1", "output"]
        assert hidden.low == 0
        assert hidden.high > 0

    def test_without_training_there_are_no_ranges_but_fixed_ones(self):
        model = mlp()
        ranges = attach(model, inputs_of("mlp")).detach()["ranges"]
        assert [(each.name, each.place) for each in ranges] == [("logits", "output")]


class TestGrid:
    def test_dense_per_tensor(self):
        done = compressed("mlp", per_channel_dense=False)
        for weight in weights_of(done.model):
            values = weight.variable.numpy()
            assert off_grid(values, None) < 1e-3
            assert off_grid(values, 0) > 0.1

    @pytest.mark.parametrize("name", ["cnn", "tiny_bert"])
    def test_weights_alone(self, name):
        """For files whose kernels compute in floats."""
        model = {"cnn": cnn, "tiny_bert": tiny_bert}[name]()
        attached = attach(model, inputs_of(name), Grid(activations=False))
        assert all("_compute_attention" not in vars(each) for each in model._flatten_layers())
        layers_called = {layer for layer in model._flatten_layers() if "call" in vars(layer)}
        assert layers_called == {weight.layer for weight in weights_of(model)}
        assert attached.detach()["ranges"] == ()

    def test_convolutions_stay_per_channel(self):
        model = cnn()
        attach(model, inputs_of("cnn"), Grid(per_channel_dense=False)).detach()
        assert off_grid(model.get_layer("conv2").kernel.numpy().reshape(-1, 16), 0) < 1e-3

    def test_a_normalization_behind_dense_is_folded_first(self):
        model = dense_bn()
        kernel, norm = model.get_layer("fc").kernel, model.get_layer("bn")
        x = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
        attach(model, x, Grid(per_channel_dense=False)).detach()
        factor = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
        assert off_grid(kernel.numpy() * factor, None) < 1e-3
        assert off_grid(kernel.numpy(), None) > 0.1

    def test_a_scale_of_zero_in_the_normalization(self):
        model = dense_bn(signs=(0, 1, 1))
        x = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
        attach(model, x, Grid(per_channel_dense=False)).detach()
        assert np.isfinite(model.get_layer("fc").kernel.numpy()).all()

    @pytest.mark.parametrize("bits", [2, 4, 6])
    def test_fewer_bits(self, bits):
        model = cnn()
        attach(model, inputs_of("cnn"), weight_bits=bits).detach()
        for weight in weights_of(model):
            matrix = weight.matrix(weight.variable.numpy())
            assert max(np.unique(row).size for row in matrix) <= 2**bits - 1
            assert off_grid(matrix, 1) < 1e-3

    def test_activation_bits(self):
        x = inputs_of("mlp")
        model = compiled(mlp())
        attached = attach(model, x, activation_bits=4)
        fit(model, x, attached, epochs=1)
        assert np.unique(answers(model, x)).size <= 16
        assert {each.bits for each in attached.detach()["ranges"]} == {4}


class TestSelection:
    def test_what_is_ignored_stays_as_it_is(self):
        model = cnn()
        kernel = model.get_layer("conv1").kernel
        before = kernel.numpy()
        attached = attach(model, inputs_of("cnn"), ignore=["conv1"])
        assert attached.touched == ("conv2/kernel", "logits/kernel")
        assert attached.skipped[0].path == "conv1/kernel"
        assert calls(model) == ["cnn", "conv2", "logits"]
        attached.detach()
        np.testing.assert_array_equal(kernel.numpy(), before)

    def test_layers_without_a_kernel_that_is_known(self):
        inputs = keras.Input((4, 3))
        x = layers.SimpleRNN(4, name="rnn")(inputs)
        model = keras.Model(inputs, layers.Dense(2, name="fc")(x))
        selection = Quantization(QAT(targets=["rnn"])).select(model, "stages[0]")
        assert selection.taken == ()
        assert {skip.reason for skip in selection.skipped} == {
            "no integer kernel is known for layers of type SimpleRNNCell",
            "not among the targets",
        }

    def test_selecting_leaves_the_model_alone(self):
        model = mlp()
        Quantization(QAT()).select(model, "stages[0]")
        assert calls(model) == []

    def test_one_of_the_two_kernels_of_a_separable_convolution(self):
        model = MODELS["depthwise"]()
        before = model.get_layer("separable").depthwise_kernel.numpy()
        attached = attach(
            model, inputs_of("depthwise"), targets=["separable/pointwise_kernel", "type:Dense"]
        )
        assert attached.touched == ("separable/pointwise_kernel", "logits/kernel")
        attached.detach()
        np.testing.assert_array_equal(model.get_layer("separable").depthwise_kernel.numpy(), before)


class TestComposition:
    @pytest.mark.parametrize("first", ["prune", "qat"])
    def test_pruning_and_quantization_detach_in_any_order(self, first):
        model = mlp()
        x = inputs_of("mlp")
        prune = Pruning(Prune(sparsity=0.5)).attach(model, x[:2], Grid(), length())
        kernel = model.get_layer("fc1").kernel
        mask = np.indices(kernel.shape).sum(axis=0) % 2
        kernel.constraint.holds[0].mask.assign(mask)
        enforce(kernel)
        qat = attach(model, x)
        for attached in (prune, qat) if first == "prune" else (qat, prune):
            attached.detach()
        assert not kernel.numpy()[mask == 0].any()
        assert off_grid(kernel.numpy(), 0) < 1e-3
        assert kernel.constraint is None
        assert calls(model) == []

    def test_a_shared_layer_is_rounded_once(self):
        shared = layers.Dense(4, name="shared")
        inputs = keras.Input((4,))
        model = keras.Model(inputs, shared(layers.ReLU(name="relu")(shared(inputs))))
        x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
        kernel = shared.kernel.numpy()
        attached = attach(model, x)
        assert attached.touched == ("shared/kernel",)
        attached.detach()
        np.testing.assert_array_equal(
            shared.kernel.numpy(), fake_quant_weight(kernel, (0,), 8).numpy()
        )

    def test_a_trained_model_changes_little(self):
        plain = trained("cnn")
        model = keras.models.clone_model(plain)
        model.set_weights(plain.get_weights())
        x = inputs_of("cnn")
        compiled(model, keras.optimizers.SGD(0.0))
        attached = attach(model, x)
        fit(model, x, attached, epochs=1)
        assert np.abs(answers(model, x) - answers(plain, x)).max() < 0.05
