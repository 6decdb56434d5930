"""Makes the files of a recipe, looks into them, runs them, and says what they keep."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from compresskit import metrics
from compresskit.data import Dataset
from compresskit.errors import ConversionError, Problem
from compresskit.labels import label_of
from compresskit.ledger import Kept, in_file
from compresskit.outputs import Output
from compresskit.packing import entropy_bytes, pack
from compresskit.product import produce
from compresskit.progress import Bars
from compresskit.recipe_export import Export
from compresskit.report.records import (
    ArtifactReport,
    FindingReport,
    Parity,
    Promise,
    TensorReport,
)
from compresskit.resolution import Resolved
from compresskit.samples import Samples, count, take
from compresskit.tflite.audit import Audit
from compresskit.tflite.decode import DECODE
from compresskit.tflite.metadata import Metadata, attach
from compresskit.tflite.runtime import Runner
from compresskit.trained import Source

_KEEPS_STATE = (
    "The fused LSTM keeps its state from one call to the next: reset it before each sequence "
    "(interpreter.reset_all_variables(); in TFLite Micro interpreter.reset()). Signature "
    "runners do not reset it."
)


def artifact(
    source: Source,
    export: Export,
    resolved: Resolved,
    dataset: Dataset,
    *,
    metric: str,
    output: Output,
    provenance: Metadata,
    bars: Bars,
) -> tuple[ArtifactReport, Audit, dict[str, bytes], Runner]:
    """Converts, audits, runs and compiles one file. It is timed later, together with the others.

    Args:
        source: the model, plain, with what training made baked into its weights.
        output: which of the model's outputs is measured and compared.
        provenance: what the file is to carry; what is measured of it here is added.

    Returns:
        The report; what is in the file; by their names the file, the one that the target's own
        tool made of it, and the C sources that hold it; what runs it.
    """
    precision = resolved.precision
    samples = dataset.representative(export.calibration.samples)
    source = source.calibrated(precision, export, samples)
    with bars.task(f"converting {resolved.file}", None):
        content = source.convert(
            precision,
            export,
            sample=take(dataset.x_test, slice(1)),
            calibration=samples,
        )
    made = produce(
        content,
        resolved,
        compress=export.compress,
        with_arena=True,
        with_sources=export.c_array,
        where=resolved.file,
        output=output.signature,
        bars=bars,
    )
    content, audited = made.content, made.audited
    labels = label_of(dataset.y_test, output.name)
    with bars.task(f"running {resolved.file}", count(dataset.x_test)) as update:
        outputs = made.runner.predict(dataset.x_test, lambda done: update(done=done))
    compared = min(export.parity.samples, count(dataset.x_test))
    first = take(dataset.x_test, slice(compared))
    if made.content is not made.plain:
        _check_luts(made.plain, first, outputs[:compared], resolved, output)
    reference = source.answers(first, precision, output=output.index)
    figures = {metric: metrics.METRICS[metric](outputs, labels)}
    parity = compare(outputs[:compared], reference, labels)
    if export.metadata or (export.metadata is None and made.arena is None):
        made_by = {
            "target": resolved.target.name,
            "precision": resolved.precision_name,
            "metrics": figures,
            "parity": asdict(parity),
        }
        carried = replace(provenance, facts={**provenance.facts, **made_by})
        content = attach(content, carried)
    report = ArtifactReport(
        target=resolved.target.name,
        precision=resolved.precision_name,
        path=resolved.file,
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content, compresslevel=9, mtime=0)),
        weight_bytes=sum(tensor.stored for tensor in audited.weights),
        metrics=figures,
        parity=parity,
        ops=audited.counts,
        float_ops=len(audited.computed_in_float()),
        requantize_ops=len(audited.requantized()),
        sparsity=zeros(audited),
        tensors=tuple(map(TensorReport.of, audited.weights)),
        claim=made.claim,
        findings=tuple(FindingReport(**asdict(finding)) for finding in made.findings),
        notes=_notes(audited),
        packed_bytes=len(pack(content)) if precision.packed else None,
        entropy_bytes=entropy_bytes(audited) if precision.packed else None,
        flash_bytes=None if made.arena is None else len(content),
        arena_bytes=made.arena,
        c_array=made.sources,
        placement=made.placement,
        compiled=made.compiled,
    )
    return report, audited, {resolved.file: content, **made.beside}, made.runner


def _check_luts(
    plain: bytes, inputs: Samples, answers: np.ndarray, resolved: Resolved, output: Output
) -> None:
    """Whether a file answers as the one that it was before its weights became tables."""
    runner = Runner(
        plain, where=resolved.file, runtime=resolved.target.runtime, output=output.signature
    )
    differences = int(np.sum(np.any(runner.predict(inputs) != answers, axis=-1)))
    if differences:
        raise ConversionError(
            Problem(
                where=resolved.file,
                found=f"other answers to {differences} of {len(answers)} samples than without "
                "look-up tables",
                expected="the same answers, bit for bit",
                fix="remove `compress: lut`, and report this with the model",
            )
        )


def _notes(audited: Audit) -> tuple[str, ...]:
    notes = []
    if "UNIDIRECTIONAL_SEQUENCE_LSTM" in audited.counts:
        notes.append(_KEEPS_STATE)
    if DECODE in audited.counts:
        decoded = [tensor for tensor in audited.weights if tensor.stored < tensor.constant.nbytes]
        memory = sum(tensor.constant.nbytes for tensor in decoded)
        notes.append(
            f"{len(decoded)} weights are decoded from look-up tables while it runs: "
            f"{sum(tensor.stored for tensor in decoded):,} bytes of flash instead of {memory:,}, "
            "but memory for each while its op runs"
        )
    return tuple(notes)


def compare(outputs: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> Parity:
    """Two sets of answers to the same samples.

    Args:
        labels: of any samples of the data set; they tell what kind of answers these are.
    """
    error = np.abs(outputs.astype(np.float64) - reference)
    return Parity(
        samples=len(outputs),
        agreement=metrics.agreement(outputs, reference, metrics.reading(reference, labels)),
        max_abs_error=float(error.max()),
        mean_abs_error=float(error.mean()),
    )


def zeros(audited: Audit) -> float:
    """Share of zeros over all weight tensors of a file."""
    sizes = [tensor.constant.size for tensor in audited.weights]
    shares = [tensor.sparsity for tensor in audited.weights]
    return float(np.average(shares, weights=sizes)) if sizes else 0.0


def promises(
    report: ArtifactReport,
    audited: Audit,
    export: Export,
    resolved: Resolved,
    kept: Sequence[Kept],
    drop: float,
) -> list[Promise]:
    """What the recipe asked of a file, and what the file says.

    Args:
        kept: what the stages made of each weight.
        drop: loss of the metric against the baseline; below zero is a gain.
    """
    file = report.path
    made = [
        _promise(
            f"{file} agrees with the Keras model",
            file,
            export.parity.min_agreement,
            report.parity.agreement,
            report.parity.agreement >= export.parity.min_agreement,
        )
    ]
    if export.gate is not None:
        made.append(
            _promise(
                f"{file} loses at most so much of {next(iter(report.metrics))}",
                file,
                export.gate.max_drop,
                drop,
                # Differences of shares of samples: 0.005 may come out a hair above itself.
                drop <= export.gate.max_drop + 1e-9,
            )
        )
    if resolved.precision.integer:
        what = f"no op of {file} computes in float"
        made.append(_promise(what, file, 0, report.float_ops, report.float_ops == 0))
    for each in kept:
        made += in_file(each, file, audited, resolved)
    return made


def _promise(what: str, stage: str, expected: Any, measured: Any, kept: bool) -> Promise:
    return Promise(what=what, stage=stage, expected=expected, measured=measured, kept=bool(kept))
