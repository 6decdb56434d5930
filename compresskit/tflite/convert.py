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
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast, final

import keras
import numpy as np

from compresskit.errors import ConversionError, ModelError, Problem, TargetError
from compresskit.ranges import Range
from compresskit.recipe_rounding import ROUNDING, Rounding
from compresskit.target import Precision
from compresskit.tflite.culprit import culprit
from compresskit.tflite.forms import Form
from compresskit.tflite.lower import lower
from compresskit.tflite.runtime import Runner
from compresskit.tflite.support import by_library, unfit

TIMEOUT_SECONDS = 1800
# Of a part of a model, of which several are tried to find where a failure begins.
PART_SECONDS = 300
# A conversion that takes more ends by itself, before the system ends other processes for it.
MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def convert(
    model: keras.Model,
    precision: Precision,
    *,
    sample: Any,
    calibration: Any = None,
    ranges: Sequence[Range] = (),
    lstm: Form = "fused",
    rounding: Rounding = ROUNDING,
) -> bytes:
    """Converts a model to the bytes of a .tflite file.

    Args:
        sample: a batch of inputs as the model takes them.
        calibration: representative inputs, for integer precisions and for `gptq`; same
            structure. The sample if there are none.
        ranges: activation ranges that training learned.
        lstm: in which form recurrent layers are written.
        rounding: how weights are rounded, for precisions of floats with integer weights.

    Raises:
        TargetError: the precision has no kernel for a layer, or a package is missing.
        ConversionError: the converter refused, crashed, took too long or too much memory, or
            what it wrote answers with other than numbers; it names the layer where this
            begins, found by converting ever shorter beginnings of the model.
    """
    tokens = all(
        np.issubdtype(np.asarray(value).dtype, np.integer) for value in keras.tree.flatten(sample)
    )
    library = by_library(model, precision, rounding, tokens=tokens)
    problems = unfit(model, precision, lstm, library=library)
    if problems:
        raise TargetError(problems)

    def attempt(upto: int | None = None) -> tuple[bytes, str | None]:
        """The file of the model, or of its first calls, and what is wrong with it."""
        # Of a part, the outputs may be of any type.
        wanted = precision if upto is None else replace(precision, io="float32")
        content, error = _converted(
            model, wanted, sample, calibration, ranges, lstm, upto, rounding if library else None
        )
        if error is None and wanted.io == "float32":
            try:
                sound = Runner(content).finite(sample)
            except ModelError as unloadable:
                return content, unloadable.problems[0].found
            if not sound:
                error = "a file that answers a sample with NaN or infinity"
        return content, error

    content, error = attempt()
    if error is None:
        return content
    finite = all(
        np.all(np.isfinite(answer)) for answer in keras.tree.flatten(model(sample, training=False))
    )
    layer = culprit(model, sample, lambda upto: attempt(upto)[1] is not None) if finite else None
    named = f"; it begins with {layer}" if layer else ""
    raise ConversionError(
        Problem(
            where=f"conversion of {model.name!r}",
            found=error + named if finite else f"{error}, as the Keras model does",
            expected="a graph that the TFLite converter takes, and numbers from what it makes",
            fix=_fix(layer) if finite else "look for the layer whose weights are no numbers",
        )
    )


def _fix(layer: str | None) -> str:
    if layer:
        return "write this layer with other operations, or choose another precision"
    return "look for the op named above in the model, or choose another precision"


def _converted(
    model: keras.Model,
    precision: Precision,
    sample: Any,
    calibration: Any,
    ranges: Sequence[Range],
    lstm: Form,
    upto: int | None,
    rounding: Rounding | None,
) -> tuple[bytes, str | None]:
    """The bytes of a file, or what went wrong.

    Args:
        rounding: how litert-quantizer rounds; None: TensorFlow's converter does.
    """
    calibration = sample if calibration is None else calibration
    with tempfile.TemporaryDirectory(prefix="compresskit-") as folder:
        saved_model, out, arrays = (Path(folder, name) for name in ("model", "out", "data.npz"))
        integer = precision.integer
        names = lower(
            model,
            sample,
            saved_model,
            ranges,
            lstm,
            integer=integer,
            wide=precision.activations == "int16",
            calibration=calibration,
            upto=upto,
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
            "rounding": rounding
            and {
                "algorithm": rounding.algorithm,
                "block": rounding.block if rounding.granularity == "block" else None,
            },
            "memory": MEMORY_BYTES,
        }
        if integer or rounding is not None:
            flat: Any = [np.asarray(value) for value in keras.tree.flatten(calibration)]
            np.savez(arrays, **dict(zip(names, flat, strict=True)))
        error = _worker.ask(request, timeout=TIMEOUT_SECONDS if upto is None else PART_SECONDS)
        return (b"", error) if error is not None else (out.read_bytes(), None)


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
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "compresskit.tflite.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # Where Python looks for modules first: the user's folder may have one of this name.
            cwd=Path(__file__).parents[2],
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
