"""Runs the compiler of a device as a command line, in a process of its own.

Such compilers crash on some files. Here that is an error with the last words of the tool.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from compresskit.errors import ConversionError, Problem
from compresskit.tflite.audit import Audit

TIMEOUT_SECONDS = 600
_LAST_LINES = 4
_LAST_CHARACTERS = 600


def run(
    command: Sequence[str], *, tool: str, where: str, folder: Path, timeout: float = TIMEOUT_SECONDS
) -> str:
    """What a command says, on standard output and standard error together.

    Args:
        tool: what people call it.
        where: the file that it compiles.
        folder: where it runs.
        timeout: in seconds.

    Raises:
        ConversionError: it could not be started, ended with a status other than 0, was killed
            by a signal, or took too long, and then it and what it started are gone.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # What it starts belongs to a group that can be ended as one.
            start_new_session=True,
        )
    except OSError as error:
        raise failed(tool, where, f"could not be started: {error.strerror}") from error
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        words = f"no result after {timeout:.0f} seconds; it was stopped{_last(said)}"
        raise failed(tool, where, words) from error
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    code = process.returncode
    if code < 0:
        raise failed(tool, where, f"it died of {signal.Signals(-code).name}{_last(said)}")
    if code > 0:
        raise failed(tool, where, f"it ended with status {code}{_last(said)}")
    return said


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    words = " | ".join(lines[-_LAST_LINES:])[-_LAST_CHARACTERS:]
    return f": {words}" if words else ", without a word"


def failed(tool: str, where: str, words: str) -> ConversionError:
    """The error of a tool that did not compile a file."""
    return ConversionError(
        Problem(
            where=f"{tool} on {where}",
            found=words,
            expected="a file that it compiles",
            fix="look for what is named above in the model; the same model exports to edge-cpu "
            "without this tool",
        )
    )


def stays(
    exported: Audit, compiled: Audit, custom: str, reasons: Mapping[tuple[str, str], str]
) -> dict[int, str]:
    """The ops of the exported file that its compiled form still has, with reasons.

    Args:
        custom: the op that stands for what the accelerator runs.
        reasons: why an op, by its name and that of its output, stays; the name of the output
            may be empty.
    """
    free = [(op.index, op.name, exported.tensors[op.outputs[0]].name) for op in exported.ops]
    left = [
        (op.name, compiled.tensors[op.outputs[0]].name) for op in compiled.ops if op.name != custom
    ]
    found: dict[int, str] = {}
    # First those that are there by their name, then those whose output was renamed. What is
    # left after that the compiler made: it is no op of the exported file.
    for by_name in (True, False):
        for op, output in tuple(left):
            same = [each for each in free if each[1] == op and (each[2] == output or not by_name)]
            if not same:
                continue
            free.remove(same[0])
            left.remove((op, output))
            reason = reasons.get((op, output)) or reasons.get(("", output))
            reason = reason or reasons.get((op, "")) or "the tool does not say why"
            found[same[0][0]] = reason
    return found
