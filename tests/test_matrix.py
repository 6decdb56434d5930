"""Every kind of model in every precision of every target: the small form of docs/targets.md."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit import catalog
from compresskit.errors import CompressKitError
from compresskit.exporting import export
from compresskit.tflite.lower import predictions
from compresskit.tflite.runtime import Runner
from tests.training import compressed, inputs_of

# Largest mean difference from the Keras model's answers, by precision.
LIMITS = {"int16x8": 5e-3, "int8": 0.02, "int4": 0.05}
# Why a cell stays empty.
NO_KERNEL = {
    ("edge-cpu", "int16x8", "lstm"): "no LSTM kernel of LiteRT has 16-bit activations",
    ("edge-cpu", "int4", "lstm"): "no LSTM kernel of LiteRT has 4-bit weights",
    ("micro", "int8", "tiny_bert"): "Didn't find op for builtin opcode 'GELU'",
}
# Floats and dynamic have tests of their own (test_tflite_convert.py), and what compilers take, too.
CELLS = [
    (target, precision)
    for target in catalog.targets.names()
    for precision in catalog.targets.get(target).precisions
    if target in ("edge-cpu", "micro") and precision in LIMITS
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn_bn", "lstm", "gru", "tiny_bert"])
@pytest.mark.parametrize(("target", "precision"), CELLS)
def test_converts_and_agrees_or_says_why_not(tmp_path, target, precision, name):
    record = catalog.targets.get(target)
    if record.requires is not None:
        pytest.importorskip(record.requires.module)
    if precision in ("int16x8", "int4"):
        pytest.importorskip("litert_quantizer")
    model, x = compressed(name).model, inputs_of(name, 32)
    path = tmp_path / "m.tflite"

    def run():
        return export(model, target=target, precision=precision, path=path, representative_data=x)

    if (target, precision, name) in NO_KERNEL:
        with pytest.raises(CompressKitError, match=NO_KERNEL[target, precision, name]):
            run()
        assert not path.exists()
        return
    run()
    given = Runner(path.read_bytes(), runtime=record.runtime).predict(x)
    assert np.abs(given - predictions(model, x)).mean() <= LIMITS[precision]
