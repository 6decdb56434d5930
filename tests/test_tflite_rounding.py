"""compresskit.tflite.rounding and .support: 4-bit weights and 16-bit activations."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

from compresskit import catalog, installed
from compresskit.errors import TargetError
from compresskit.methods.quantize import Quantization
from compresskit.recipe_rounding import Rounding
from compresskit.stages import QAT
from compresskit.tflite.audit import audit
from compresskit.tflite.convert import convert
from compresskit.tflite.match import find
from compresskit.tflite.runtime import Runner
from compresskit.tflite.scales import check_scales
from compresskit.weights import weights_of
from tests.models import MODELS, SEQUENCE_MODELS
from tests.training import FOLDED, answers, compressed, inputs_of, length, trained

PRECISIONS = catalog.targets.get("edge-cpu").precisions
EVERY = ["cnn", "cnn_bn", "depthwise", "conv1d", "transpose", "lstm", "gru", "tiny_bert"]


def plain(name):
    return compressed(name).model if name in SEQUENCE_MODELS else trained(name)


@functools.cache
def on_grid(name):
    """A trained model whose weights QAT has put on the grid of 4-bit kernels."""
    model = {**MODELS, **SEQUENCE_MODELS}[name]()
    model.set_weights(plain(name).get_weights())
    method = Quantization(QAT(weight_bits=4))
    method.attach(model, inputs_of(name, 2), PRECISIONS["int4"].grid, length()).detach()
    return model


@functools.cache
def file(name, precision, **rounding):
    x = inputs_of(name, 32)
    return convert(
        on_grid(name) if precision == "int4" and not rounding else plain(name),
        PRECISIONS[precision],
        sample=x[:1],
        calibration=x,
        lstm="unrolled" if name == "lstm" else "fused",
        rounding=Rounding(**rounding),
    )


def integers(weight):
    """What 4-bit kernels, or the 8-bit ones that stay, hold of a weight on their grid."""
    matrix = weight.matrix(weight.variable.numpy())
    narrow = weight.layout.narrow or weight.layout.gates
    axis = None if weight.layout.table else 1
    step = np.abs(matrix).max(axis=axis, keepdims=True) / (7 if narrow else 127)
    return np.round(matrix / np.where(step > 0, step, 1)), "INT4" if narrow else "INT8"


class TestContract:
    @pytest.mark.parametrize("name", EVERY)
    def test_16_bits_answer_as_the_model(self, name):
        x = inputs_of(name, 32)
        content = file(name, "int16x8")
        audited = audit(content)
        check_scales(audited, name)
        assert audited.computed_in_float() == []
        assert audited.tensors[audited.outputs[0]].dtype == "INT16"
        assert {each.dtype for each in audited.weights if each.name} <= {"INT8", "INT16"}
        given, expected = Runner(content).predict(x), answers(plain(name), x)
        assert np.abs(given - expected).max() < 0.03
        assert np.mean(given.argmax(-1) == expected.argmax(-1)) > 0.9

    @pytest.mark.parametrize("name", EVERY)
    def test_4_bits_hold_what_training_saw(self, name):
        x = inputs_of(name, 32)
        audited = audit(file(name, "int4"))
        check_scales(audited, name)
        for weight in weights_of(on_grid(name)):
            if weight.layer.name in FOLDED.get(name, ()):
                continue
            expected, dtype = integers(weight)
            stored = find(weight.matrix(weight.variable.numpy()), audited)
            assert stored is not None, weight.path
            # Folding a normalization in may turn the signs of a channel.
            np.testing.assert_array_equal(np.abs(stored), np.abs(expected), weight.path)
            shape = {each.dtype for each in audited.weights if each.constant.size == stored.size}
            assert dtype in shape
        given = Runner(file(name, "int4")).predict(x)
        assert np.abs(given - answers(on_grid(name), x)).max() < 0.03


class TestRounding:
    def test_4_bit_weights_are_half_the_size(self):
        (weight,) = [each for each in audit(file("cnn", "int4")).weights if each.shape[0] == 10]
        assert (weight.dtype, weight.stored) == ("INT4", weight.constant.size // 2)
        assert weight.constant.min() >= -7
        assert weight.constant.max() <= 7

    @pytest.mark.parametrize("algorithm", ["mse", "octav", "gptq"])
    def test_algorithms_choose_other_integers(self, algorithm):
        given = Runner(file("cnn", "int4", algorithm=algorithm)).predict(inputs_of("cnn"))
        usual = answers(plain("cnn"), inputs_of("cnn"))
        assert np.abs(given - usual).mean() < 0.02
        weights = [
            each.constant
            for rounding in ({"algorithm": algorithm}, {"granularity": "channel"})
            for each in audit(file("cnn", "int4", **rounding)).weights
            if each.shape == (10, 256)
        ]
        assert not np.array_equal(*weights)

    def test_blocks_have_scales_of_their_own(self):
        content = file("cnn", "int4", granularity="block", block=32)
        (weight,) = [each for each in audit(content).weights if each.block]
        assert (weight.shape, weight.block, weight.scales.shape) == ((10, 256), 32, (10, 8))
        values = weight.constant.reshape(10, 8, 32) * weight.scales[:, :, None]
        kernel = plain("cnn").get_layer("logits").kernel.numpy().T.reshape(10, 8, 32)
        assert np.abs(values - kernel).max() <= weight.scales.max() / 2 * 1.02
        given = Runner(content).predict(inputs_of("cnn"))
        assert np.abs(given - answers(plain("cnn"), inputs_of("cnn"))).mean() < 0.02

    def test_8_bits_by_the_library(self):
        content = file("cnn", "dynamic", algorithm="octav")
        assert {each.dtype for each in audit(content).weights} == {"INT8"}


def test_constants_of_larger_models_are_seen():
    """The library puts them behind the structure of the file."""
    inputs = keras.Input((256,))
    model = keras.Model(inputs, keras.layers.Dense(512)(keras.layers.Dense(512)(inputs)))
    sample = np.ones((1, 256), np.float32)
    audited = audit(convert(model, PRECISIONS["int4"], sample=sample))
    assert sorted(each.shape for each in audited.weights) == [(512, 256), (512, 512)]
    assert {each.dtype for each in audited.weights} == {"INT4"}
    assert audited.size > sum(each.stored for each in audited.weights) == 512 * 768 // 2


class TestRefusals:
    @pytest.mark.parametrize(
        ("precision", "found"),
        [("int4", "4-bit weights"), ("int16x8", "16-bit activations")],
    )
    def test_a_fused_lstm(self, precision, found):
        x = inputs_of("lstm", 4)
        model = SEQUENCE_MODELS["lstm"]()
        with pytest.raises(TargetError) as caught:
            convert(model, PRECISIONS[precision], sample=x[:1], calibration=x)
        (problem,) = caught.value.problems
        assert f"no LSTM kernel of LiteRT has {found}" in problem.found
        assert "lstm: unrolled" in problem.expected

    def test_a_missing_package(self, monkeypatch):
        from compresskit.tflite import support

        nothing = installed.Package(module="no_such_module", install="pip install it")
        monkeypatch.setattr(support, "LITERT_QUANTIZER", nothing)
        with pytest.raises(TargetError, match="pip install it"):
            convert(MODELS["mlp"](), PRECISIONS["int4"], sample=inputs_of("mlp", 1))
