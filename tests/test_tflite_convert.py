"""compresskit.tflite.convert: to TFLite, in a process that may die."""

from __future__ import annotations

import os
import signal
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from compresskit.child import Child
from compresskit.errors import ConversionError
from compresskit.method import Length
from compresskit.methods.quantize import Quantization
from compresskit.stages import QAT
from compresskit.target import Grid, Precision
from compresskit.tflite import convert as module
from compresskit.tflite.audit import audit
from compresskit.tflite.convert import convert
from compresskit.tflite.runtime import Runner
from compresskit.tflite.scales import check_scales
from tests.files import PRECISIONS, int8_file, plain_file
from tests.models import MODELS, SEQUENCE_MODELS, mlp
from tests.training import answers, compressed, inputs_of, trained

INT8 = Precision(weights="int8", activations="int8", io="int8")


class TestContract:
    """What holds of every model."""

    @pytest.mark.parametrize(
        ("precision", "tolerance"), [("float32", 1e-5), ("float16", 5e-3), ("dynamic", 0.1)]
    )
    @pytest.mark.parametrize("name", MODELS)
    def test_the_file_answers_as_the_model(self, name, precision, tolerance):
        x = inputs_of(name, 16)
        given = Runner(plain_file(name, precision)).predict(x)
        np.testing.assert_allclose(given, answers(trained(name), x), atol=tolerance)

    @pytest.mark.parametrize("name", MODELS)
    def test_integers_answer_as_the_model_did_in_training(self, name):
        done = compressed(name)
        given = Runner(int8_file(name)).predict(done.x)
        assert np.abs(given - done.trained).max() <= 3 / 256 + 1e-6
        assert np.mean(given.argmax(-1) == done.trained.argmax(-1)) > 0.9

    @pytest.mark.parametrize("name", ["cnn_bn", "mlp"])
    def test_one_scale_for_dense(self, name):
        done = compressed(name, per_channel_dense=False)
        content = int8_file(name, per_channel_dense=False)
        given = Runner(content).predict(done.x)
        assert np.abs(given - done.trained).max() <= 3 / 256 + 1e-6
        dense = [op for op in audit(content).ops if op.name == "FULLY_CONNECTED"]
        assert dense
        for op in dense:
            assert audit(content).tensors[op.inputs[1]].scales.size == 1


# What the converter makes of a Keras 3 model that is handed to it as it is: variables left as
# resources, which may answer NaN; a batch of any size, with which a recurrent layer is refused or
# needs TensorFlow's own ops; loops, whose conversion to int8 ends the process; tokens, whose type
# it rejects for an int8 file.
BROKEN = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE", "WHILE", "CUSTOM")


class TestKnownToBreak:
    @pytest.mark.parametrize("name", [*MODELS, *SEQUENCE_MODELS])
    def test_nothing_of_it_is_in_a_file(self, name):
        read = audit(int8_file(name))
        assert not [op for op in read.counts if op in BROKEN or op.startswith("Flex")]
        for index in (*read.inputs, *read.outputs):
            assert read.tensors[index].shape[0] == 1
        tokens = np.issubdtype(inputs_of(name, 1).dtype, np.integer)
        assert [read.tensors[index].dtype for index in read.inputs] == [
            "INT32" if tokens else "INT8"
        ]
        assert [read.tensors[index].dtype for index in read.outputs] == ["INT8"]


class TestPrecision:
    def test_floats_outside_integers_inside(self):
        done = compressed("mlp")
        content = int8_file("mlp", io="float32")
        read = audit(content)
        assert [read.tensors[index].dtype for index in (*read.inputs, *read.outputs)] == [
            "FLOAT32",
            "FLOAT32",
        ]
        given = Runner(content).predict(done.x)
        assert np.abs(given - done.trained).max() <= 3 / 256 + 1e-6

    def test_calibration_alone(self):
        x = inputs_of("cnn")
        content = convert(trained("cnn"), INT8, sample=x[:1], calibration=x)
        assert audit(content).computed_in_float() == []
        given = Runner(content).predict(x)
        np.testing.assert_allclose(given, answers(trained("cnn"), x), atol=0.1)

    def test_the_names_of_the_inputs_stay(self):
        read = audit(plain_file("cnn", "float32"))
        assert "image" in read.tensors[read.inputs[0]].name
        assert read.tensors[read.inputs[0]].shape == (1, 8, 8, 1)


