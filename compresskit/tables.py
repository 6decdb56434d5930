"""What the commands print for people, as tables on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compresskit.inspection import EndReport, FileReport
from compresskit.planning import Plan
from compresskit.report.records import Report
from compresskit.target import Compiled, Placement

if TYPE_CHECKING:  # it loads TensorFlow
    from compresskit.sensitivity import Sensitivity

_WIDTH_IN_A_PIPE = 140


def people(*, stderr: bool = False) -> Console:
    """Where people read."""
    console = Console(stderr=stderr, highlight=False)
    # In a pipe there is no window to fit: cut-off names would be of no use there.
    return (
        console
        if console.is_terminal
        else Console(stderr=stderr, highlight=False, width=_WIDTH_IN_A_PIPE)
    )


def show_table(
    console: Console, title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]
) -> None:
    """A title, and a table of rows if there are any."""
    table = Table()
    for column in columns:
        # A name that is cut off is of no use.
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    if title:
        # Not that of the table, which would break it to the width of the columns.
        console.print(escape(title), soft_wrap=True)
    if table.row_count:
        console.print(table)


def names(rows: Iterable[Mapping[str, str]]) -> None:
    """The entries of a registry."""
    cells = [(row["kind"], row["name"], row["summary"]) for row in rows]
    show_table(people(), "", ("kind", "name", "what it is"), cells)


def pairs(title: str, figures: Mapping[str, Any]) -> None:
    """Names and figures."""
    rows = [(key, f"{v:.4f}" if isinstance(v, float) else v) for key, v in figures.items()]
    show_table(people(), title, ("figure", "value"), rows)


def file(report: FileReport) -> None:
    """What a file holds."""
    console = people()
    gzip = "" if report.gzip_bytes is None else f", {report.gzip_bytes:,} as gzip"
    ends = [(*_end(end), "input") for end in report.inputs]
    ends += [(*_end(end), "output") for end in report.outputs]
    console.print(
        f"{escape(report.name)}: {report.bytes:,} bytes{gzip}; {report.parameters:,} parameters; "
        f"{report.sparsity:.1%} of the weights are zero; {report.float_ops} ops in float"
    )
    columns = ("name", "type", "shape", "scale", "zero point", "")
    show_table(console, "inputs and outputs", columns, ends)
    weights = [
        (w.name, w.dtype, w.shape, f"{w.sparsity:.1%}", w.distinct, f"{w.bytes:,}")
        for w in report.weights
    ]
    columns = ("weight", "type", "shape", "zeros", "distinct", "bytes")
    show_table(console, "weights", columns, weights)
    show_table(console, "ops", ("op", "count"), report.ops.items())
    if report.findings:
        found = [
            (each.index, each.op, each.reason + ("" if each.confirmed else " (unconfirmed)"))
            for each in report.findings
        ]
        show_table(console, "what the target says", ("index", "op", ""), found)
    if report.compiled:
        _compiled(console, [(report.compiled, None)])
    elif report.placement:
        console.print(f"by the rules of the target, {_placed(report.placement)}")
    if report.claim:
        console.print(escape(report.claim))
    if report.metadata:
        show_table(console, "what the file says of itself", ("", ""), _facts(report))


def _end(end: EndReport) -> tuple[Any, ...]:
    grid = ("", "") if end.scale is None else (f"{end.scale:.4g}", end.zero_point)
    return end.signature or end.name, end.dtype, end.shape, *grid


def _facts(report: FileReport) -> list[tuple[str, Any]]:
    """Facts by name, those that are several in one line."""
    facts = {**report.metadata, "labels": ", ".join(report.labels)}
    rows = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {each}" for key, each in value.items())
        rows.append((name, value))
    rows.append(("resolved recipe", "inside: `inspect --json`, or unzip" if report.recipe else ""))
    return [row for row in rows if row[1] not in ("", None)]


def _placed(placement: Placement) -> str:
    """What runs on the accelerator, in words, and where it ends."""
    ops = placement.npu_ops + len(placement.cpu_ops)
    text = f"{placement.npu_ops} of {ops} ops run on the accelerator"
    if placement.multiply_adds:
        share = placement.npu_multiply_adds / placement.multiply_adds
        text += f", with {share:.1%} of {placement.multiply_adds:,} multiply-adds"
    if placement.cpu_ops:
        first = placement.cpu_ops[0]
        text += f"; the first that does not: op {first.index} {first.op}: {escape(first.reason)}"
    return text


def _compiled(console: Console, made: Iterable[tuple[Compiled, Compiled | None]]) -> None:
    """What the devices' own tools said, each beside what they said of the baseline."""

    def figure(now: float | None, before: float | None, form: str = ",") -> str:
        ratio = f" ({now / before:.2f}x)" if now is not None and before else ""
        return "" if now is None else f"{now:{form}}{ratio}"

    rows = []
    for now, base in made:
        rows.append(
            (
                now.path,
                f"{now.npu_ops} of {now.npu_ops + len(now.cpu_ops)}",
                figure(now.cycles, base.cycles if base else None),
                figure(now.latency_ms, None, ".3f"),
                figure(now.encoded_weight_bytes, base.encoded_weight_bytes if base else None),
                figure(now.sram_bytes, None),
                figure(now.flash_bytes, None),
                figure(now.dram_bytes, None),
            )
        )
    if rows:
        columns = (
            *("compiled", "ops on the accelerator", "cycles", "ms, estimated"),
            *("encoded weights", "SRAM", "flash", "DRAM"),
        )
        show_table(console, "what the devices' own compilers say", columns, rows)


