"""compresskit.product: what a converter wrote becomes a file for a target."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from compresskit import catalog
from compresskit.errors import ConversionError
from compresskit.product import produce
from compresskit.progress import Bars
from compresskit.resolution import Resolved
from compresskit.tflite import luts
from compresskit.tflite.decode import DECODE
from tests.files import bias_with_another_scale, changed, int8_file
from tests.models import MODELS
from tests.test_tflite_luts import few_values
from tests.training import inputs_of

MICRO = pytest.mark.skipif(find_spec("tflite_micro") is None, reason="tflite-micro is missing")


def product(content, target, *, compress="none", with_sources=False):
    record = catalog.targets.get(target)
    resolved = Resolved(
        target=record,
        precision_name="int8",
        precision=record.precisions["int8"],
        file="m.tflite",
    )
    return produce(
        content,
        resolved,
        compress=compress,
        with_arena=False,
        with_sources=with_sources,
        where="out/m.tflite",
        bars=Bars(quiet=True),
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_file_for_a_processor(name):
    content = int8_file(name)
    made = product(content, "edge-cpu")
    assert made.content == made.plain == content
    assert (made.beside, made.sources, made.compiled, made.arena) == ({}, (), None, None)
    assert len(made.audited.weights) > 0
    assert np.isfinite(made.runner.predict(inputs_of(name, 2))).all()


def test_what_the_rules_of_a_target_say():
    made = product(int8_file("cnn", per_channel_dense=False), "edge-tpu")
    assert made.placement is not None
    assert made.placement == catalog.targets.get("edge-tpu").place(made.audited)
    assert (made.claim != "") == all(each.warning for each in made.findings)


@MICRO
def test_tables_and_sources(monkeypatch):
    monkeypatch.setattr(luts, "_LEAST_SAVING", 0)
    plain = few_values("mlp")
    made = product(plain, "micro", compress="lut", with_sources=True)
    assert made.plain == plain
    assert len(made.content) != len(plain)
    assert made.audited.counts[DECODE] >= 1
    assert made.sources == tuple(made.beside) == ("m.h", "m.c")
    assert f"_ARENA_SIZE {made.arena}\n" in made.beside["m.h"].decode()
    x = inputs_of("mlp", 4)
    bare = product(plain, "micro")
    assert bare.arena is None
    expected = bare.runner.predict(x)
    np.testing.assert_array_equal(made.runner.predict(x), expected)


def test_a_file_that_breaks_a_rule():
    with pytest.raises(ConversionError) as caught:
        product(changed(int8_file("mlp"), bias_with_another_scale), "edge-cpu")
    assert caught.value.problems[0].where.startswith("out/m.tflite")