def quantized_file(model, x, epochs=1, **grid):
    """The integer file of an untrained model whose ranges were observed, and its answers."""
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    attached = Quantization(QAT()).attach(
        model, x[:2], Grid(**grid), Length(epochs=epochs, steps_per_epoch=1)
    )
    y = np.zeros(answers(model, x).shape, np.float32)
    model.fit(x, y, batch_size=len(x), verbose=0, callbacks=list(attached.callbacks))
    expected = answers(model, x)
    ranges = attached.detach()["ranges"]
    precision = Precision(weights="int8", activations="int8", io="int8", grid=Grid(**grid))
    content = convert(model, precision, sample=x[:1], calibration=x, ranges=ranges)
    return content, expected


SHAPES = {
    "negative gamma": (
        (8, 8, 3),
        lambda: [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()],
    ),
    "norm after relu": (
        (8, 8, 3),
        lambda: [layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization()],
    ),
    "dense norm": ((8,), lambda: [layers.Dense(6), layers.BatchNormalization(), layers.ReLU()]),
    "sigmoid": ((8,), lambda: [layers.Dense(6, activation="sigmoid"), layers.Dense(3)]),
    "tanh": ((8,), lambda: [layers.Dense(6, activation="tanh"), layers.Dense(3)]),
    "relu6": ((8, 8, 3), lambda: [layers.Conv2D(4, 3, activation="relu6"), layers.Flatten()]),
    "leaky": ((8, 8, 3), lambda: [layers.Conv2D(4, 3), layers.LeakyReLU(), layers.Flatten()]),
    "average pool": ((8, 8, 3), lambda: [layers.Conv2D(4, 3), layers.AveragePooling2D(2)]),
    "padding": ((8, 8, 3), lambda: [layers.ZeroPadding2D(), layers.Conv2D(4, 3, strides=2)]),
    "dilated": ((9, 9, 3), lambda: [layers.Conv2D(4, 3, dilation_rate=2)]),
    "grouped": ((8, 8, 4), lambda: [layers.Conv2D(6, 3, groups=2)]),
    "multiplier": ((8, 8, 3), lambda: [layers.DepthwiseConv2D(3, depth_multiplier=2)]),
    "depthwise1d": ((16, 4), lambda: [layers.DepthwiseConv1D(3), layers.Conv1D(3, 3)]),
    "separable1d": ((16, 4), lambda: [layers.SeparableConv1D(6, 3, activation="relu")]),
    "causal": ((16, 4), lambda: [layers.Conv1D(6, 3, padding="causal")]),
    "dense over time": ((5, 8), lambda: [layers.Dense(6, activation="relu"), layers.Dense(3)]),
    "upsampling": ((4, 4, 3), lambda: [layers.UpSampling2D(2), layers.Conv2D(4, 3)]),
}


class TestOtherLayers:
    """Integer files of single patterns, against the model in training."""

    @pytest.mark.parametrize("name", SHAPES)
    def test_integers_answer_as_the_model(self, name):
        shape, stack = SHAPES[name]
        model = keras.Sequential([keras.Input(shape), *stack()])
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                size = layer.gamma.shape[0]
                layer.gamma.assign(np.linspace(-1.5, 2.0, size))
                layer.moving_variance.assign(np.linspace(0.1, 2.0, size))
                layer.moving_mean.assign(np.linspace(-0.5, 0.5, size))
                layer.momentum = 1.0
        x = np.random.default_rng(0).normal(size=(32, *shape)).astype(np.float32)
        content, expected = quantized_file(model, x)
        read = audit(content)
        assert read.computed_in_float() == []
        check_scales(read, "file")
        given = Runner(content).predict(x)
        step = float(read.tensors[read.outputs[0]].scales[0])
        assert np.abs(given - expected).max() <= 3.01 * step

    def test_a_sum_of_tensors(self):
        inputs = keras.Input((8,))
        x, y = layers.Dense(6, activation="relu")(inputs), layers.Dense(6)(inputs)
        model = keras.Model(inputs, keras.ops.relu(x + y))
        x = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
        content, expected = quantized_file(model, x)
        read = audit(content)
        assert read.computed_in_float() == []
        assert read.requantized() == []
        step = float(read.tensors[read.outputs[0]].scales[0])
        assert np.abs(Runner(content).predict(x) - expected).max() <= 2.01 * step

    def test_dense_and_normalization_with_one_scale(self):
        model = keras.Sequential(
            [keras.Input((8,)), layers.Dense(6), layers.BatchNormalization(momentum=1.0)]
        )
        norm = model.layers[-1]
        norm.gamma.assign(np.linspace(0.1, 3.0, 6))
        x = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
        content, expected = quantized_file(model, x, per_channel_dense=False)
        read = audit(content)
        assert [tensor.scales.size for tensor in read.weights] == [1]
        step = float(read.tensors[read.outputs[0]].scales[0])
        assert np.abs(Runner(content).predict(x) - expected).max() <= 2.01 * step


