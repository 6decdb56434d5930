"""Looks into a file or a model: what is in it, and how much of it is zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compresskit.errors import ModelError, Problem
from compresskit.report.records import TensorReport
from compresskit.target import Compiled, Finding, Placement
from compresskit.tflite.audit import Audit, audit
from compresskit.tflite.metadata import Metadata, metadata_of
from compresskit.tflite.runtime import input_name


@dataclass(frozen=True, kw_only=True)
class EndReport:
    """An input or output of a file.

    Attributes:
        signature: its name in the file's signature, if it has one.
        scale, zero_point: an integer stands for `(integer - zero_point) * scale`; None of what
            is not quantized.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    signature: str | None = None
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """What a .tflite file or a Keras model holds.

    Attributes:
        kind: `tflite` or `keras`.
        bytes, gzip_bytes: of the file; of a model in memory, of its weights alone.
        parameters: number of values in all weights and constants.
        sparsity: share of zeros over `weights`.
        ops: how often each op occurs; for a Keras model, each layer type.
        float_ops: number of ops that read or write floats.
        claim, findings, placement, compiled: of a file just exported, what its target and the
            target's own tool say of it.
        metadata: what a .tflite file says of where it comes from: versions, metrics and more.
        recipe: the resolved recipe that made it, YAML.
        labels: the name of each class.
    """

    name: str
    kind: str
    bytes: int
    gzip_bytes: int | None
    parameters: int
    sparsity: float
    ops: dict[str, int]
    float_ops: int
    inputs: tuple[EndReport, ...]
    outputs: tuple[EndReport, ...]
    weights: tuple[TensorReport, ...]
    claim: str = ""
    findings: tuple[Finding, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    labels: tuple[str, ...] = ()
    placement: Placement | None = None
    compiled: Compiled | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self)


def inspect(model_or_path: Any, *, safe_mode: bool = True) -> FileReport:
    """What a `.tflite` file, a `.keras` file or a model holds.

    Raises:
        ModelError: the file is missing or is none of these.
    """
    if isinstance(model_or_path, str | Path):
        if Path(model_or_path).suffix == ".tflite":
            return describe_file(model_or_path)
        # Not at the top: a .tflite file is inspected without loading TensorFlow.
        from compresskit.models.load import load_model

        model = load_model(str(model_or_path), where="model", safe_mode=safe_mode)
        return _describe_model(model, str(model_or_path))
    return _describe_model(model_or_path, model_or_path.name)


def read_file(path: str | Path) -> bytes:
    """The bytes of a file that the user named.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(
            Problem(
                where=str(path),
                found=f"a file that cannot be read: {error.strerror}",
                expected="a .tflite or .keras file",
                fix="correct the path",
            )
        ) from error


def describe_file(path: str | Path) -> FileReport:
    """What a .tflite file holds."""
    content = read_file(path)
    audited = audit(content, str(path))
    carried = metadata_of(content) or Metadata()
    weights = tuple(map(TensorReport.of, audited.weights))
    return FileReport(
        name=str(path),
        kind="tflite",
        bytes=audited.size,
        gzip_bytes=audited.gzip_size,
        parameters=sum(t.values.size for t in audited.tensors if t.values is not None),
        sparsity=_sparsity(weights),
        ops=audited.counts,
        float_ops=len(audited.computed_in_float()),
        inputs=_ends(audited, audited.inputs),
        outputs=_ends(audited, audited.outputs),
        weights=weights,
        metadata=carried.facts,
        recipe=carried.recipe,
        labels=tuple(carried.labels),
    )


def _ends(audited: Audit, indices: tuple[int, ...]) -> tuple[EndReport, ...]:
    tensors = [audited.tensors[index] for index in indices]
    named = {audited.outputs[position]: name for name, position in audited.answers.items()}
    return tuple(
        EndReport(
            name=t.name,
            dtype=t.dtype,
            shape=t.shape,
            signature=named.get(t.index) or input_name(t.name),
            scale=float(t.scales[0]) if t.scales.size else None,
            zero_point=int(t.zero_points[0]) if t.scales.size else None,
        )
        for t in tensors
    )


def _describe_model(model: Any, name: str) -> FileReport:
    from collections import Counter

    from compresskit.weights import leaves, weights_of

    weights = tuple(
        TensorReport(
            name=weight.path,
            dtype=weight.variable.dtype.upper(),
            shape=weight.shape,
            sparsity=float(np.mean(values == 0)),
            distinct=int(np.unique(values).size),
            bytes=values.nbytes,
        )
        for weight in weights_of(model)
        for values in [weight.variable.numpy()]
    )
    path = Path(name)
    return FileReport(
        name=name,
        kind="keras",
        bytes=path.stat().st_size
        if path.is_file()
        else sum(v.numpy().nbytes for v in model.weights),
        gzip_bytes=None,
        parameters=model.count_params(),
        sparsity=_sparsity(weights),
        ops=dict(sorted(Counter(type(layer).__name__ for layer in leaves(model)).items())),
        float_ops=len(list(leaves(model))),
        inputs=_model_ends(model, "inputs"),
        outputs=_model_ends(model, "outputs"),
        weights=weights,
    )


def _model_ends(model: Any, which: str) -> tuple[EndReport, ...]:
    # A subclassed model declares no symbolic inputs or outputs.
    tensors = getattr(model, which, None) or ()
    return tuple(
        EndReport(
            name=tensor.name, dtype=tensor.dtype.upper(), shape=tuple(s or -1 for s in tensor.shape)
        )
        for tensor in tensors
    )


def _sparsity(weights: tuple[TensorReport, ...]) -> float:
    size = sum(int(np.prod(weight.shape)) for weight in weights)
    zeros = sum(weight.sparsity * int(np.prod(weight.shape)) for weight in weights)
    return float(zeros / size) if size else 0.0
