"""compresskit.migration: models of Keras 2 in Keras 3."""

from __future__ import annotations

import json
import shutil

import keras
import numpy as np
import pytest

from compresskit.errors import ModelError
from compresskit.migration import migrate
from compresskit.tfmot.session import Session
from tests.runs import command, names_in
from tests.tfmot import ask, child, needs_tfmot

pytestmark = needs_tfmot


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A folder of old models."""
    folder = tmp_path_factory.mktemp("old")
    for name in ("mixed.h5", "mixed.keras", "tokens", "wrapped.h5", "lambdas.h5", "quantized.h5"):
        ask(do="old", name=name, folder=str(folder))
    return folder


def problems(path, out):
    with pytest.raises(ModelError) as raised:
        migrate(path, out)
    assert not out.exists()
    return raised.value.problems


class TestEqual:
    @pytest.mark.parametrize("name", ["mixed.h5", "mixed.keras", "tokens", "wrapped.h5"])
    def test_outputs(self, old, name, tmp_path):
        made = migrate(old / name, tmp_path / "new.keras")
        assert made.max_abs_error <= made.tolerance
        assert made.tolerance < 1e-3
        assert names_in(tmp_path) == ["new.keras"]
        model = keras.saving.load_model(tmp_path / "new.keras")
        assert model.count_params() == made.parameters

    def test_wrappers_are_gone_and_what_they_made_is_not(self, old, tmp_path):
        migrate(old / "wrapped.h5", tmp_path / "new.keras")
        model = keras.saving.load_model(tmp_path / "new.keras")
        assert [layer.name for layer in model.layers][1:] == ["conv", "flatten", "fc", "logits"]
        assert len(np.unique(model.get_layer("fc").kernel)) <= 4

    def test_an_unequal_one_is_refused(self, old, tmp_path, monkeypatch):
        real = Session.answers

        def off(*given):
            return [answers * 1.01 for answers in real(*given)]

        monkeypatch.setattr(Session, "answers", off)
        (problem,) = problems(old / "tokens", tmp_path / "new.keras")
        assert "outputs that differ by" in problem.found


class TestErrors:
    def test_a_layer_without_counterpart_is_named(self, old, tmp_path):
        first, second = problems(old / "lambdas.h5", tmp_path / "new.keras")
        assert "of type TFOpLambda (math.sin), which has no counterpart" in first.found
        assert "__operators__.add" in second.found

    def test_layers_that_qat_has_wrapped(self, old, tmp_path):
        (problem,) = problems(old / "quantized.h5", tmp_path / "new.keras")
        assert "quant_conv" in problem.found

    @pytest.mark.parametrize("name", ["coded.h5", "coded.keras", "coded"])
    def test_code_in_a_file_is_not_run(self, name, tmp_path):
        ask(do="coded", name=name, folder=str(tmp_path))
        (tmp_path / "ran").unlink()
        found = problems(tmp_path / name, tmp_path / "new.keras")
        assert not (tmp_path / "ran").exists()
        assert "Lambda" in found[-1].found

    def test_no_file(self, tmp_path):
        (problem,) = problems(tmp_path / "none.h5", tmp_path / "new.keras")
        assert "none.h5" in problem.found

    def test_a_damaged_file(self, tmp_path):
        (tmp_path / "bad.h5").write_bytes(b"no model")
        (problem,) = problems(tmp_path / "bad.h5", tmp_path / "new.keras")
        assert "cannot be loaded" in problem.found

    def test_another_ending(self, tmp_path):
        (problem,) = problems(tmp_path / "a.h5", tmp_path / "new.h5")
        assert problem.fix.endswith("new.keras")


def test_command(old, tmp_path):
    child()
    shutil.copy(old / "wrapped.h5", tmp_path / "old.h5")
    done = command("migrate", tmp_path / "old.h5", tmp_path / "new.keras", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["samples"] == 16
    done = command("migrate", tmp_path / "none.h5", tmp_path / "new.keras")
    assert done.exit_code == 2
    assert "found:" in done.stderr
