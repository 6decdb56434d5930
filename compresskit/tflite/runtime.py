"""Runs a .tflite file with LiteRT, as a device would: one sample at a time.

Loads no TensorFlow.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, final

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from compresskit.errors import DataError, ModelError, Problem
from compresskit.progress import muted


@final
class Runner:
    """An interpreter for one file.

    Args:
        content: the bytes of the file.
        threads: how many the kernels may use.

    Raises:
        ModelError: the runtime cannot load the file.
    """

    def __init__(self, content: bytes, *, threads: int = 1, where: str = "model.tflite"):
        self.where = where
        try:
            # LiteRT announces the delegate of its first file.
            with muted():
                self._interpreter = Interpreter(model_content=content, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                Problem(
                    where=where,
                    found=f"LiteRT cannot load the file: {' '.join(str(error).split())}",
                    expected="a .tflite file of ops that LiteRT has",
                    fix="export it again without custom or Flex ops",
                )
            ) from error
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    def _quantized(self, inputs: np.ndarray) -> np.ndarray:
        dtype = self._input["dtype"]
        scale, zero = self._input["quantization"]
        if scale and np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            return np.clip(np.round(inputs / scale) + zero, limits.min, limits.max).astype(dtype)
        return inputs.astype(dtype)

    def _dequantized(self, outputs: np.ndarray) -> np.ndarray:
        scale, zero = self._output["quantization"]
        return (outputs.astype(np.float32) - zero) * np.float32(scale) if scale else outputs

    def predict(
        self, inputs: np.ndarray, on_sample: Callable[[int], Any] | None = None
    ) -> np.ndarray:
        """The file's answers in real units.

        Args:
            inputs: float or integer array, samples first.
            on_sample: called with the number of samples done, for progress.

        Raises:
            DataError: the samples do not have the shape that the file takes.
        """
        expected = tuple(int(size) for size in self._input["shape"][1:])
        if inputs.shape[1:] != expected:
            raise DataError(
                Problem(
                    where=self.where,
                    found=f"samples of shape {inputs.shape[1:]}",
                    expected=f"samples of shape {expected}, which the file takes",
                    fix="evaluate with the data set that the model was made for",
                )
            )
        answers = []
        for index in range(len(inputs)):
            # A fused LSTM keeps its state from one call to the next.
            self._interpreter.reset_all_variables()
            quantized = self._quantized(inputs[index : index + 1])
            self._interpreter.set_tensor(self._input["index"], quantized)
            self._interpreter.invoke()
            answers.append(self._interpreter.get_tensor(self._output["index"]))
            if on_sample is not None:
                on_sample(index + 1)
        return self._dequantized(np.concatenate(answers))

    def latency_ms(self, sample: np.ndarray, *, warm_up: int = 10, runs: int = 50) -> float:
        """Median time of one inference in milliseconds, after a warm-up."""
        self._interpreter.set_tensor(self._input["index"], self._quantized(sample[:1]))
        for _ in range(warm_up):
            self._interpreter.invoke()
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            self._interpreter.invoke()
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1000.0
