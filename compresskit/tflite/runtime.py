"""Runs a .tflite file as a device would: one sample at a time. Loads no TensorFlow."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from compresskit.errors import DataError, ModelError, Problem, did_you_mean
from compresskit.progress import muted
from compresskit.samples import Samples, count, shapes
from compresskit.tflite.audit import Audit, audit
from compresskit.tflite.decode import DECODE
from compresskit.tflite.micro import MicroInterpreter

Runtime = Literal["litert", "tflite-micro"]


@final
class Runner:
    """An interpreter for one file.

    Args:
        content: the bytes of the file.
        threads: how many the kernels of LiteRT may use.
        runtime: LiteRT, or TensorFlow Lite Micro with its portable kernels.
        output: which of several outputs is read, by its name in the signature; default: the
            first in the file.
        keep: LiteRT keeps what every op computes, for `computed`; slow, with plain kernels.

    Raises:
        ModelError: the runtime cannot load the file, or is not installed.
    """

    def __init__(
        self,
        content: bytes,
        *,
        threads: int = 1,
        where: str = "model.tflite",
        runtime: Runtime = "litert",
        output: str | None = None,
        keep: bool = False,
    ):
        self.where = where
        self._interpreter: Any = (
            MicroInterpreter(content, where=where)
            if runtime == "tflite-micro"
            else _litert(content, threads, where, keep)
        )
        self._inputs = {
            input_name(each["name"]): each for each in self._interpreter.get_input_details()
        }
        position = 0 if output is None else _position(content, output, where)
        self._output = self._interpreter.get_output_details()[position]

    def _given(self, inputs: Samples) -> list[tuple[dict[str, Any], np.ndarray]]:
        """Each input of the file with the array for it.

        Raises:
            DataError: the samples are not what the file takes.
        """
        expected = {
            name: tuple(int(size) for size in each["shape"][1:])
            for name, each in self._inputs.items()
        }
        # An array is for the one input, whatever its name.
        found = inputs if isinstance(inputs, dict) else {next(iter(expected)): inputs}
        if {name: shapes(found).get(name) for name in expected} != expected:
            only = len(expected) == 1 and not isinstance(inputs, dict)
            wanted = next(iter(expected.values())) if only else expected
            raise DataError(
                Problem(
                    where=self.where,
                    found=f"samples of shape {shapes(inputs)}",
                    expected=f"samples of shape {wanted}, which the file takes",
                    fix="evaluate with the data set that the model was made for",
                )
            )
        return [(each, found[name]) for name, each in self._inputs.items()]

    def _set(self, given: list[tuple[dict[str, Any], np.ndarray]], index: int) -> None:
        for each, array in given:
            values = _quantized(array[index : index + 1], each)
            self._interpreter.set_tensor(each["index"], values)

    def _invoke(self) -> None:
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise DataError(
                Problem(
                    where=self.where,
                    found=f"a sample that it cannot run: {' '.join(str(error).split())}",
                    expected="samples of its kind; of tokens, ids that its table has",
                    fix="give the data set that the model was made for, with its tokenizer",
                )
            ) from error

    def _dequantized(self, outputs: np.ndarray) -> np.ndarray:
        scale, zero = self._output["quantization"]
        return (outputs.astype(np.float32) - zero) * np.float32(scale) if scale else outputs

    def predict(self, inputs: Samples, on_sample: Callable[[int], Any] | None = None) -> np.ndarray:
        """The file's answers in real units.

        Args:
            inputs: float or integer array, samples first; several by their names.
            on_sample: called with the number of samples done, for progress.

        Raises:
            DataError: the samples do not have the shape that the file takes.
        """
        given = self._given(inputs)
        answers = []
        for index in range(count(inputs)):
            # A fused LSTM keeps its state from one call to the next.
            self._interpreter.reset_all_variables()
            self._set(given, index)
            self._invoke()
            answers.append(self._interpreter.get_tensor(self._output["index"]))
            if on_sample is not None:
                on_sample(index + 1)
        return self._dequantized(np.concatenate(answers))

    def finite(self, sample: Samples) -> bool:
        """Whether the file answers the first sample with numbers alone, no NaN or infinity."""
        self._set(self._given(sample), 0)
        self._invoke()
        answers = [
            self._interpreter.get_tensor(each["index"])
            for each in self._interpreter.get_output_details()
        ]
        return all(bool(np.all(np.isfinite(answer))) for answer in answers)

    def computed(self, inputs: Samples, tensors: Sequence[int]) -> list[np.ndarray]:
        """What ops of a file that `keep`s it computed, as stored, one sample after the other.

        Args:
            tensors: their indices in the file.
        """
        given = self._given(inputs)
        found: list[list[np.ndarray]] = [[] for _ in tensors]
        for index in range(count(inputs)):
            self._interpreter.reset_all_variables()
            self._set(given, index)
            self._invoke()
            for values, tensor in zip(found, tensors, strict=True):
                values.append(self._interpreter.get_tensor(tensor))
        return [np.stack(values) for values in found]

    def made_up(self, rows: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
        """One sample of no meaning, the same each time: for measuring time and memory.

        Args:
            rows: for inputs that are looked up in a table, its number of rows.

        Returns:
            By input: floats of a standard normal distribution; for quantized inputs any value of
            their range, as floats; for integers below `rows` any of them, or zeros without.
        """
        random = np.random.default_rng(0)
        made: dict[str, np.ndarray] = {}
        for name, each in self._inputs.items():
            shape, dtype = (1, *map(int, each["shape"][1:])), each["dtype"]
            scale, zero = each["quantization"]
            if np.issubdtype(dtype, np.floating):
                made[name] = random.standard_normal(shape).astype(dtype)
            elif scale:
                limits = np.iinfo(dtype)
                stored = random.integers(limits.min, limits.max, shape, endpoint=True)
                made[name] = (stored - zero) * np.float32(scale)
            else:
                made[name] = random.integers(0, (rows or {}).get(name, 1), shape).astype(dtype)
        return made

    def feed(self, inputs: Samples) -> Callable[[], float]:
        """What calls the file with the next sample, and the first after the last.

        Returns:
            A function that takes nothing and returns the milliseconds that the call alone took.

        Raises:
            DataError: the samples do not have the shape that the file takes.
        """
        given = self._given(inputs)
        indices = itertools.cycle(range(count(inputs)))

        def call() -> float:
            self._interpreter.reset_all_variables()
            self._set(given, next(indices))
            start = time.perf_counter()
            self._invoke()
            return (time.perf_counter() - start) * 1000.0

        return call


def input_name(tensor: str) -> str:
    """The input of the signature, `tokens`, that the converter calls `serving_default_tokens:0`."""
    return tensor.removeprefix("serving_default_").rsplit(":", 1)[0]


def runtime_of(audited: Audit) -> Runtime:
    """What runs a file here: LiteRT, unless it has weights in look-up tables."""
    return "tflite-micro" if DECODE in audited.counts else "litert"


def _position(content: bytes, output: str, where: str) -> int:
    named = audit(content, where).answers
    if output in named:
        return named[output]
    raise DataError(
        Problem(
            where=where,
            found=f"no output {output!r}",
            expected=f"one of: {', '.join(named)}",
            fix=did_you_mean(output, named) if named else "evaluate a file that names its outputs",
        )
    )


def _litert(content: bytes, threads: int, where: str, keep: bool) -> Interpreter:
    try:
        # LiteRT announces the delegate of its first file.
        with muted():
            interpreter = Interpreter(
                model_content=content,
                num_threads=threads,
                experimental_preserve_all_tensors=keep,
                # A delegate computes several ops as one: nothing in between can be kept.
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                if keep
                else OpResolverType.AUTO,
            )
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            Problem(
                where=where,
                found=f"LiteRT cannot load the file: {' '.join(str(error).split())}",
                expected="a .tflite file of ops that LiteRT has",
                fix="export it again without custom or Flex ops",
            )
        ) from error
    return interpreter


def _quantized(inputs: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    dtype = details["dtype"]
    scale, zero = details["quantization"]
    if scale and np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return np.clip(np.round(inputs / scale) + zero, limits.min, limits.max).astype(dtype)
    return inputs.astype(dtype)