def sensitivity(made: Sensitivity, chosen: Mapping[str, float]) -> None:
    """What each layer costs, and how much of it to take."""
    title = (
        f"{made.metric} {made.whole:.4f} of {made.samples:,} training samples; the change when so "
        f"much of one layer goes ({made.method}), without training"
    )
    rows = [
        (
            layer.path,
            *(f"{value - made.whole:+.4f}" for value in layer.values),
            f"{chosen[layer.path]:.0%}" if layer.path in chosen else "leave it",
        )
        for layer in made.layers
    ]
    shares = [f"{amount:.0%}" for amount in made.amounts]
    show_table(people(), title, ("layer", *shares, "take"), rows)


def plan(made: Plan) -> None:
    """What a recipe would do."""
    console = people()
    console.print(f"{escape(made.recipe)}: {escape(made.model)} on {escape(made.data)}")
    if not made.imported:
        console.print("model and data were not loaded: weights are not listed")
    for stage in made.stages:
        length = f"{stage.epochs} epochs" + (f", {stage.steps:,} steps" if stage.steps else "")
        weights = [(path, "taken") for path in stage.touched]
        weights += [(path, f"left: {reason}") for path, reason in stage.skipped.items()]
        show_table(console, f"{stage.name} ({stage.type}, {length})", ("weight", ""), weights)
        if stage.teacher:
            size = f" ({stage.parameters:,} parameters)" if stage.parameters else ""
            learner = stage.student or "the model as it is"
            console.print(f"  teacher: {escape(stage.teacher)}; student: {escape(learner)}{size}")
        for target, worth in stage.worth.items():
            console.print(f"  worth on {target}: {escape(worth)}")
    rows = [(e.target, e.precision, e.file, "; ".join(e.notes)) for e in made.exports]
    show_table(console, "exports", ("target", "precision", "file", "notes"), rows)


def summary(report: Report, folder: Path) -> None:
    """Before and after, and where the files are."""
    console = people()
    base = report.baseline
    rows = [
        (
            "float32 baseline",
            f"{base.metrics[report.metric]:.4f}",
            "",
            f"{base.tflite_bytes:,}",
            f"{base.tflite_gzip_bytes:,}",
            "",
            "",
            "",
            "",
            f"{base.latency_ms:.3f}",
        )
    ]
    rows += [
        (
            made.path,
            f"{made.metrics[report.metric]:.4f}",
            f"{made.sparsity:.1%}",
            f"{made.bytes:,}",
            f"{made.gzip_bytes:,}",
            f"{base.tflite_bytes / made.gzip_bytes:.1f}x",
            "" if made.packed_bytes is None else f"{made.packed_bytes:,}",
            "" if made.packed_bytes is None else f"{base.tflite_bytes / made.packed_bytes:.1f}x",
            f"{made.parity.agreement:.4f}",
            f"{made.latency_ms:.3f}",
        )
        for made in report.artifacts
    ]
    columns = (
        "file",
        report.metric,
        "zeros",
        "bytes",
        "gzip",
        "float32 / gzip",
        "packed",
        "float32 / packed",
        "agreement",
        "ms",
    )
    show_table(console, f"{report.recipe} (seed {report.seed})", columns, rows)
    for made in report.artifacts:
        if made.arena_bytes is not None:
            console.print(
                f"{escape(made.path)}: {made.flash_bytes:,} bytes of flash, an arena of "
                f"{made.arena_bytes:,} bytes"
            )
    compiled = [made for made in report.artifacts if made.compiled]
    _compiled(
        console,
        [(made.compiled, base.compiled.get(made.path)) for made in compiled if made.compiled],
    )
    if any(made.path in base.compiled for made in compiled):
        console.print(
            "in brackets: of the baseline, rounded to the same precision without training"
        )
    for made in report.artifacts:
        if made.placement:
            console.print(f"{made.path}: by the rules of the target, {_placed(made.placement)}")
    kept = len(report.promises) - len(report.broken)
    console.print(f"{kept} of {len(report.promises)} promises kept; see {folder / 'report.html'}")


def broken(report: Report) -> None:
    """Promises that were not kept, on standard error."""
    console = people(stderr=True)
    rows = [(p.stage, p.what, p.expected, p.measured) for p in report.broken]
    columns = ("answerable", "promise", "expected", "measured")
    show_table(console, "broken promises", columns, rows)
