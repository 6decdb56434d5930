"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

# TensorFlow's notes on this machine's processor are no news to who runs a recipe.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click

from compresskit import catalog
from compresskit.commands import files, measure
from compresskit.commands.sensitivity import sensitivity
from compresskit.commands.shared import (
    JSON,
    UNSAFE,
    echo_json,
    load_data,
    load_tensorflow,
    reported,
)
from compresskit.errors import Problem, RecipeError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="compresskit", message="%(package)s %(version)s")
def main() -> None:
    """Compresses Keras 3 models by recipe and proves what it cost."""


def _read_recipe(path: str, overrides: tuple[str, ...]) -> tuple[Any, Callable[..., str]]:
    """A recipe, and what tells where a key of it stands."""
    from compresskit import recipe_source
    from compresskit.recipe import Recipe
    from compresskit.recipe_overrides import override

    source = override(recipe_source.read_file(path), overrides)
    return Recipe.from_source(source), source.where


@main.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(file_okay=False), help="Folder; default runs/NAME.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on with the run that was interrupted.")
@click.option("--quiet", is_flag=True, help="No progress, and no summary.")
@JSON
@UNSAFE
@reported
def apply(
    recipe: str,
    out: str | None,
    overrides: tuple[str, ...],
    seed: int,
    resume: bool,
    quiet: bool,
    as_json: bool,
    unsafe_load: bool,
) -> None:
    """Runs RECIPE: trains, exports, measures, reports.

    A `builder:` in the recipe imports and runs your own code. Exit status: 0 done and
    every promise kept, 1 a promise broken or training failed, 2 the recipe is wrong.
    """
    from compresskit import tables

    read, locate = _read_recipe(recipe, overrides)
    load_tensorflow()
    from compresskit.engine import compress
    from compresskit.resuming import finished, interrupted
    from compresskit.tfmot.loading import with_engine

    base = Path(recipe).parent
    read = with_engine(read, None, base)  # by which a finished run is known, too
    folder = Path(out) if out else Path("runs", read.name)
    if resume and finished(folder, read, seed):
        click.echo(f"{folder}: the run is finished; there is nothing left to do", err=True)
        return
    if interrupted(folder) and not resume and not quiet:
        click.echo(
            f"{folder}: an interrupted run is there, and --resume goes on with it; this one begins "
            "anew, and takes its place after the first epoch",
            err=True,
        )
    result = compress(
        None,
        read,
        out=folder,
        seed=seed,
        resume=resume,
        quiet=quiet,
        safe_mode=not unsafe_load,
        locate=locate,
        base=base,
    )
    if as_json:
        echo_json(result.report.to_dict())
    elif not quiet:
        tables.summary(result.report, folder)
    if result.report.broken:
        tables.broken(result.report)
        sys.exit(1)


