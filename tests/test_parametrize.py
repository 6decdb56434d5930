"""compresskit.parametrize: what a layer reads in place of its variable."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compresskit.parametrize import CallHook, hook, reading, settle
from tests.models import cnn_bn, mlp
from tests.training import compiled, inputs_of, labels


def doubled(values):
    return values * 2.0


def straight_through(values):
    return values + tf.stop_gradient(tf.round(values) - values)


def dense(units=3, inputs=4, **kwargs):
    layer = layers.Dense(units, use_bias=False, **kwargs)
    layer.build((None, inputs))
    return layer


X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


class Composite(layers.Layer):
    """A layer of layers with state that moves in training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.fc = layers.Dense(4)
        self.norm = layers.BatchNormalization(momentum=0.5)
        self.dropout = layers.Dropout(0.5, seed=3)

    def build(self, shape):
        self.fc.build(shape)
        self.norm.build((shape[0], 4))

    def call(self, inputs, training=False):
        return self.dropout(self.norm(self.fc(inputs), training=training), training=training)


def composite():
    layer = Composite()
    layer.build((None, 4))
    return layer


class TestReading:
    def test_yields_the_tensor_beside_the_variable(self):
        variable = keras.Variable(np.ones(2, np.float32))
        with reading([(variable, tf.constant([5.0, 6.0]))], ()):
            np.testing.assert_array_equal(variable.value, [5.0, 6.0])
        np.testing.assert_array_equal(variable.value, [1.0, 1.0])

    def test_what_is_assigned_inside_is_written_back(self):
        read, other = (keras.Variable(np.ones(2, np.float32)) for _ in range(2))
        with reading([(read, tf.zeros(2))], (read, other)):
            other.assign_add([1.0, 2.0])
            np.testing.assert_array_equal(other.value, [2.0, 3.0])
        np.testing.assert_array_equal(other.value, [2.0, 3.0])
        np.testing.assert_array_equal(read.value, [1.0, 1.0])

    def test_only_to_the_variables_that_are_named(self):
        other = keras.Variable(np.ones(2, np.float32))
        with reading([], ()):
            other.assign([9.0, 9.0])
        np.testing.assert_array_equal(other.value, [1.0, 1.0])

    def test_a_mapping_of_an_outer_scope_stays_visible(self):
        first, second = (keras.Variable(np.ones(1, np.float32)) for _ in range(2))
        with reading([(first, tf.constant([2.0]))], ()):
            with reading([(second, tf.constant([3.0]))], ()):
                assert float(first.value[0]) == 2.0
                assert float(second.value[0]) == 3.0
            assert float(second.value[0]) == 1.0
        assert float(first.value[0]) == 1.0

    def test_an_inner_mapping_covers_an_outer_one(self):
        variable = keras.Variable(np.ones(1, np.float32))
        with reading([(variable, tf.constant([2.0]))], (variable,)):
            with reading([(variable, tf.constant([3.0]))], (variable,)):
                assert float(variable.value[0]) == 3.0
            assert float(variable.value[0]) == 2.0
        assert float(variable.value[0]) == 1.0

    def test_what_an_inner_scope_assigned_gets_out_through_both(self):
        variable, other = (keras.Variable(np.ones(1, np.float32)) for _ in range(2))
        with reading([(other, tf.zeros(1))], (variable,)):
            with reading([], (variable,)):
                variable.assign_add([1.0])
            assert float(variable.value[0]) == 2.0
        assert float(variable.value[0]) == 2.0

    def test_an_error_inside_leaves_the_variables_alone(self):
        variable = keras.Variable(np.ones(1, np.float32))

        def fails():
            with reading([], (variable,)):
                variable.assign([5.0])
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fails()
        assert float(variable.value[0]) == 1.0


