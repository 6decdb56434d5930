"""Commands on one file: look into it, measure it, pack it."""

from __future__ import annotations

from pathlib import Path

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
@click.argument("file")
@JSON
@UNSAFE
@reported
def inspect(file: str, as_json: bool, unsafe_load: bool) -> None:
    """Tells what FILE, a .tflite or .keras file, holds."""
    if not file.endswith(".tflite"):
        load_tensorflow()
    from compresskit import tables
    from compresskit.inspection import inspect as look

    made = look(file, safe_mode=not unsafe_load)
    if as_json:
        echo_json(made.to_dict())
    else:
        tables.file(made)


@click.command()
@click.argument("file")
@click.option("--data", required=True, help="Data set, .npz file, folder, or module:function.")
@click.option("--metric", default="accuracy", show_default=True)
@click.option("--output", help="Which of several outputs, by the name of its labels.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@JSON
@UNSAFE
@reported
def evaluate(
    file: str,
    data: str,
    metric: str,
    output: str | None,
    threads: int,
    as_json: bool,
    unsafe_load: bool,
) -> None:
    """Measures FILE, a .tflite or .keras file, on the test samples of a data set.

    A data set given as module:function imports and runs your own code.
    """
    if not file.endswith(".tflite"):
        load_tensorflow()
    from compresskit import tables
    from compresskit.evaluation import evaluate as measure

    made = measure(
        file,
        load_data(data),
        metric=metric,
        output=output,
        threads=threads,
        safe_mode=not unsafe_load,
    )
    if as_json:
        echo_json(made)
    else:
        tables.pairs(file, made)


@click.command()
@click.argument("file")
@click.option("--out", type=click.Path(dir_okay=False), help="Default: FILE.ckpack.")
@reported
def pack(file: str, out: str | None) -> None:
    """Writes FILE, a .tflite file, to a smaller container for download, lossless."""
    from compresskit.files import write_file
    from compresskit.inspection import read_file
    from compresskit.packing import entropy_bytes
    from compresskit.packing import pack as make
    from compresskit.tflite.audit import audit

    content = read_file(file)
    packed = make(content, where=file)
    path = Path(out or f"{file}.ckpack")
    write_file(path, packed)
    click.echo(
        f"wrote {path}: {len(packed):,} bytes of {len(content):,}; the entropy of the weights "
        f"alone is {entropy_bytes(audit(content)):,}",
        err=True,
    )


@click.command()
@click.argument("file")
@click.option("--out", type=click.Path(dir_okay=False), help="Default: FILE without .ckpack.")
@reported
def unpack(file: str, out: str | None) -> None:
    """Writes the .tflite file that is in FILE, a container, byte for byte."""
    from compresskit.files import write_file
    from compresskit.inspection import read_file
    from compresskit.packing import unpack as restore

    name = file.removesuffix(".ckpack")
    path = Path(out or (name if name != file else f"{file}.tflite"))
    write_file(path, restore(read_file(file), where=file))
    click.echo(f"wrote {path}", err=True)


@click.command()
@click.argument("old")
@click.argument("out")
@JSON
@reported
def migrate(old: str, out: str, as_json: bool) -> None:
    """Writes OLD, a model of Keras 2, as OUT, a .keras file of Keras 3 that answers alike.

    OLD is an .h5 file, a .keras file of tf_keras, or a SavedModel folder. TFMOT's wrappers of
    pruning and clustering are stripped. Loading it runs in a process of its own.
    """
    load_tensorflow()
    from compresskit import tables
    from compresskit.migration import migrate as write

    made = write(old, out)
    if as_json:
        echo_json(made.to_dict())
    else:
        tables.pairs(out, made.to_dict())