class Determinant(layers.Layer):
    """Something that no edge runtime has."""

    def call(self, inputs):
        return tf.linalg.det(inputs)


class TestErrors:
    def test_an_op_that_tflite_does_not_have_is_named(self):
        inputs = keras.Input((3, 3))
        model = keras.Model(inputs, Determinant()(inputs), name="strange")
        with pytest.raises(ConversionError, match="MatrixDeterminant") as raised:
            convert(model, PRECISIONS["float32"], sample=np.zeros((1, 3, 3), np.float32))
        (problem,) = raised.value.problems
        assert problem.where == "conversion of 'strange'"
        assert raised.value.exit_code == 1
        assert "to do:" in str(raised.value)

    def test_the_process_is_used_again_after_an_error(self):
        assert plain_file("mlp", "float32")
        process = module._worker._process
        inputs = keras.Input((3, 3))
        model = keras.Model(inputs, Determinant()(inputs))
        with pytest.raises(ConversionError):
            convert(model, PRECISIONS["float32"], sample=np.zeros((1, 3, 3), np.float32))
        assert convert(mlp(), PRECISIONS["float32"], sample=inputs_of("mlp", 1))
        assert module._worker._process is process


@pytest.fixture
def worker(monkeypatch):
    """A converter process of the test's own."""
    made = Child("compresskit.tflite.worker", "the converter")
    monkeypatch.setattr(module, "_worker", made)
    yield made
    made.stop()


def killed(process):
    """Kills a process and waits until it is dead, without telling its `Popen`."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


class TestCrash:
    def test_is_an_error_and_the_next_conversion_works(self, worker):
        def kill():
            while worker._process is None:
                time.sleep(0.01)
            time.sleep(0.3)
            os.kill(worker._process.pid, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        model, x = mlp(), inputs_of("mlp", 1)
        with pytest.raises(ConversionError) as raised:
            convert(model, PRECISIONS["float32"], sample=x)
        thread.join()
        (problem,) = raised.value.problems
        assert problem.where == "conversion of 'mlp'"
        assert problem.found.startswith("the converter died (exit status -9)")
        content = convert(model, PRECISIONS["float32"], sample=x)
        np.testing.assert_allclose(Runner(content).predict(x), answers(model, x), atol=1e-5)
        # A process that has died while nobody looked is no error at all.
        killed(worker._process)
        assert convert(model, PRECISIONS["float32"], sample=x)

    def test_a_package_of_that_name_in_the_current_folder(self, worker, tmp_path, monkeypatch):
        (tmp_path / "compresskit").mkdir()
        (tmp_path / "compresskit" / "__init__.py").write_text("raise SystemExit(7)")
        monkeypatch.chdir(tmp_path)
        assert convert(mlp(), PRECISIONS["float32"], sample=inputs_of("mlp", 1))

    def test_while_the_request_is_written(self, worker):
        process = worker._start()
        killed(process)
        process.poll = lambda: None  # it died a moment after we looked
        error = worker.ask({"saved_model": "nowhere"}, timeout=10.0).error
        assert error.startswith("the converter died (exit status -9)")

    def test_takes_too_long(self, worker):
        request = {"saved_model": "nowhere", "out": "nowhere"}
        error = worker.ask(request, timeout=0.0).error
        assert error == "no result after 0 seconds; the converter was stopped"
        assert worker._process is None

    def test_stopping_twice(self, worker):
        worker.stop()
        worker.stop()
        assert worker._process is None
