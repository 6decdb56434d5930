"""The report: measurements and promises. `docs/report.md` explains every key.

All figures of an artifact are read from its bytes or measured by running it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from compresskit.target import Compiled, Placement

if TYPE_CHECKING:
    from compresskit.tflite.tensors import Tensor

REPORT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The model before compression.

    Attributes:
        metrics: on the test set, by name, as fractions.
        parameters: number of weights, trained or not.
        tflite_bytes, tflite_gzip_bytes: of the plain float32 export: what every ratio
            is taken of.
        latency_ms: median of one inference of that export on one thread, timed in turn with the
            files of the run, in the end; no number until then.
        compiled: by the name of each artifact that a device's own tool compiled, what the tool
            makes of the baseline, rounded to the same precision without training.
    """

    metrics: dict[str, float]
    parameters: int
    tflite_bytes: int
    tflite_gzip_bytes: int
    latency_ms: float = math.nan
    compiled: dict[str, Compiled] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One weight after a stage.

    Attributes:
        sparsity: share of zeros, 0 to 1.
        distinct: number of distinct values that the layer reads.
        skipped: why the stage left it as it was, or None.
    """

    path: str
    shape: tuple[int, ...]
    sparsity: float
    distinct: int
    skipped: str | None = None


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One stage of the recipe.

    Attributes:
        metrics: of the model as trained, on the test set.
        sparsity: share of zeros over all weights that the stage touched.
        history: training and validation metrics by name, a value an epoch.
        rolled_back: whether its gate undid it.
        parameters: of the model that was trained, a student of its own size maybe.
        teacher: who taught, or None.
        units: of each layer that lost some, how many it had and has.
        multiply_adds: of one sample, before and after; None of a stage that removes nothing.
    """

    name: str
    type: str
    metrics: dict[str, float]
    sparsity: float
    seconds: float
    layers: tuple[LayerReport, ...]
    history: dict[str, list[float]]
    rolled_back: bool = False
    parameters: int = 0
    teacher: str | None = None
    units: dict[str, tuple[int, int]] = field(default_factory=dict)
    multiply_adds: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Parity:
    """A file against the Keras model that it was made of, on the same samples.

    Attributes:
        samples: how many were compared.
        agreement: share with the same answer (the same largest output).
        max_abs_error, mean_abs_error: over all outputs, in their unit.
    """

    samples: int
    agreement: float
    max_abs_error: float
    mean_abs_error: float


@dataclass(frozen=True, kw_only=True)
class TensorReport:
    """A constant of a file that a kernel multiplies by, or a weight of a model, as stored."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sparsity: float
    distinct: int
    bytes: int

    @classmethod
    def of(cls, tensor: Tensor) -> TensorReport:
        """That of a tensor of a file."""
        return cls(
            name=tensor.name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            sparsity=tensor.sparsity,
            distinct=tensor.distinct,
            bytes=tensor.stored,
        )


@dataclass(frozen=True, kw_only=True)
class FindingReport:
    """An op that the target does not run, or runs with a warning, and why."""

    index: int
    op: str
    reason: str
    confirmed: bool
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class ArtifactReport:
    """One exported file.

    Attributes:
        bytes, gzip_bytes: size of the file, and what gzip -9 makes of it.
        packed_bytes: what `compresskit pack` makes of it, if its weights are integers.
        entropy_bytes: zeroth-order entropy of these weights; the rest of the file comes on top.
        weight_bytes: of its weight tensors.
        metrics: of the file, run by LiteRT on the test set.
        ops: how often each op occurs.
        float_ops: how many of them read or write floats.
        requantize_ops: number of QUANTIZE and DEQUANTIZE ops.
        latency_ms: as that of the baseline, and measured together with it.
        claim: what the target says of the file, or an empty string.
        findings: what of it the target does not run.
        notes: what whoever runs the file must know.
        sparsity: share of zeros over all weight tensors.
        flash_bytes, arena_bytes: for `micro`, what the file takes in flash, and the least memory
            for tensors in which TensorFlow Lite Micro runs it here; None for others.
        c_array: names of the C header and source that hold it, if they were asked for.
        placement: what of it the accelerator runs by the rules of the target; None if it has no
            such rules, or a tool compiled the file.
        compiled: what the target's own tool says of the file, if that is there.
    """

    target: str
    precision: str
    path: str
    bytes: int
    gzip_bytes: int
    weight_bytes: int
    metrics: dict[str, float]
    parity: Parity
    ops: dict[str, int]
    float_ops: int
    requantize_ops: int
    latency_ms: float = math.nan
    sparsity: float
    tensors: tuple[TensorReport, ...]
    claim: str
    findings: tuple[FindingReport, ...]
    notes: tuple[str, ...] = ()
    packed_bytes: int | None = None
    entropy_bytes: int | None = None
    flash_bytes: int | None = None
    arena_bytes: int | None = None
    c_array: tuple[str, ...] = ()
    placement: Placement | None = None
    compiled: Compiled | None = None


@dataclass(frozen=True, kw_only=True)
class Promise:
    """Something that the recipe asked for, and whether it came true.

    Attributes:
        what: in words, with the stage or the file that it is about.
        stage: name of the stage that is answerable, or of the export.
        expected, measured: numbers or words.
    """

    what: str
    stage: str
    expected: float | str
    measured: float | str
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a run has to say."""

    recipe: str
    engine: str
    seed: int
    model: str
    data: str
    metric: str
    versions: dict[str, str]
    baseline: Baseline
    stages: tuple[StageReport, ...]
    artifacts: tuple[ArtifactReport, ...]
    promises: tuple[Promise, ...]
    seconds: float

    @property
    def broken(self) -> tuple[Promise, ...]:
        """Promises that were not kept."""
        return tuple(promise for promise in self.promises if not promise.kept)

    def to_dict(self) -> dict[str, Any]:
        """Plain data with the keys of `report.json`."""
        return {"version": REPORT_VERSION, **asdict(self)}

    def to_json(self) -> str:
        """The text of `report.json`."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