class TestHook:
    def test_is_made_once(self):
        layer = dense()
        made = hook(layer)
        assert isinstance(made, CallHook)
        assert hook(layer) is made
        assert layer.call is made

    def test_an_idle_hook_changes_nothing(self):
        layer = dense()
        before = layer(X)
        hook(layer)
        np.testing.assert_array_equal(layer(X), before)

    def test_the_layer_reads_the_transformed_value(self):
        layer = dense()
        hook(layer).parameters.append((layer.kernel, doubled))
        np.testing.assert_allclose(layer(X), X @ layer.kernel.numpy() * 2.0, rtol=1e-5)

    def test_transforms_of_one_variable_apply_in_order(self):
        layer = dense()
        hook(layer).parameters.extend([(layer.kernel, lambda v: v + 1.0), (layer.kernel, doubled)])
        expected = X @ (2.0 * (layer.kernel.numpy() + 1.0))
        np.testing.assert_allclose(layer(X), expected, rtol=1e-5)

    def test_the_gradient_flows_to_the_master(self):
        layer = dense()
        hook(layer).parameters.append((layer.kernel, straight_through))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(tf.constant(X)))
        (gradient,) = tape.gradient(loss, layer.trainable_variables)
        np.testing.assert_allclose(
            gradient, np.repeat(X.sum(axis=0)[:, None], 3, axis=1), rtol=1e-5
        )

    def test_every_float_input_and_output_is_transformed(self):
        add = layers.Add()
        hook(add).inputs.append(doubled)
        hook(add).outputs.append(lambda v: v + 1.0)
        np.testing.assert_array_equal(add([tf.ones(2), tf.ones(2) * 3.0]), [9.0, 9.0])

    def test_integers_pass_as_they_are(self):
        layer = layers.Embedding(4, 2)
        layer.build((None, 1))
        hook(layer).inputs.append(lambda v: v * 0.0)
        np.testing.assert_array_equal(layer(np.array([[3]]))[0, 0], layer.embeddings.numpy()[3])

    def test_numpy_inputs(self):
        model = mlp()
        hook(model).inputs.append(lambda v: v * 0.0)
        x = inputs_of("mlp", 2)
        np.testing.assert_allclose(model(x), model(np.zeros_like(x)), rtol=1e-6)
        np.testing.assert_allclose(model(x)[0], model(x)[1], rtol=1e-6)

    def test_the_activation_is_wrapped_only_during_the_call(self):
        layer = dense(activation="relu")
        original = layer.activation
        hook(layer).activation = lambda own: lambda values: own(values) + 1.0
        expected = np.maximum(X @ layer.kernel.numpy(), 0.0) + 1.0
        np.testing.assert_allclose(layer(X), expected, rtol=1e-5)
        assert layer.activation is original

    def test_the_activation_is_put_back_after_an_error(self):
        layer = dense(activation="relu")
        original = layer.activation

        def fails(values):
            raise ZeroDivisionError

        hook(layer).activation = lambda own: fails
        with pytest.raises(ZeroDivisionError):
            layer(X)
        assert layer.activation is original

    def test_a_function_of_a_functional_model(self):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.ops.relu(inputs + 1.0))
        relu = next(each for each in model.operations if type(each).__name__ == "Relu")
        hook(relu).outputs.append(doubled)
        np.testing.assert_allclose(model(X), 2.0 * np.maximum(X + 1.0, 0.0), rtol=1e-6)

    def test_a_layer_without_a_training_argument_still_gets_none(self):
        model = cnn_bn()
        for layer in model.layers:
            hook(layer).outputs.append(tf.identity)
        x = inputs_of("cnn_bn", 2)
        assert model(x, training=True).shape == (2, 10)


