"""The package: its public names, and what it does not import."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

import compresskit as ck
from tests.runs import python, recipe_file
from tests.test_inspection import written

HEAVY = ("tensorflow", "keras", "tf_keras", "tensorflow_model_optimization")
LEAN = """
import json, sys
before = set(sys.modules)
{code}
print()
print(json.dumps([name for name in {heavy!r} if name in sys.modules]))
"""
COMMAND = """
from click.testing import CliRunner
from compresskit.cli import main
done = CliRunner().invoke(main, {words!r}, catch_exceptions=False)
assert done.exit_code == 0, done.output
assert done.output.strip(), done
"""


def heavy_after(code):
    """The heavy packages that a fresh process has imported after running some code."""
    return json.loads(python(LEAN.format(code=code, heavy=HEAVY)).splitlines()[-1])


def heavy_after_command(*words):
    return heavy_after(COMMAND.format(words=[str(word) for word in words]))


class TestNames:
    def test_all_can_be_had(self):
        for name in ck.__all__:
            assert getattr(ck, name).__name__ == name
        assert dir(ck) == sorted(ck.__all__)

    @pytest.mark.parametrize("name", ck.__all__)
    def test_no_module_hides_it(self, name):
        """Importing `compresskit.export` would put the module where the function is looked for."""
        assert importlib.util.find_spec(f"compresskit.{name}") is None

    def test_unknown(self):
        with pytest.raises(AttributeError, match="module 'compresskit' has no attribute 'shrink'"):
            ck.shrink  # noqa: B018

    def test_the_lazy_names_are_the_public_ones(self):
        assert sorted(ck._HOMES) == sorted(ck.__all__)


class TestLean:
    def test_import(self):
        assert heavy_after("import compresskit; dir(compresskit)") == []

    def test_records(self):
        assert heavy_after("from compresskit import CompressKitError, Recipe, inspect, plan") == []

    @pytest.mark.parametrize(
        "words",
        [
            ["--help"],
            ["--version"],
            ["apply", "--help"],
            ["list", "methods"],
            ["list", "targets"],
            ["list", "models"],
            ["list", "datasets"],
            ["schema"],
        ],
        ids=" ".join,
    )
    def test_commands(self, words):
        assert heavy_after_command(*words) == []

    def test_plan_without_imports(self, tmp_path):
        path = recipe_file(tmp_path)
        assert heavy_after_command("plan", path, "--no-import") == []

    @pytest.mark.parametrize("flags", [[], ["--json"]], ids=["table", "json"])
    def test_inspect_a_tflite_file(self, tmp_path, flags):
        assert heavy_after_command("inspect", written(tmp_path), *flags) == []

    def test_bench(self, tmp_path):
        words = ["--runs", "2", "--profile", "--data", "digits"]
        assert heavy_after_command("bench", written(tmp_path), *words) == []

    def test_evaluate_a_tflite_file(self, tmp_path):
        x, y = np.zeros((4, 8, 8, 1), dtype=np.float32), np.arange(4)
        np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        path = written(tmp_path)
        assert heavy_after_command("evaluate", path, "--data", tmp_path / "d.npz") == []
        assert heavy_after_command("evaluate", path, "--data", "digits") == []

    def test_a_process_of_its_own_shows_help(self):
        done = subprocess.run(
            [sys.executable, "-m", "compresskit", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        for name in ("apply", "plan", "export", "inspect", "evaluate", "list", "schema", "init"):
            assert f"\n  {name} " in done.stdout
        assert done.stderr == ""
