"""What `bench` and `compare` print for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from compresskit.tables import people, show_table

if TYPE_CHECKING:  # of the same layer
    from compresskit.benchmarking import Bench
    from compresskit.comparison import Comparison


def bench(made: Bench) -> None:
    """What files take, beside the first."""
    console = people()
    rows = [
        (
            each.path,
            f"{each.bytes:,}",
            f"{each.latency_ms:.4f}",
            f"{each.p10_ms:.4f} to {each.p90_ms:.4f}",
            f"{each.ratio:.3f}",
            f"{each.ratio_p10:.3f} to {each.ratio_p90:.3f}",
            "" if each.peak_memory_bytes is None else f"{each.peak_memory_bytes:,}",
            each.runtime,
        )
        for each in made.files
    ]
    title = (
        f"{made.runs} calls of each file, in turn; {made.threads} thread"
        f"{'s' if made.threads > 1 else ''}; inputs: {made.data}"
    )
    columns = ("file", "bytes", "median ms", "p10 to p90", "to first", "p10 to p90")
    show_table(console, title, (*columns, "peak memory", "runtime"), rows)
    for each in made.files:
        if each.ops:
            whole = sum(op.ms for op in each.ops)
            show_table(
                console,
                f"{each.path}: each op alone, as a file of its own; {whole:.4f} ms together, "
                f"{each.latency_ms:.4f} ms in one file",
                ("index", "op", "output", "ms", "share"),
                [(o.index, o.op, o.output, f"{o.ms:.4f}", f"{o.share:.1%}") for o in each.ops],
            )


def comparison(made: Comparison, show: int) -> None:
    """Two models side by side.

    Args:
        show: most rows of each table of differences.
    """
    console = people()
    sides = (made.a, made.b)
    rows: list[tuple[Any, ...]] = [
        (key, *(_cell(getattr(side, key)) for side in sides))
        for key in ("kind", "bytes", "gzip_bytes", "packed_bytes", "parameters", "sparsity")
    ]
    rows += [
        (f"weights in {each}", *(_cell(side.dtypes.get(each)) for side in sides))
        for each in sorted({*made.a.dtypes, *made.b.dtypes})
    ]
    rows += [
        (each, *(_cell(side.ops.get(each)) for side in sides))
        for each in sorted({*made.a.ops, *made.b.ops})
    ]
    rows += [(each, *(_cell(side.metrics[each]) for side in sides)) for each in made.a.metrics]
    show_table(console, "", ("", made.a.path, made.b.path), rows)
    if made.answers is not None:
        given = made.answers
        title = (
            f"{given.data}: {given.samples:,} samples, agreement {given.agreement:.4f}; outputs "
            f"differ by {given.mean_abs_error:.2g} on average, {given.max_abs_error:.2g} at most; "
            f"{_shown(len(given.changed), show)} answered differently"
        )
        changed = [(each.index, each.label, each.a, each.b) for each in given.changed[:show]]
        show_table(console, title, ("sample", "label", "answer of A", "of B"), changed)
    columns = ("A", "B", "shape", "relative error", "SQNR dB", "")
    for kind, found in (("weights", made.weights), ("activations", made.activations)):
        worst = sorted(found, key=lambda each: -_error(each))[:show]
        differences = [
            (
                f"{each.a} ({each.dtypes[0]})",
                f"{each.b} ({each.dtypes[1]})",
                each.shape,
                "" if each.relative_error is None else f"{each.relative_error:.4f}",
                "" if each.sqnr_db is None else f"{each.sqnr_db:.1f}",
                "but for a factor of each channel" if each.scaled else "",
            )
            for each in worst
        ]
        if differences:
            title = f"{kind}, the worst first: {_shown(len(found), show)} compared"
            show_table(console, title, columns, differences)
    for side, left in zip(sides, (made.only_a, made.only_b), strict=True):
        if left:
            names = ", ".join(left[:show])
            console.print(escape(f"without a counterpart in {side.path}: {names}"), soft_wrap=True)


def _error(each: Any) -> float:
    return float("inf") if each.relative_error is None else each.relative_error


def _shown(count: int, show: int) -> str:
    return f"{count:,}" if count <= show else f"{show:,} of {count:,}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
