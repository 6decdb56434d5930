"""compresskit.tflite.alone: each op as a file of its own."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.tflite.alone import ops_alone
from compresskit.tflite.audit import audit
from compresskit.tflite.runtime import Runner, input_name
from tests.files import int8_file, plain_file, token_file
from tests.models import sequences
from tests.training import inputs_of

FILES = {
    "float32": (lambda: plain_file("cnn_bn", "float32"), inputs_of("cnn_bn", 1)),
    "float16": (lambda: plain_file("cnn_bn", "float16"), inputs_of("cnn_bn", 1)),
    "dynamic": (lambda: plain_file("mlp", "dynamic"), inputs_of("mlp", 1)),
    "int8": (lambda: int8_file("mlp"), inputs_of("mlp", 1)),
    "fused lstm": (token_file, sequences("bidirectional", 1)),
}


@pytest.mark.parametrize("name", FILES)
def test_one_after_the_other_they_answer_as_the_file(name):
    make, x = FILES[name]
    content = make()
    whole = audit(content)
    expected = Runner(content).predict(x)
    (given,) = (whole.tensors[index] for index in whole.inputs)
    values = {given.name: x}
    for index, alone in ops_alone(content, whole):
        runner = Runner(alone, where=f"op {index}")
        read = audit(alone)
        names = [read.tensors[i].name for i in read.inputs]
        inputs = {input_name(each): values[each] for each in names}
        assert read.ops[-1].name == whole.ops[index].name
        values[read.tensors[read.outputs[0]].name] = runner.predict(inputs)
    answer = values[whole.tensors[whole.outputs[0]].name]
    # Inputs of ops in the middle are quantized again from real units, without loss.
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_what_is_computed_of_constants_comes_along():
    content = plain_file("cnn_bn", "float16")
    whole = audit(content)
    assert "DEQUANTIZE" in whole.counts
    alone = ops_alone(content, whole)
    assert "DEQUANTIZE" not in {whole.ops[index].name for index, _ in alone}
    sizes = [len(each) for _, each in alone]
    assert max(sizes) < len(content)
    assert sum(whole.counts.values()) == len(alone) + whole.counts["DEQUANTIZE"]