@main.command()
@click.argument("recipe")
@click.option("--no-import", is_flag=True, help="Load neither model nor data; run no user code.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@JSON
@UNSAFE
@reported
def plan(
    recipe: str, no_import: bool, overrides: tuple[str, ...], as_json: bool, unsafe_load: bool
) -> None:
    """Checks RECIPE and tells what it would do, without doing it.

    A `builder:` in the recipe imports and runs your own code, unless --no-import is given.
    """
    from compresskit import planning, tables

    read, locate = _read_recipe(recipe, overrides)
    if not no_import:
        load_tensorflow()
    made = planning.plan(
        read,
        imports=not no_import,
        locate=locate,
        base=Path(recipe).parent,
        safe_mode=not unsafe_load,
    )
    if as_json:
        echo_json(made.to_dict())
    else:
        tables.plan(made)


@main.command()
@click.argument("model")
@click.option("--target", required=True, help="A name of `compresskit list targets`.")
@click.option("--precision", help="Default: the target's own.")
@click.option("--data", help="Data set, .npz file or folder, to measure ranges on.")
@click.option("--samples", type=click.IntRange(min=1), default=128, show_default=True)
@click.option(
    "--compress",
    type=click.Choice(["none", "lut"]),
    default="none",
    show_default=True,
    help="lut: weights in look-up tables, for the target micro.",
)
@click.option(
    "--lstm",
    type=click.Choice(["fused", "unrolled", "while"]),
    default="fused",
    show_default=True,
    help="How an LSTM is written.",
)
@click.option("--c-array", is_flag=True, help="C source and header, too, for the target micro.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="For the target's own tool, for example accelerator=ethos-u55-256.",
)
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="File to write.")
@JSON
@UNSAFE
@reported
def export(
    model: str,
    target: str,
    precision: str | None,
    data: str | None,
    samples: int,
    compress: Literal["none", "lut"],
    lstm: Literal["fused", "unrolled", "while"],
    c_array: bool,
    options: tuple[str, ...],
    out: str,
    as_json: bool,
    unsafe_load: bool,
) -> None:
    """Exports MODEL, a .keras file, as it is to a .tflite file."""
    load_tensorflow()
    from compresskit import tables
    from compresskit.exporting import export as write
    from compresskit.models.load import load_model

    dataset = load_data(data) if data else None
    loaded = load_model(model, safe_mode=not unsafe_load, dataset=dataset)
    made = write(
        loaded,
        target=target,
        precision=precision,
        path=out,
        representative_data=dataset.representative(samples) if dataset else None,
        compress=compress,
        lstm=lstm,
        c_array=c_array,
        options=dict(_pair(option) for option in options),
    )
    if as_json:
        echo_json(made.to_dict())
    else:
        tables.file(made)


def _pair(option: str) -> tuple[str, str]:
    name, sign, value = option.partition("=")
    if not (name and sign and value):
        raise click.BadParameter(f"{option!r} is not NAME=VALUE", param_hint="--option")
    return name, value


for _command in (
    files.inspect,
    files.evaluate,
    files.pack,
    files.unpack,
    files.migrate,
    measure.bench,
    measure.compare,
    sensitivity,
):
    main.add_command(_command)


@main.command(name="list")
@click.argument("kind", type=click.Choice(["methods", "targets", "models", "datasets"]))
@JSON
@reported
def list_names(kind: str, as_json: bool) -> None:
    """Lists the names that a recipe may use."""
    from compresskit import tables

    registries = [getattr(catalog, kind)]
    if kind == "methods":
        registries += [catalog.criteria, catalog.unit_criteria]
    rows = [
        {"kind": registry.kind, "name": entry.name, "summary": entry.summary}
        for registry in registries
        for entry in registry.entries()
    ]
    if as_json:
        echo_json(rows)
    else:
        tables.names(rows)


@main.command()
def schema() -> None:
    """Prints the JSON Schema of recipes, for editors."""
    from compresskit.recipe import Recipe

    echo_json(Recipe.json_schema())


@main.command()
@click.argument("model")
@click.option("--out", type=click.Path(dir_okay=False), help="File to write; default: print.")
@UNSAFE
@reported
def init(model: str, out: str | None, unsafe_load: bool) -> None:
    """Writes a commented starter recipe for MODEL, a .keras file or a registered name."""
    load_tensorflow()
    from compresskit.files import write_file
    from compresskit.models.load import load_model
    from compresskit.starter import starter

    if out is not None and Path(out).exists():
        raise RecipeError(
            Problem(
                where=f"--out {out}",
                found="a file of that name",
                expected="a new file: a recipe that you may have edited is not replaced",
                fix="give another name, or remove the file",
            )
        )
    loaded = load_model(model, safe_mode=not unsafe_load)
    text = starter(loaded, model, file=out or "recipe.yaml")
    if out is None:
        click.echo(text, nl=False)
    else:
        write_file(Path(out), text.encode())
        click.echo(f"wrote {out}; next: compresskit plan {out}", err=True)
