"""compresskit.files: each file whole or not at all."""

from __future__ import annotations

import json
import os

import pytest

from compresskit.files import reported_files, staged, write_file
from tests.runs import names_in


class TestStaged:
    def test_files_arrive_when_the_block_ends(self, tmp_path):
        out = tmp_path / "runs" / "x"
        with staged(out) as folder:
            (folder / "a.tflite").write_bytes(b"new")
            assert folder == tmp_path / "runs" / ".x.partial"
            assert not out.exists()
        assert (out / "a.tflite").read_bytes() == b"new"
        assert names_in(out.parent) == ["x"]

    def test_an_error_leaves_what_was_there(self, tmp_path):
        out = tmp_path / "x"
        out.mkdir()
        (out / "a").write_text("old")

        def write():
            with staged(out) as folder:
                (folder / "a").write_text("half of the n")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write()
        assert names_in(tmp_path) == ["x"]
        assert names_in(out) == ["a"]
        assert (out / "a").read_text() == "old"

    def test_an_error_makes_no_folder(self, tmp_path):
        def write():
            with staged(tmp_path / "x"):
                raise ValueError("inside")

        with pytest.raises(ValueError, match="inside"):
            write()
        assert names_in(tmp_path) == []

    def test_what_a_killed_run_left_is_thrown_away(self, tmp_path):
        stale = tmp_path / ".x.partial"
        stale.mkdir()
        (stale / "half.tflite").write_bytes(b"TFL")
        with staged(tmp_path / "x") as folder:
            assert names_in(folder) == []
            (folder / "a").write_text("new")
        assert names_in(tmp_path) == ["x"]
        assert names_in(tmp_path / "x") == ["a"]

    def test_other_files_stay(self, tmp_path):
        out = tmp_path / "x"
        out.mkdir()
        (out / "notes.txt").write_text("mine")
        with staged(out) as folder:
            (folder / "a").write_text("new")
        assert names_in(out) == ["a", "notes.txt"]

    def test_the_report_comes_last(self, tmp_path, monkeypatch):
        moved = []
        replace = os.replace

        def watched(source, destination):
            moved.append(source.name)
            replace(source, destination)

        monkeypatch.setattr("compresskit.files.os.replace", watched)
        with staged(tmp_path / "x") as folder:
            for name in ("report.json", "a.tflite", "report.html", "z.keras"):
                (folder / name).write_text("")
        assert set(moved[:2]) == {"a.tflite", "z.keras"}

    def test_killed_between_two_moves(self, tmp_path, monkeypatch):
        out = tmp_path / "x"
        out.mkdir()
        for name in ("a", "b"):
            (out / name).write_text("old")
        replace = os.replace
        calls = []

        def stops(source, destination):
            calls.append(source)
            if len(calls) == 2:
                raise OSError("killed")
            replace(source, destination)

        monkeypatch.setattr("compresskit.files.os.replace", stops)

        def write():
            with staged(out) as folder:
                for name in ("a", "b"):
                    (folder / name).write_text("new")

        with pytest.raises(OSError, match="killed"):
            write()
        assert sorted((out / name).read_text() for name in ("a", "b")) == ["new", "old"]


class TestWriteFile:
    def test_replaces_and_makes_folders(self, tmp_path):
        path = tmp_path / "deep" / "m.tflite"
        write_file(path, b"one")
        write_file(path, b"two")
        assert path.read_bytes() == b"two"
        assert names_in(path.parent) == ["m.tflite"]

    def test_a_failure_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "m.tflite"
        write_file(path, b"old")

        def fails(*args):
            raise OSError("no space left")

        monkeypatch.setattr("compresskit.files.os.replace", fails)
        with pytest.raises(OSError, match="no space"):
            write_file(path, b"new")
        assert path.read_bytes() == b"old"


def test_reported_files_are_artifacts_and_their_c_arrays(tmp_path):
    assert reported_files(tmp_path) == set()
    made = [{"path": "a.tflite"}, {"path": "b.tflite", "c_array": ["b.h", "b.c"]}]
    (tmp_path / "report.json").write_text(json.dumps({"artifacts": made}))
    names = ("a.tflite", "b.tflite", "b.h", "b.c")
    assert reported_files(tmp_path) == {tmp_path / name for name in names}
