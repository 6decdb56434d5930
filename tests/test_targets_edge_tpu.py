"""Each rule of the Edge TPU on a file of one op or two, and all of them on a real file."""

from __future__ import annotations

import models
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from compresskit import catalog
from compresskit.targets import edge_tpu
from compresskit.targets.edge_tpu import TARGET, check
from compresskit.targets.edge_tpu_ops import OPS
from compresskit.tflite.audit import Audit, Op
from compresskit.tflite.tensors import Tensor

ACTIVATION = schema.ActivationFunctionType
VECTOR, IMAGE = (1, 8), (1, 8, 8, 4)


class File:
    """Puts an audit together, op by op."""

    def __init__(self):
        self.tensors: list[Tensor] = []
        self.ops: list[Op] = []

    def tensor(self, shape=VECTOR, *, dtype="INT8", values=None, scales=(0.5,), axis=0) -> int:
        if values is not None:
            shape = values.shape
            dtype = values.dtype.name.upper()
        index = len(self.tensors)
        self.tensors.append(
            Tensor(
                index=index,
                name=f"t{index}",
                dtype=dtype,
                shape=tuple(shape),
                values=values,
                scales=np.asarray(scales, np.float32),
                zero_points=np.zeros(len(scales), np.int64),
                axis=axis,
            )
        )
        return index

    def op(self, name, inputs, outputs, *, version=1, options=None) -> File:
        self.ops.append(
            Op(
                index=len(self.ops),
                name=name,
                inputs=tuple(inputs),
                outputs=tuple(outputs),
                version=version,
                options=options,
            )
        )
        return self

    def audit(self) -> Audit:
        return Audit(
            size=0,
            gzip_size=0,
            tensors=tuple(self.tensors),
            ops=tuple(self.ops),
            inputs=self.ops[0].inputs[:1],
            outputs=self.ops[-1].outputs,
            answers={},
        )


def options(kind: str, **values):
    """Options of an op as the schema reads them."""
    made = getattr(schema, f"{kind}OptionsT")()
    for name, value in values.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made


def one(name, shape=VECTOR, out=None, *constants, version=1, options=None, first=None) -> Audit:
    """A file of one op with constants after its input, or before it."""
    file = File()
    inputs = [file.tensor(shape)] + [file.tensor(values=value) for value in constants]
    if first is not None:
        inputs.insert(0, file.tensor(values=first))
    file.op(name, inputs, [file.tensor(out or shape)], version=version, options=options)
    return file.audit()


def weights(*shape) -> np.ndarray:
    return np.ones(shape, np.int8)


def axes(*values) -> np.ndarray:
    return np.asarray(values, np.int32)


GOOD = {
    "add": lambda: one("ADD"),
    "conv": lambda: one(
        "CONV_2D",
        IMAGE,
        IMAGE,
        weights(4, 3, 3, 4),
        axes(0, 0, 0, 0),
        version=5,
        options=options("Conv2D", dilationHFactor=2, dilationWFactor=2),
    ),
    "conv with a fused ReLU": lambda: one(
        "CONV_2D",
        IMAGE,
        IMAGE,
        weights(4, 3, 3, 4),
        options=options("Conv2D", fusedActivationFunction=ACTIVATION.RELU),
    ),
    "pool": lambda: one("MAX_POOL_2D", IMAGE, (1, 4, 4, 4), options=options("Pool2D")),
    "pool without options": lambda: one("MAX_POOL_2D", IMAGE, (1, 4, 4, 4)),
    "dense": lambda: one(
        "FULLY_CONNECTED", VECTOR, (1, 4), weights(4, 8), options=options("FullyConnected")
    ),
    "joins zeros": lambda: one(
        "CONCATENATION", VECTOR, (1, 16), weights(1, 8) * 0, options=options("Concatenation")
    ),
    "mean over the picture": lambda: one("MEAN", IMAGE, (1, 4), axes(1, 2)),
    "mean over a depth of 4": lambda: one("MEAN", IMAGE, (1, 8, 8), axes(-1)),
    "pad": lambda: one("PAD", IMAGE, (1, 10, 10, 4), axes(0, 0, 1, 1, 1, 1, 0, 0).reshape(4, 2)),
    "softmax": lambda: one("SOFTMAX", (1, 16_000)),
    "slice": lambda: one(
        "STRIDED_SLICE",
        VECTOR,
        (1, 4),
        axes(0, 0),
        axes(1, 4),
        axes(1, 1),
        options=options("StridedSlice", beginMask=1, shrinkAxisMask=0),
    ),
    "split": lambda: one("SPLIT", IMAGE, first=axes(3)),
    "slopes a channel": lambda: one("PRELU", IMAGE, IMAGE, weights(1, 1, 4)),
    "reshape": lambda: one("RESHAPE", IMAGE, (1, 256), axes(1, 256)),
}