class TestState:
    @pytest.mark.parametrize("inner", [False, True], ids=["alone", "with one inside"])
    def test_moving_averages_and_seeds_still_update(self, inner):
        hooked, plain = composite(), composite()
        plain.set_weights(hooked.get_weights())
        hook(hooked).parameters.append((hooked.fc.kernel, straight_through))
        if inner:
            hook(hooked.norm).parameters.append((hooked.norm.gamma, tf.identity))
            hook(hooked.fc).parameters.append((hooked.fc.bias, tf.identity))
        plain.fc.kernel.assign(np.round(plain.fc.kernel.numpy()))
        for _ in range(2):
            np.testing.assert_allclose(
                hooked(X, training=True), plain(X, training=True), rtol=1e-5, atol=1e-6
            )
        assert hooked.norm.moving_mean.numpy().any()
        np.testing.assert_allclose(
            hooked.norm.moving_mean.numpy(), plain.norm.moving_mean.numpy(), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            hooked.norm.moving_variance.numpy(), plain.norm.moving_variance.numpy(), rtol=1e-5
        )
        seeds = [layer.dropout.seed_generator.state.numpy() for layer in (hooked, plain)]
        np.testing.assert_array_equal(*seeds)
        assert seeds[0][1] > 0

    def test_an_outer_mapping_reaches_a_hooked_layer_inside(self):
        layer = composite()
        hook(layer).parameters.append((layer.fc.kernel, lambda v: v * 0.0))
        hook(layer.fc).parameters.append((layer.fc.bias, lambda v: v + 5.0))
        layer.norm.epsilon = 0.0
        np.testing.assert_allclose(layer(X), np.full((5, 4), 5.0), rtol=1e-5)

    def test_inside_a_compiled_function(self):
        layer = composite()
        hook(layer).parameters.append((layer.fc.kernel, straight_through))
        function = tf.function(lambda x: layer(x, training=True))
        function(tf.constant(X))
        once = layer.norm.moving_mean.numpy()
        function(tf.constant(X))
        assert once.any()
        assert (layer.norm.moving_mean.numpy() != once).any()


class TestSettle:
    def test_gives_the_call_back_once_nothing_is_left(self):
        layer = dense()
        parameter = (layer.kernel, doubled)
        made = hook(layer)
        made.parameters.append(parameter)
        made.outputs.append(doubled)
        made.outputs.remove(doubled)
        settle(layer)
        assert layer.call is made
        made.parameters.remove(parameter)
        settle(layer)
        assert "call" not in layer.__dict__
        np.testing.assert_allclose(layer(X), X @ layer.kernel.numpy(), rtol=1e-5)

    def test_keeps_a_hook_whose_call_is_another_form(self):
        layer = dense()
        made = hook(layer)
        made.call = lambda inputs: inputs
        settle(layer)
        assert layer.call is made

    def test_an_operation_without_a_hook(self):
        layer = dense()
        settle(layer)
        assert "call" not in layer.__dict__


class TestModel:
    def test_saves_while_it_is_hooked(self, tmp_path):
        model = mlp()
        for layer in (model.get_layer("fc1"), model.get_layer("logits")):
            hook(layer).parameters.append((layer.kernel, straight_through))
        hook(model).inputs.append(tf.identity)
        model.save(tmp_path / "hooked.keras")
        loaded = keras.models.load_model(tmp_path / "hooked.keras")
        assert not isinstance(loaded.get_layer("fc1").call, CallHook)
        for mine, other in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(mine.numpy(), other.numpy())

    def test_fit_sees_a_hook_after_tracing_again(self):
        model = compiled(mlp(), keras.optimizers.SGD(0.0))
        x, y = inputs_of("mlp"), labels()

        def loss():
            return model.fit(x, y, batch_size=64, verbose=0).history["loss"][0]

        plain = loss()
        layer = model.get_layer("logits")
        hook(layer).parameters.append((layer.kernel, lambda v: v * 0.0))
        model.make_train_function(force=True)
        # All probabilities alike.
        assert loss() == pytest.approx(np.log(10), rel=1e-4)
        hook(layer).parameters.clear()
        settle(layer)
        model.make_train_function(force=True)
        assert loss() == pytest.approx(plain, rel=1e-5)
