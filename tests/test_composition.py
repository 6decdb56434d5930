"""Stages in a row: what each made of a weight is in the file, by nothing but their order."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import compresskit as ck
from compresskit.weights import weights_of
from tests.runs import PRUNE, QUANTIZE, digits, recipe, untrained
from tests.training import FOLDED

# Of each kind one; `concat` has a convolution of 1x1. LSTMs are below.
KINDS = ("concat", "subclassed", "tiny_bert")
CLUSTERS = 12
SHARE = {"name": "share", "type": "cluster", "clusters": CLUSTERS, "epochs": 1}
INT8 = {"target": "edge-cpu", "parity": {"min_agreement": 0.9}}


def composed(name, *stages):
    keras.utils.set_random_seed(0)
    folded = list(FOLDED.get(name, ()))
    named = [{**stage, "ignore": folded} if stage is not QUANTIZE else stage for stage in stages]
    result = ck.compress(
        untrained(name), recipe(stages=named, export=[INT8]), data=digits(name), out=None
    )
    (file,) = result.report.artifacts
    (sharing,) = [stage for stage in result.report.stages if stage.name == "share"]
    touched = {layer.path: layer.shape for layer in sharing.layers if layer.skipped is None}
    broken = [promise.what for promise in result.report.broken]
    # Of a network this small and this little trained, accuracy is no promise.
    assert broken == []
    return file, touched, {promise.what for promise in result.report.promises}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_pruned_then_clustered_then_quantized(name):
    """Zeros and shared values, on every weight, of convolutions of 1x1 as of all others."""
    file, touched, promised = composed(name, PRUNE, SHARE, QUANTIZE)
    assert touched
    assert promised >= {
        f"{what} of {path} in {file.path}"
        for path in touched
        for what in ("sparsity", "distinct values")
    }
    integers = [tensor for tensor in file.tensors if tensor.dtype == "INT8"]
    assert len(integers) >= len(touched)
    shared = [tensor for tensor in integers if tensor.distinct <= CLUSTERS]
    assert len(shared) >= len(touched)
    assert sum(tensor.sparsity >= 0.49 for tensor in shared) >= len(touched)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm"])
def test_clustered_then_quantized(name):
    file, touched, promised = composed(name, SHARE, QUANTIZE)
    assert promised >= {f"distinct values of {path} in {file.path}" for path in touched}
    assert file.sparsity < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stacked_lstm"])
def test_shrunk_then_all_of_them_with_a_teacher(name):
    shrink = {"name": "narrow", "type": "shrink", "amount": 0.25, "epochs": 1, "frequency": "2st"}
    taught = {**QUANTIZE, "name": "taught", "distill": {"teacher": "baseline"}}
    file, touched, promised = composed(name, shrink, PRUNE, SHARE, taught)
    assert "mean difference of the outputs of the smaller model from the trained one" in promised
    assert promised >= {
        f"{what} of {path} in {file.path}"
        for path in touched
        for what in ("sparsity", "distinct values")
    }
    assert file.float_ops == 0
    shared = [each for each in file.tensors if each.distinct <= CLUSTERS and each.sparsity >= 0.49]
    assert len(shared) >= len(touched)
    full = {weight.path: weight.shape for weight in weights_of(untrained(name))}
    smaller = [path for path, shape in touched.items() if np.prod(shape) < np.prod(full[path])]
    assert sorted(smaller) == sorted(touched)
