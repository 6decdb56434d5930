"""Processes of our own that may die: asked one JSON line at a time, kept between requests.

The other side is `serve`, which the child's module calls. Importing TensorFlow costs more than
most requests, so a child stays until Python ends, and is started again after a crash.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast, final

from compresskit.errors import CompressKitError, Problem


@final
@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a child made of a request.

    Attributes:
        value: what it answers; None if it failed.
        error: what went wrong, in words, or None.
        problems: those of an error of compresskit's own that was raised in the child.
    """

    value: Any = None
    error: str | None = None
    problems: tuple[Problem, ...] = ()


@final
class Child:
    """A process that runs a module, started at the first request.

    Args:
        module: what `python -m` runs; it calls `serve`.
        noun: what it is called in words: `the converter`.
        environment: variables that are set in it, whatever they are here.
    """

    def __init__(self, module: str, noun: str, environment: dict[str, str] | None = None) -> None:
        self.module = module
        self.noun = noun
        self.environment = environment or {}
        self._process: subprocess.Popen[str] | None = None
        self._log: Any = None
        self._lock = threading.Lock()
        atexit.register(self.stop)

    def _start(self) -> subprocess.Popen[str]:
        self._log = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115
        environment = {
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "CUDA_VISIBLE_DEVICES": "-1",
            **os.environ,
            **self.environment,
        }
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # Where Python looks for modules first: the user's folder may have one of this name.
            cwd=Path(__file__).parents[1],
            env=environment,
            text=True,
        )
        return self._process

    def ask(self, request: dict[str, Any], *, timeout: float | None = None) -> Answer:
        """Has a request done.

        Args:
            timeout: seconds after which the process is stopped; None: as long as it takes.
        """
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                self.stop()
                process = self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            start = self._log.tell()
            with contextlib.suppress(BrokenPipeError):  # it died: there will be no answer
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], timeout)
            if not ready:
                self.stop()
                return Answer(
                    error=f"no result after {timeout:.0f} seconds; {self.noun} was stopped"
                )
            line = process.stdout.readline()
            if line:
                read = json.loads(line)
                return Answer(
                    value=read["value"],
                    error=read["error"],
                    problems=tuple(Problem(**each) for each in read["problems"]),
                )
            code = process.wait()
            self._log.seek(start)
            words = [text.strip() for text in self._log.read().splitlines() if text.strip()]
            self.stop()
            return Answer(error=f"{self.noun} died (exit status {code}): " + " | ".join(words[-3:]))

    def stop(self) -> None:
        """Ends the process and closes what it was spoken to through."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            # Closing flushes what a dead process never read.
            with contextlib.suppress(BrokenPipeError):
                cast(IO[str], stream).close()
        self._process = None


def serve(handle: Callable[[dict[str, Any]], Any]) -> None:
    """Answers requests until standard input ends, one JSON line each.

    Whatever is printed meanwhile goes to standard error.

    Args:
        handle: given a request; what it returns must be JSON. What it raises is told to the parent.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        answer: dict[str, Any] = {"value": None, "error": None, "problems": []}
        try:
            answer["value"] = handle(json.loads(line))
        except CompressKitError as error:
            answer["error"] = str(error)
            answer["problems"] = [asdict(problem) for problem in error.problems]
        except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
            traceback.print_exc()
            answer["error"] = f"{type(error).__name__}: {error}"
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
