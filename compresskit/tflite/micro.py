"""Runs a .tflite file with TensorFlow Lite Micro, in the way of LiteRT's interpreter."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from typing import Any, final

import numpy as np

from compresskit.errors import ModelError, Problem
from compresskit.installed import TFLITE_MICRO, missing
from compresskit.progress import muted
from compresskit.tflite.audit import audit

# Memory for activations and decoded weights. On this machine more costs nothing.
_ARENA_BYTES = 1 << 26
_ALIGNMENT = 16
_USED = re.compile(r"Arena allocation total (\d+) bytes")
_MODULES = {
    "runtime": "tflite_micro.python.tflite_micro.runtime",
    "compression": "tflite_micro.tensorflow.lite.micro.compression",
}
_REFUSED = 3
_PROBE = f"""
import sys
from {_MODULES["runtime"]} import Interpreter
try:
    Interpreter.from_bytes(sys.stdin.buffer.read(), arena_size=int(sys.argv[1])).invoke()
except RuntimeError:
    sys.exit({_REFUSED})
"""


def package(part: str, where: str) -> Any:
    """A module of `tflite-micro`.

    Args:
        part: `runtime` or `compression`.
        where: what needs it, for the error.

    Raises:
        ModelError: it is not installed.
    """
    problem = missing(TFLITE_MICRO, where=where)
    if problem is not None:
        raise ModelError(problem)
    return import_module(_MODULES[part])


@final
class MicroInterpreter:
    """TensorFlow Lite Micro with its portable kernels; the methods are those of LiteRT.

    Raises:
        ModelError: the package is not installed, or it cannot run the file.
    """

    def __init__(self, content: bytes, *, where: str):
        runtime = package("runtime", where)
        audited = audit(content, where)
        self._names = [audited.tensors[index].name for index in audited.inputs]
        self._outputs = len(audited.outputs)
        with muted() as said:
            try:
                self._interpreter = runtime.Interpreter.from_bytes(content, arena_size=_ARENA_BYTES)
            except RuntimeError as error:
                raise ModelError(
                    Problem(
                        where=where,
                        found=f"TensorFlow Lite Micro cannot run the file: {said() or error}",
                        expected="a file of ops and types that it has",
                        fix="replace the layer that the op named above comes from",
                    )
                ) from error

    def get_input_details(self) -> list[dict[str, Any]]:
        given = map(self._interpreter.get_input_details, range(len(self._names)))
        return [
            {**_details(each, index), "name": name}
            for index, (name, each) in enumerate(zip(self._names, given, strict=True))
        ]

    def get_output_details(self) -> list[dict[str, Any]]:
        given = map(self._interpreter.get_output_details, range(self._outputs))
        return [_details(each, index) for index, each in enumerate(given)]

    def reset_all_variables(self) -> None:
        self._interpreter.reset()

    def set_tensor(self, index: int, values: np.ndarray) -> None:
        self._interpreter.set_input(values, index)

    def invoke(self) -> None:
        self._interpreter.invoke()

    def get_tensor(self, index: int) -> np.ndarray:
        return self._interpreter.get_output(index).copy()


def arena_bytes(content: bytes, where: str) -> int:
    """The least tensor arena in which TensorFlow Lite Micro runs a file here, to 16 bytes.

    Found by running the file in arenas of several sizes. Pointers have 8 bytes here, and kernels
    are the portable ones: with 4-byte pointers less is needed, while the kernels of a chip may ask
    for more.

    Raises:
        ModelError: the package is not installed, or it cannot run the file.
    """
    runtime = package("runtime", where)
    with muted() as said:
        interpreter = runtime.Interpreter.from_bytes(content, arena_size=_ARENA_BYTES)
        interpreter.invoke()
        interpreter.print_allocations()
        used = _USED.search(said())
    if used is None:
        raise ModelError(
            Problem(
                where=where,
                found="TensorFlow Lite Micro does not tell how much memory it used",
                expected="the total of its allocations",
                fix=TFLITE_MICRO.install,
            )
        )
    # It used this much after planning; planning itself may take more, so larger ones are tried.
    # Smaller ones are not.
    low = -(-int(used[1]) // _ALIGNMENT)
    if _runs(content, low * _ALIGNMENT):
        return low * _ALIGNMENT
    high = 2 * low
    # In the largest it ran above.
    while high * _ALIGNMENT < _ARENA_BYTES and not _runs(content, high * _ALIGNMENT):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _runs(content, middle * _ALIGNMENT):
            high = middle
        else:
            low = middle
    return high * _ALIGNMENT


def _runs(content: bytes, size: int) -> bool:
    """Whether a file runs in an arena of so many bytes.

    In a process of its own: with some that are too small, that of an LSTM among them, the runtime
    does not refuse, but ends the process.

    Raises:
        ModelError: neither is so, and nothing is known.
    """
    words = [sys.executable, "-c", _PROBE, str(size)]
    done = subprocess.run(words, input=content, capture_output=True, check=False)
    if done.returncode > 0 and done.returncode != _REFUSED:
        raise ModelError(
            Problem(
                where=f"an arena of {size} bytes",
                found=f"a process that failed: {done.stderr.decode(errors='replace')[-500:]}",
                expected="TensorFlow Lite Micro that runs the file, or says that it cannot",
                fix=TFLITE_MICRO.install,
            )
        )
    return done.returncode == 0


def _details(given: dict[str, Any], index: int) -> dict[str, Any]:
    quantization = given["quantization_parameters"]
    scales, zeros = quantization["scales"], quantization["zero_points"]
    return {
        "index": index,
        "shape": given["shape"],
        "dtype": given["dtype"],
        "quantization": (float(scales[0]), int(zeros[0])) if len(scales) else (0.0, 0),
    }
