"""compresskit.progress: bars on a terminal, nothing anywhere else."""

from __future__ import annotations

import io
import os

import pytest
from rich.console import Console

from compresskit import progress
from compresskit.progress import Bars


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal is sent."""
    stream = io.StringIO()

    def console(**kwargs):
        assert kwargs == {"stderr": True}
        return Console(file=stream, force_terminal=True, width=120)

    monkeypatch.setattr(progress, "Console", console)
    return stream


def run(bars, total=4):
    with bars.task("sparsify", total) as update:
        update(done=2, note="loss 0.5")
        update(done=4)


def test_a_terminal_sees_name_count_and_note(terminal):
    run(Bars(quiet=False))
    shown = terminal.getvalue()
    assert "sparsify" in shown
    assert "4/4" in shown
    assert "loss 0.5" in shown


def test_several_tasks_one_after_the_other(terminal):
    bars = Bars(quiet=False)
    for total in (4, None):
        run(bars, total)
    assert "1/1" in terminal.getvalue()  # what has no length still comes to an end


def test_quiet(terminal):
    run(Bars(quiet=True))
    run(Bars())
    assert terminal.getvalue() == ""


def test_a_pipe_sees_nothing(capsys):
    run(Bars(quiet=False))
    assert capsys.readouterr() == ("", "")


def test_an_error_passes_through(terminal):
    def fails():
        with Bars(quiet=False).task("sparsify", 4):
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fails()


def test_muted_holds_for_native_code_and_ends(capfd):
    with progress.muted():
        os.write(2, b"from a library")
    os.write(2, b"heard")
    with pytest.raises(ValueError, match="inside"), progress.muted():
        raise ValueError("inside")
    os.write(2, b" again")
    assert capfd.readouterr().err == "heard again"
