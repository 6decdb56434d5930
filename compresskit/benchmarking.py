"""Measures how fast files are, side by side. Loads no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compresskit import data as datasets
from compresskit.data import Dataset
from compresskit.errors import CompressKitError, DataError, ModelError, Problem
from compresskit.inspection import read_file
from compresskit.samples import Samples, take
from compresskit.tflite.alone import ops_alone
from compresskit.tflite.audit import Audit, audit
from compresskit.tflite.memory import peak_bytes
from compresskit.tflite.runtime import Runner, input_name, runtime_of
from compresskit.tflite.timing import RUNS, Timing, interleaved

# Real samples that are used in turn.
_SAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class OpTiming:
    """An op, timed alone: as a file of its own, on values of no meaning.

    Attributes:
        index: its position in the graph.
        ms: median of its calls, in milliseconds; calling a file is part of it.
        share: of the sum over all ops.
    """

    index: int
    op: str
    output: str
    ms: float
    share: float


@dataclass(frozen=True, kw_only=True)
class FileTiming:
    """What one file takes.

    Attributes:
        runtime: what ran it: `litert`, or `tflite-micro` for weights in look-up tables.
        latency_ms: median of one call, in milliseconds.
        p10_ms, p90_ms: the 10th and the 90th percentile of the calls.
        ratio: this file's time divided by the first file's: the median over the rounds of the ratio
            of their medians; 0.5 is twice as fast.
        ratio_p10, ratio_p90: of the same ratios.
        peak_memory_bytes: what it adds to the peak of a process of its own; None where that cannot
            be measured.
        ops: each timed alone; empty unless asked for.
    """

    path: str
    bytes: int
    runtime: str
    latency_ms: float
    p10_ms: float
    p90_ms: float
    ratio: float
    ratio_p10: float
    ratio_p90: float
    peak_memory_bytes: int | None
    ops: tuple[OpTiming, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Files that were timed in turn.

    Attributes:
        threads: how many the kernels of LiteRT may use.
        runs: timed calls of each file.
        data: the data set that the inputs came from, or `made up`.
    """

    threads: int
    runs: int
    data: str
    files: tuple[FileTiming, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self)


def bench(
    paths: str | Path | Sequence[str | Path],
    *,
    data: Any = None,
    threads: int = 1,
    runs: int = RUNS,
    profile: bool = False,
) -> Bench:
    """Times .tflite files on this machine, one sample a call, in turn.

    ```python
    made = ck.bench(["a.tflite", "b.tflite"], runs=200)
    print(made.files[1].ratio)
    ```

    Args:
        paths: of one file or several; the first is what the others are compared with.
        data: test samples of it are the inputs, in any form that a recipe's `data` takes or as a
            data set; None makes inputs up: random numbers, and for ids, where their table is known,
            random ids, else zeros.
        threads: how many the kernels of LiteRT may use.
        runs: timed calls of each file, at least 1.
        profile: time each op, too, as a file of its own.

    Raises:
        ModelError: files are missing, damaged, or none that the runtime loads; every one is named.
        DataError: the samples are not what the files take.
    """
    names = [paths] if isinstance(paths, (str, Path)) else list(paths)
    problems = _asked(names, threads, runs)
    if problems:
        raise ModelError(problems)
    contents, audits, runners = _opened(names, threads)
    dataset = None if data is None else _dataset(data)
    if dataset is None:
        samples: list[Samples] = [
            runner.made_up(_rows(audited)) for runner, audited in zip(runners, audits, strict=True)
        ]
    else:
        samples = [take(dataset.x_test, slice(_SAMPLES))] * len(runners)
        _fitting(runners, samples)
    timings = interleaved(runners, samples, runs=runs)
    files = zip(names, contents, audits, timings, strict=True)
    return Bench(
        threads=threads,
        runs=runs,
        data="made up" if dataset is None else dataset.name,
        files=tuple(_file(*each, threads, runs, profile) for each in files),
    )


def _asked(names: Sequence[Any], threads: int, runs: int) -> list[Problem]:
    wanted = {"paths": len(names), "threads": threads, "runs": runs}
    return [
        Problem(where=key, found=str(value), expected="at least 1", fix="give 1 or more")
        for key, value in wanted.items()
        if value < 1
    ]


def _dataset(data: Any) -> Dataset:
    return data if isinstance(data, Dataset) else datasets.load(data)


def _opened(
    names: Iterable[str | Path], threads: int
) -> tuple[list[bytes], list[Audit], list[Runner]]:
    """The files, each read, looked into and loaded; every one that cannot be is named."""
    contents, audits, runners = [], [], []
    problems: list[Problem] = []
    for name in names:
        try:
            content = read_file(name)
            audited = audit(content, str(name))
            runtime = runtime_of(audited)
            runners.append(Runner(content, threads=threads, where=str(name), runtime=runtime))
            contents.append(content)
            audits.append(audited)
        except ModelError as error:
            problems += error.problems
    if problems:
        raise ModelError(problems)
    return contents, audits, runners


def _fitting(runners: Iterable[Runner], samples: Iterable[Samples]) -> None:
    """Raises what is wrong with the samples for all files at once."""
    problems: list[Problem] = []
    for runner, x in zip(runners, samples, strict=True):
        try:
            runner.feed(x)
        except CompressKitError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)


def _rows(audited: Audit) -> dict[str, int]:
    """Of inputs that are looked up in a table: how many rows it has."""
    found: dict[str, int] = {}
    for op in audited.ops:
        if op.name == "GATHER" and op.inputs[1] in audited.inputs:
            name = input_name(audited.tensors[op.inputs[1]].name)
            rows = audited.tensors[op.inputs[0]].shape[0]
            found[name] = min(rows, found.get(name, rows))
    return found


def _file(
    name: str | Path,
    content: bytes,
    audited: Audit,
    timing: Timing,
    threads: int,
    runs: int,
    profile: bool,
) -> FileTiming:
    runtime = runtime_of(audited)
    return FileTiming(
        path=str(name),
        bytes=len(content),
        runtime=runtime,
        latency_ms=timing.ms(),
        p10_ms=timing.ms(10),
        p90_ms=timing.ms(90),
        ratio=timing.ratio(),
        ratio_p10=timing.ratio(10),
        ratio_p90=timing.ratio(90),
        # TensorFlow Lite Micro works in an arena, whatever a process takes here.
        peak_memory_bytes=peak_bytes(Path(name), threads) if runtime == "litert" else None,
        ops=_ops(str(name), content, audited, threads, runs) if profile else (),
    )


def _ops(
    name: str, content: bytes, audited: Audit, threads: int, runs: int
) -> tuple[OpTiming, ...]:
    if runtime_of(audited) != "litert":
        return ()
    alone = ops_alone(content, audited)
    runners = [
        Runner(each, threads=threads, where=f"{name}, op {index} ({audited.ops[index].name})")
        for index, each in alone
    ]
    made_up = [runner.made_up() for runner in runners]
    times = [timing.ms() for timing in interleaved(runners, made_up, runs=runs)]
    return tuple(
        OpTiming(
            index=index,
            op=audited.ops[index].name,
            output=audited.tensors[audited.ops[index].outputs[0]].name,
            ms=ms,
            share=ms / sum(times),
        )
        for (index, _), ms in zip(alone, times, strict=True)
    )