BAD = {
    "fused activation of a pool": (
        lambda: one(
            "AVERAGE_POOL_2D",
            IMAGE,
            options=options("Pool2D", fusedActivationFunction=ACTIVATION.RELU),
        ),
        "has a fused activation",
    ),
    "fused activation of a concatenation": (
        lambda: one(
            "CONCATENATION",
            options=options("Concatenation", fusedActivationFunction=ACTIVATION.RELU6),
        ),
        "has a fused activation",
    ),
    "joins a constant": (
        lambda: one("CONCATENATION", VECTOR, (1, 16), weights(1, 8)),
        "joins a constant",
    ),
    "joins two constants": (
        lambda: one("CONCATENATION", VECTOR, (1, 24), weights(1, 8) * 0, weights(1, 8) * 0),
        "joins a constant",
    ),
    "unequal dilation": (
        lambda: one(
            "DEPTHWISE_CONV_2D",
            IMAGE,
            IMAGE,
            weights(1, 3, 3, 4),
            options=options("DepthwiseConv2D", dilationHFactor=2, dilationWFactor=1),
        ),
        "dilates height and width unequally",
    ),
    "weights of a strange format": (
        lambda: one(
            "FULLY_CONNECTED",
            VECTOR,
            (1, 4),
            weights(4, 8),
            options=options("FullyConnected", weightsFormat=1),
        ),
        "not in the default format",
    ),
    "dense over a sequence": (
        lambda: one("FULLY_CONNECTED", (1, 5, 8), (5, 4), weights(4, 8)),
        "its output has more than one dimension",
    ),
    "mean over the batch": (
        lambda: one("MEAN", VECTOR, (8,), axes(0)),
        "reduces the batch dimension",
    ),
    "mean over a depth of 3": (
        lambda: one("MEAN", (1, 8, 8, 3), (1, 8, 8), axes(3)),
        "reduces a depth that is not a multiple of 4",
    ),
    "pack of the batch": (
        lambda: one("PACK", VECTOR, (2, 8), options=options("Pack", axis=0)),
        "packs the batch dimension",
    ),
    "pad of the batch": (
        lambda: one("PAD", VECTOR, (2, 8), axes(1, 0, 0, 0).reshape(2, 2)),
        "pads the batch dimension",
    ),
    "a slope for every pixel": (
        lambda: one("PRELU", IMAGE, IMAGE, weights(8, 8, 4)),
        "shared_axes=[1, 2]",
    ),
    "softmax over a matrix": (
        lambda: one("SOFTMAX", (1, 4, 4)),
        "its input has more than one dimension",
    ),
    "softmax too long": (lambda: one("SOFTMAX", (1, 16_001)), "more than 16,000 elements"),
    "strided": (
        lambda: one("STRIDED_SLICE", VECTOR, (1, 4), axes(0, 0), axes(1, 8), axes(1, 2)),
        "has a stride other than 1",
    ),
    "new axis": (
        lambda: one(
            "STRIDED_SLICE",
            VECTOR,
            VECTOR,
            axes(0, 0),
            axes(1, 8),
            axes(1, 1),
            options=options("StridedSlice", newAxisMask=1),
        ),
        "has an ellipsis or a new axis",
    ),
    "not on the list": (lambda: one("BATCH_MATMUL"), "is not an op of the Edge TPU"),
    "custom op": (lambda: one("MyOwnOp"), "is not an op of the Edge TPU"),
    "batch of 2": (lambda: one("ADD", (2, 8, 8, 4)), "3 innermost dimensions"),
    "dynamic shape": (lambda: one("ADD", (-1, 8)), "has a tensor of dynamic shape, 't0'"),
    "too new a code": (lambda: one("GELU"), "is newer than the compiler, which aborts on it"),
    "a code with no name": (lambda: one("BUILTIN_230"), "is newer than the compiler"),
    "too new a version": (
        lambda: one("CONV_2D", IMAGE, IMAGE, weights(4, 3, 3, 4), version=6),
        "has version 6 or newer",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_the_edge_tpu_runs_gives_no_finding(name):
    assert check(GOOD[name]()) == []


@pytest.mark.parametrize("name", BAD)
def test_broken_rule_is_found(name):
    make, reason = BAD[name]
    (finding,) = check(make())
    assert reason in finding.reason
    assert finding.index == 0
    assert finding.confirmed
    assert not finding.warning


def test_no_finding_of_the_table_reads_as_two_sentences():
    for row in OPS.values():
        for limit in row.limits:
            assert not limit.reason.endswith(".")
            assert limit.reason[0].islower()


@pytest.mark.parametrize("dtype", ["FLOAT32", "FLOAT16", "INT16", "INT32"])
def test_only_8_bit_tensors_are_mapped(dtype):
    file = File()
    audit = file.op("ADD", [file.tensor(dtype=dtype)], [file.tensor()]).audit()
    (finding,) = check(audit)
    assert finding.reason.startswith(f"has a {dtype} tensor, 't0'")


def test_constant_of_floats_is_found():
    audit = one("MUL", VECTOR, VECTOR, np.ones((1, 8), np.float32))
    assert "FLOAT32" in check(audit)[0].reason


def test_dense_weights_with_several_scales_are_found_but_unconfirmed():
    file = File()
    kernel = file.tensor(values=weights(4, 8), scales=[0.1] * 4)
    audit = file.op("FULLY_CONNECTED", [file.tensor(), kernel], [file.tensor((1, 4))]).audit()
    (finding,) = check(audit)
    assert "a scale for every channel" in finding.reason
    assert not finding.confirmed
    assert not finding.warning


def test_convolution_may_have_several_scales():
    file = File()
    kernel = file.tensor(values=weights(4, 3, 3, 4), scales=[0.1] * 4)
    audit = file.op("CONV_2D", [file.tensor(IMAGE), kernel], [file.tensor(IMAGE)]).audit()
    assert check(audit) == []


def test_splitting_the_batch_is_unconfirmed():
    (finding,) = check(one("SPLIT", VECTOR, first=axes(0)))
    assert "splits the batch dimension" in finding.reason
    assert not finding.confirmed


def test_computed_weights_and_shapes_are_found():
    for name, what in [("FULLY_CONNECTED", "its weights"), ("MEAN", "its axes")]:
        file = File()
        inputs = [file.tensor(), file.tensor((8,))]
        audit = file.op(name, inputs, [file.tensor()]).audit()
        assert [finding.reason.split(" are")[0] for finding in check(audit)] == [what]


def test_constant_without_elements_is_no_computed_tensor():
    file = File()
    shape = file.tensor((0,), dtype="INT32")
    audit = file.op("EXPAND_DIMS", [file.tensor((1,)), shape], [file.tensor(())]).audit()
    assert check(audit) == []


def test_support_that_is_only_recalled_is_a_warning():
    (finding,) = check(one("RSQRT"))
    assert finding.warning
    assert not finding.confirmed


def test_lstm_keeps_its_16_bit_cell():
    file = File()
    inputs = [file.tensor((1, 20, 13))] + [file.tensor(values=weights(4, 13)) for _ in range(17)]
    inputs += [file.tensor((1, 4)), file.tensor((1, 4), dtype="INT16"), -1]
    file.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [file.tensor((1, 20, 4))])
    assert check(file.audit()) == []


def test_wide_lstm_is_a_warning():
    (finding,) = check(one("UNIDIRECTIONAL_SEQUENCE_LSTM", (1, 20, 1000)))
    assert finding.warning
    assert finding.confirmed


def test_first_unsupported_op_says_what_it_keeps_from_the_edge_tpu():
    file = File()
    a, b, c, d, e = (file.tensor() for _ in range(5))
    file.op("ADD", [a], [b]).op("ELU", [b], [c]).op("ADD", [c], [d]).op("DIV", [d], [e])
    first, second = check(file.audit())
    assert (first.index, second.index) == (1, 3)
    assert first.reason.endswith("; it and all 2 ops after it run on the CPU")
    assert "after it" not in second.reason


def test_last_op_keeps_only_itself():
    assert check(one("ELU"))[0].reason.endswith("; it runs on the CPU")


def test_no_mapping_ends_where_the_compiler_aborts():
    file = File()
    a, b, c = (file.tensor() for _ in range(3))
    file.op("ELU", [a], [b]).op("GELU", [b], [c])
    assert not any("on the CPU" in finding.reason for finding in check(file.audit()))


def test_float_inputs_and_outputs_do_not_end_the_mapping():
    file = File()
    a, d = file.tensor(dtype="FLOAT32"), file.tensor(dtype="FLOAT32")
    b, c = file.tensor(), file.tensor()
    file.op("QUANTIZE", [a], [b]).op("ADD", [b], [c]).op("DEQUANTIZE", [c], [d])
    entry, exit_ = check(file.audit())
    assert "int8 inputs" in entry.reason
    assert "int8 outputs" in exit_.reason
    assert not any("after it" in finding.reason for finding in (entry, exit_))


def test_parameters_beyond_the_chip_are_a_warning_at_the_op_that_exceeds_it():
    file = File()
    big = np.zeros((2000, 2500), np.int8)
    a, b, c = file.tensor((1, 2500)), file.tensor((1, 2000)), file.tensor((1, 2000))
    file.op("FULLY_CONNECTED", [a, file.tensor(values=big)], [b])
    file.op("FULLY_CONNECTED", [b, file.tensor(values=big)], [c])
    (finding,) = check(file.audit())
    assert finding.index == 1
    assert finding.warning
    assert "about 8 MB" in finding.reason


def test_codes_unknown_to_the_compiler_are_those_from_150_on():
    codes = {
        name
        for name, code in vars(schema.BuiltinOperator).items()
        if name.isupper() and not name.startswith("STABLEHLO_") and 150 <= code < 210
    }
    assert set(edge_tpu._UNKNOWN_TO_COMPILER) == codes


def test_every_row_is_an_op_of_the_schema():
    assert set(OPS) <= set(vars(schema.BuiltinOperator))


def test_target_is_registered():
    assert catalog.targets.get("edge-tpu") is TARGET


def test_converted_cnn_passes_with_one_scale_a_dense_layer():
    from compresskit.tflite.audit import audit
    from compresskit.tflite.convert import convert

    model = models.cnn()
    pictures = np.random.default_rng(0).random((20, 8, 8, 1), np.float32)
    content = convert(model, TARGET.precisions["int8"], sample=pictures[:1], calibration=pictures)
    read = audit(content)
    assert check(read) == []
    kernels = {op.name: read.tensors[op.inputs[1]] for op in read.ops if len(op.inputs) == 3}
    assert kernels["FULLY_CONNECTED"].scales.size == 1
    assert kernels["CONV_2D"].scales.size > 1
