"""Commands that put files side by side."""

from __future__ import annotations

import click

from compresskit.commands.shared import (
    JSON,
    UNSAFE,
    echo_json,
    load_data,
    load_tensorflow,
    reported,
)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--data", help="Data set, .npz file, folder, or module:function; else made-up inputs."
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--runs", type=click.IntRange(min=1), default=100, show_default=True,
    help="Timed calls of each file.",
)  # fmt: skip
@click.option("--profile", is_flag=True, help="Time each op, too, as a file of its own.")
@JSON
@reported
def bench(
    files: tuple[str, ...],
    data: str | None,
    threads: int,
    runs: int,
    profile: bool,
    as_json: bool,
) -> None:
    """Times each FILE, a .tflite file, on this machine, and compares with the first.

    Files are called in turn, one sample a call, after a warm-up. A data set given as
    module:function imports and runs your own code.
    """
    from compresskit import tables_side_by_side as tables
    from compresskit.benchmarking import bench as measure

    made = measure(
        files,
        data=load_data(data) if data else None,
        threads=threads,
        runs=runs,
        profile=profile,
    )
    if as_json:
        echo_json(made.to_dict())
    else:
        tables.bench(made)


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--data", help="Data set, .npz file, folder, or module:function, to answer.")
@click.option("--metric", default="accuracy", show_default=True)
@click.option("--output", help="Which of several outputs, by the name of its labels.")
@click.option(
    "--show", type=click.IntRange(min=0), default=10, show_default=True,
    help="Most rows of a table; with --json all are given.",
)  # fmt: skip
@JSON
@UNSAFE
@reported
def compare(
    a: str,
    b: str,
    data: str | None,
    metric: str,
    output: str | None,
    show: int,
    as_json: bool,
    unsafe_load: bool,
) -> None:
    """Compares A and B, .tflite or .keras files: size, weights and, with --data, answers.

    Errors are those of B, relative to A. A data set given as module:function imports and runs your
    own code.
    """
    if not (a.endswith(".tflite") and b.endswith(".tflite")):
        load_tensorflow()
    from compresskit import tables_side_by_side as tables
    from compresskit.comparison import compare as make

    made = make(
        a,
        b,
        data=load_data(data) if data else None,
        metric=metric,
        output=output,
        safe_mode=not unsafe_load,
    )
    if as_json:
        echo_json(made.to_dict())
    else:
        tables.comparison(made, show)
