"""Conversion to TFLite in a process of its own.

The converter can abort the process that it runs in. Here that is an error with the
converter's last words, and the user's process lives on. The process is kept between
conversions: importing TensorFlow costs more than converting a small model.
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
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast, final

import keras
import numpy as np

from compresskit.errors import ConversionError, Problem
from compresskit.ranges import Range
from compresskit.target import Precision
from compresskit.tflite.forms import Form
from compresskit.tflite.lower import lower

TIMEOUT_SECONDS = 1800


def convert(
    model: keras.Model,
    precision: Precision,
    *,
    sample: Any,
    calibration: Any = None,
    ranges: Sequence[Range] = (),
    lstm: Form = "fused",
) -> bytes:
    """Converts a model to the bytes of a .tflite file.

    Args:
        sample: a batch of inputs as the model takes them.
        calibration: representative inputs, for integer precisions; same structure.
        ranges: activation ranges that training learned.
        lstm: in which form recurrent layers are written.

    Raises:
        ConversionError: the converter refused, crashed, or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="compresskit-") as folder:
        saved_model, out, arrays = (Path(folder, name) for name in ("model", "out", "data.npz"))
        integer = precision.integer
        names = lower(
            model, sample, saved_model, ranges, lstm, integer=integer, calibration=calibration
        )
        request = {
            "saved_model": str(saved_model),
            "out": str(out),
            "calibration": str(arrays),
            "weights": precision.weights,
            "activations": precision.activations,
            "io": precision.io,
            "integer_inputs": all(
                np.issubdtype(np.asarray(value).dtype, np.integer)
                for value in keras.tree.flatten(sample)
            ),
            "per_channel_dense": precision.grid.per_channel_dense,
        }
        if integer:
            flat: Any = [np.asarray(value) for value in keras.tree.flatten(calibration)]
            np.savez(arrays, **dict(zip(names, flat, strict=True)))
        error = _worker.ask(request, timeout=TIMEOUT_SECONDS)
        if error is not None:
            raise ConversionError(
                Problem(
                    where=f"conversion of {model.name!r}",
                    found=error,
                    expected="a graph that the TFLite converter takes",
                    fix="look for the op named above in the model, or choose another precision",
                )
            )
        return out.read_bytes()


@final
class _Worker:
    """A converter process, started at the first request and again after a crash."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._log: Any = None
        self._lock = threading.Lock()

    def _start(self) -> subprocess.Popen[str]:
        self._log = tempfile.TemporaryFile(mode="w+", errors="replace")  # noqa: SIM115
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1", **os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "compresskit.tflite.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )
        return self._process

    def ask(self, request: dict[str, Any], *, timeout: float) -> str | None:
        """Has a request done. Returns None, or what went wrong."""
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
                return f"no result after {timeout:.0f} seconds; the converter was stopped"
            line = process.stdout.readline()
            if line:
                return json.loads(line)["error"]
            code = process.wait()
            self._log.seek(start)
            words = [text.strip() for text in self._log.read().splitlines() if text.strip()]
            self.stop()
            return f"the converter died (exit status {code}): " + " | ".join(words[-3:])

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


_worker = _Worker()
atexit.register(_worker.stop)
