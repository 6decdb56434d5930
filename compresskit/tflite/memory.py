"""How much memory a file takes, measured in a process that does nothing else.

Loads no TensorFlow. As a program: takes a path and a number of threads, and writes the bytes that
loading and running the file added to the process's peak.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from compresskit.errors import ModelError, Problem
from compresskit.tflite.runtime import Runner

_STATUS = Path("/proc/self/status")
# Writing 5 makes the peak what the process takes now: proc(5), clear_refs.
_FORGET = Path("/proc/self/clear_refs")
_RUNS = 3


def peak_bytes(path: Path, threads: int) -> int | None:
    """What loading a file in LiteRT and running it adds to the peak of a process's resident memory.

    The file itself is part of it, as are weights in the form that kernels read them, activations,
    and the pages of the runtime's code that are touched for the first time.

    Returns:
        Bytes; None where the system does not tell: anywhere but on Linux.

    Raises:
        ModelError: the process ended before it had run the file.
    """
    if not _FORGET.exists():
        return None
    done = subprocess.run(
        [sys.executable, "-m", "compresskit.tflite.memory", str(path), str(threads)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing said"]
        raise ModelError(
            Problem(
                where=str(path),
                found=f"the process that runs it left with {done.returncode}: {said[-1]}",
                expected="a .tflite file that runs",
                fix="export it again",
            )
        )
    return int(done.stdout)


def _kilobytes(key: str) -> int:
    lines = _STATUS.read_text(encoding="utf-8", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    """Measures the file that the command line names."""
    path, threads = sys.argv[1:]
    _FORGET.write_text("5", encoding="ascii")
    before = _kilobytes("VmRSS")
    runner = Runner(Path(path).read_bytes(), threads=int(threads), where=path)
    call = runner.feed(runner.made_up())
    for _ in range(_RUNS):
        call()
    print((_kilobytes("VmHWM") - before) * 1024)  # noqa: T201 - what the parent reads


if __name__ == "__main__":
    main()
