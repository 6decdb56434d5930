"""compresskit.benchmarking: how fast files are, side by side."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import compresskit as ck
from compresskit.errors import DataError, ModelError
from compresskit.tflite import memory
from tests.files import int8_file, plain_file, token_file
from tests.models import VOCABULARY
from tests.runs import command, digits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("files")
    (made / "float32.tflite").write_bytes(plain_file("mlp", "float32"))
    (made / "int8.tflite").write_bytes(int8_file("mlp"))
    (made / "tokens.tflite").write_bytes(token_file())
    (made / "text.tflite").write_bytes(b"no model")
    (made / "cut.tflite").write_bytes(plain_file("mlp", "float32")[:-1000])
    return made


@pytest.fixture
def paths(folder):
    return [folder / "float32.tflite", folder / "int8.tflite"]


class TestBench:
    def test_figures(self, paths):
        made = ck.bench(paths, runs=20)
        first, second = made.files
        assert (made.threads, made.runs, made.data) == (1, 20, "made up")
        assert [each.path for each in made.files] == [str(path) for path in paths]
        assert [each.bytes for each in made.files] == [path.stat().st_size for path in paths]
        assert first.ratio == first.ratio_p10 == first.ratio_p90 == 1.0
        for each in made.files:
            assert 0 < each.p10_ms <= each.latency_ms <= each.p90_ms
            assert 0 < each.ratio_p10 <= each.ratio <= each.ratio_p90
            assert each.runtime == "litert"
            assert each.ops == ()
        assert json.loads(json.dumps(made.to_dict()))["files"][1]["ratio"] == second.ratio

    def test_a_larger_file_is_slower(self, folder):
        """The LSTMs take many times what the perceptron takes: more than a busy machine adds."""
        made = ck.bench([folder / "float32.tflite", folder / "tokens.tflite"], runs=20)
        assert made.files[1].ratio > 2
        assert made.files[1].ratio_p10 > 1

    def test_one_path_and_threads(self, paths):
        made = ck.bench(str(paths[0]), runs=1, threads=2)
        assert made.threads == 2
        assert len(made.files) == 1

    def test_profile(self, folder):
        (made,) = ck.bench(folder / "tokens.tflite", runs=5, profile=True).files
        names = [each.op for each in made.ops]
        assert names.count("UNIDIRECTIONAL_SEQUENCE_LSTM") == 2
        assert "DEQUANTIZE" not in names  # of the float16 weights, once for all calls
        assert sum(each.share for each in made.ops) == pytest.approx(1.0)
        slowest = max(made.ops, key=lambda each: each.ms)
        assert slowest.op == "UNIDIRECTIONAL_SEQUENCE_LSTM"

    def test_data(self, paths):
        assert ck.bench(paths, runs=2, data=digits()).data == "few digits"
        x, y = np.zeros((4, 8, 8, 1), np.float32), np.arange(4)
        assert len(ck.bench(paths, runs=2, data=((x, y), (x, y))).files) == 2

    def test_ids_are_rows_of_their_table(self, folder):
        from compresskit.benchmarking import _rows
        from compresskit.tflite.audit import audit

        assert _rows(audit(token_file())) == {"tokens": VOCABULARY}


class TestMemory:
    @pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
    def test_holds_the_file_at_least(self, folder, tmp_path):
        (made,) = ck.bench(folder / "int8.tflite", runs=1).files
        assert made.peak_memory_bytes > made.bytes

    def test_where_the_system_does_not_tell(self, paths, monkeypatch, tmp_path):
        monkeypatch.setattr(memory, "_FORGET", tmp_path / "nowhere")
        assert ck.bench(paths[0], runs=1).files[0].peak_memory_bytes is None

    def test_a_process_that_dies_is_told(self, tmp_path):
        with pytest.raises(ModelError) as raised:
            memory.peak_bytes(tmp_path / "nowhere.tflite", 1)
        (problem,) = raised.value.problems
        assert problem.found.startswith("the process that runs it left with 1: FileNotFoundError")


class TestErrors:
    def test_every_bad_file_is_named(self, folder, paths):
        bad = [folder / name for name in ("text.tflite", "nowhere.tflite", "cut.tflite")]
        with pytest.raises(ModelError) as raised:
            ck.bench([bad[0], paths[0], *bad[1:]])
        problems = raised.value.problems
        assert [each.where for each in problems] == [str(path) for path in bad]
        assert problems[0].found == "8 bytes that do not start as a TFLite file does"
        assert problems[1].found == "a file that cannot be read: No such file or directory"
        assert all(each.expected and each.fix for each in problems)

    def test_samples_that_files_do_not_take(self, folder, paths):
        x, y = np.zeros((4, 3), np.float32), np.arange(4)
        with pytest.raises(DataError) as raised:
            ck.bench(paths, data=((x, y), (x, y)))
        assert [each.where for each in raised.value.problems] == [str(path) for path in paths]
        assert "samples of shape (3,)" in raised.value.problems[0].found

    def test_counts(self):
        with pytest.raises(ModelError) as raised:
            ck.bench([], threads=0, runs=0)
        assert [each.where for each in raised.value.problems] == ["paths", "threads", "runs"]


class TestCommand:
    def test_table(self, paths):
        done = command("bench", *paths, "--runs", 5, "--profile")
        assert done.exit_code == 0, done.output
        assert "5 calls of each file, in turn; 1 thread; inputs: made up" in done.stdout
        assert "each op alone, as a file of its own" in done.stdout
        assert "FULLY_CONNECTED" in done.stdout

    def test_json(self, paths):
        done = command("bench", *paths, "--runs", 5, "--json")
        made = json.loads(done.stdout)
        assert made["runs"] == 5
        assert [each["path"] for each in made["files"]] == [str(path) for path in paths]

    def test_bad_files(self, folder):
        done = command("bench", folder / "text.tflite", folder / "nowhere.tflite")
        assert done.exit_code == 2
        assert done.stderr.startswith("2 problems:")
