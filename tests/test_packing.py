"""compresskit.packing: the same bytes come back, from fewer."""

from __future__ import annotations

import itertools
import lzma

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compresskit import packing
from compresskit.errors import ModelError
from compresskit.packing import MAGIC, entropy_bytes, pack, unpack
from compresskit.tflite.audit import audit
from compresskit.tflite.places import places
from tests.files import PRECISIONS, int8_file, plain_file, written
from tests.models import MODELS, SEQUENCE_MODELS
from tests.runs import command

quick = settings(max_examples=25, deadline=None)


def with_weights(values):
    """A file whose largest 8-bit constant is replaced by other bytes, of any number."""
    model = schema.ModelT.InitFromPackedBuf(int8_file("mlp"), 0)
    tensors = [t for t in model.subgraphs[0].tensors if t.type == schema.TensorType.INT8]
    contents = [model.buffers[tensor.buffer].data for tensor in tensors]
    sizes = [0 if content is None else len(content) for content in contents]
    tensor = tensors[int(np.argmax(sizes))]
    model.buffers[tensor.buffer].data = values.view(np.uint8)
    tensor.shape = np.array([1, len(values)], np.int32)
    tensor.shapeSignature = None
    return written(model)


def places_that_change():
    """Finds other places each time that it is asked."""
    calls = itertools.count()
    return lambda content, **least: places(
        content, least_weights=256 + next(calls) * 10**6, least_words=32
    )


class TestRoundTrip:
    @pytest.mark.parametrize("precision", [*PRECISIONS, "int8"])
    @pytest.mark.parametrize("name", ["cnn", "depthwise", "mlp"])
    def test_every_precision(self, name, precision):
        content = int8_file(name) if precision == "int8" else plain_file(name, precision)
        assert unpack(pack(content)) == content

    @pytest.mark.parametrize("name", {**MODELS, **SEQUENCE_MODELS})
    def test_every_model(self, name):
        content = int8_file(name)
        assert unpack(pack(content)) == content

    @quick
    @given(values=arrays(np.int8, st.integers(1, 3000)))
    def test_random_tensors(self, values):
        content = with_weights(values)
        assert unpack(pack(content)) == content

    @pytest.mark.parametrize(
        "values",
        [
            np.zeros(5000, np.int8),
            np.arange(-128, 128).repeat(20).astype(np.int8),
            np.concatenate([np.zeros(100_000), [-128]]).astype(np.int8),
            np.concatenate([np.zeros(100_000), np.arange(-128, 128)]).astype(np.int8),
            np.full(255, 3, np.int8),
            np.full(256, -128, np.int8),
            np.random.default_rng(0).integers(-128, 128, 70_000).astype(np.int8),
        ],
        ids=["zeros", "even", "one other", "all others once", "small", "least", "noise"],
    )
    def test_adversarial_tensors(self, values):
        content = with_weights(values)
        packed = pack(content)
        assert unpack(packed) == content

    def test_twice_the_same(self):
        assert pack(int8_file("cnn")) == pack(int8_file("cnn"))

    def test_scales_that_are_no_products(self):
        model = schema.ModelT.InitFromPackedBuf(int8_file("cnn"), 0)
        random = np.random.default_rng(0)
        for tensor in model.subgraphs[0].tensors:
            if tensor.quantization is not None and tensor.quantization.scale is not None:
                noise = random.integers(0, 2**32, len(tensor.quantization.scale), dtype=np.uint32)
                tensor.quantization.scale = noise.view(np.float32)
        content = written(model)
        assert unpack(pack(content)) == content

    def test_tensors_that_share_a_constant(self):
        model = schema.ModelT.InitFromPackedBuf(int8_file("mlp"), 0)
        tensors = [t for t in model.subgraphs[0].tensors if t.type == schema.TensorType.INT8]
        for tensor in tensors[1:]:
            tensor.buffer = tensors[0].buffer
        content = written(model)
        assert unpack(pack(content)) == content

    def test_a_structure_that_depends_on_constants(self, monkeypatch):
        content = int8_file("cnn")
        less = len(pack(content))
        monkeypatch.setattr(packing, "places", places_that_change())
        packed = pack(content)
        assert len(packed) > less  # LZMA alone
        monkeypatch.undo()
        assert unpack(packed) == content


class TestSize:
    @pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
    def test_near_the_entropy(self, share):
        random = np.random.default_rng(0)
        values = random.integers(-8, 8, 200_000).astype(np.int8)
        values[random.random(values.size) < share] = 0
        few = with_weights(values[:256])
        content = with_weights(values)
        # What the rest of the file takes is in both.
        added = len(pack(content)) - len(pack(few))
        assert added <= 1.01 * entropy_bytes(audit(content)) + 100

    def test_one_that_repeats_itself(self):
        """Far under the entropy: LZMA sees what no code of single values does."""
        row = np.random.default_rng(0).integers(-128, 128, 512).astype(np.int8)
        few, content = with_weights(row), with_weights(np.tile(row, 100))
        assert len(pack(content)) - len(pack(few)) < 100
        assert unpack(pack(content)) == content

    def test_the_entropy_of_known_values(self):
        values = np.resize(np.array([0, 0, 1, 2], np.int8), 8000)
        less = entropy_bytes(audit(with_weights(np.zeros(8000, np.int8))))
        assert entropy_bytes(audit(with_weights(values))) - less == 8000 * 1.5 / 8


class TestDamage:
    @quick
    @given(data=st.data())
    def test_any_changed_byte_is_an_error(self, data):
        packed = bytearray(pack(int8_file("mlp")))
        where = data.draw(st.integers(0, len(packed) - 1))
        packed[where] ^= data.draw(st.integers(1, 255))
        with pytest.raises(ModelError) as raised:
            unpack(bytes(packed), where="m.ckpack")
        (problem,) = raised.value.problems
        assert problem.where == "m.ckpack"

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
    def test_cut_short(self, share):
        packed = pack(int8_file("mlp"))
        with pytest.raises(ModelError):
            unpack(packed[: int(len(packed) * share)])

    def test_something_behind_it(self):
        packed = pack(int8_file("mlp"))
        with pytest.raises(ModelError, match="damaged container"):
            unpack(packed + b"1234")

    def test_another_version(self):
        packed = pack(int8_file("mlp"))
        with pytest.raises(ModelError, match="a container of another version") as raised:
            unpack(packed[:7] + bytes([packed[7] - 1]) + packed[8:], where="m.ckpack")
        assert "the compresskit that wrote it" in raised.value.problems[0].fix

    def test_something_else(self):
        with pytest.raises(ModelError, match="do not start as a container"):
            unpack(int8_file("mlp"))
        with pytest.raises(ModelError, match="damaged container"):
            unpack(MAGIC + lzma.compress(b"nothing"))

    def test_no_tflite_file(self):
        with pytest.raises(ModelError, match=r"a \.tflite file"):
            pack(b"nothing of the kind", "x.tflite")


def test_the_commands(tmp_path):
    file = tmp_path / "m.tflite"
    file.write_bytes(int8_file("cnn"))
    done = command("pack", file)
    assert done.exit_code == 0
    packed = tmp_path / "m.tflite.ckpack"
    assert f"{packed.stat().st_size:,} bytes of {file.stat().st_size:,}" in done.stderr
    file.unlink()
    assert command("unpack", packed).exit_code == 0
    assert file.read_bytes() == int8_file("cnn")
    done = command("unpack", file)
    assert done.exit_code == 2
    assert "to do:" in done.stderr
