"""The command that measures what each layer costs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import click

from compresskit.commands.shared import (
    JSON,
    UNSAFE,
    data_spec,
    echo_json,
    load_data,
    load_tensorflow,
    reported,
)
from compresskit.errors import Problem, RecipeError


def _amounts(context: Any, parameter: Any, text: str) -> tuple[float, ...]:
    try:
        found = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 0.25,0.5") from None
    if not all(0 < amount < 1 for amount in found):
        raise click.BadParameter(f"{text!r}: each is a share between 0 and 1")
    return found


@click.command()
@click.argument("model")
@click.option("--data", required=True, help="Data set, .npz file, folder, or module:function.")
@click.option(
    "--method", type=click.Choice(["prune", "shrink"]), default="prune", show_default=True
)
@click.option("--criterion", help="What goes first; default magnitude, or l2 of units.")
@click.option(
    "--amounts", default="0.25,0.5,0.75,0.9", show_default=True, callback=_amounts,
    help="Shares of a layer.",
)  # fmt: skip
@click.option("--metric", default="accuracy", show_default=True)
@click.option("--samples", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option(
    "--drop", type=click.FloatRange(min=0), default=0.05, show_default=True,
    help="Of the metric, to spend before training makes up for it.",
)  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the plot and a recipe.")
@JSON
@UNSAFE
@reported
def sensitivity(
    model: str,
    data: str,
    method: Literal["prune", "shrink"],
    criterion: str | None,
    amounts: tuple[float, ...],
    metric: str,
    samples: int,
    drop: float,
    out: str | None,
    as_json: bool,
    unsafe_load: bool,
) -> None:
    """Measures what each layer of MODEL, a .keras file, costs, one at a time.

    Training samples are measured, so that the test set stays unseen. With --out: the plot
    `sensitivity.svg`, the figures `sensitivity.json`, and `recipe.yaml`, which takes most where
    it costs least. A data set given as module:function imports and runs your own code.
    """
    load_tensorflow()
    import json

    from compresskit import tables
    from compresskit.files import write_file
    from compresskit.models.load import load_model
    from compresskit.progress import Bars
    from compresskit.report.sensitivity_plot import lines
    from compresskit.sensitivity import recipe, spend
    from compresskit.sensitivity import sensitivity as measure

    dataset = load_data(data)
    loaded = load_model(model, safe_mode=not unsafe_load, dataset=dataset)
    made = measure(
        loaded,
        dataset,
        method=method,
        criterion=criterion,
        amounts=amounts,
        metric=metric,
        samples=samples,
        bars=Bars(quiet=as_json),
    )
    chosen = spend(made, drop)
    if as_json:
        echo_json({**made.to_dict(), "chosen": chosen})
    else:
        tables.sensitivity(made, chosen)
    if out is None:
        return
    if not chosen:
        raise RecipeError(
            Problem(
                where="--drop",
                found=f"{drop:g}: every layer costs more at {amounts[0]:g}",
                expected="a drop that one layer at least fits in",
                fix="allow a larger --drop, or give smaller --amounts",
            )
        )
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub("[^A-Za-z0-9._-]", "-", Path(model).stem).lstrip("._-")[:80] or "model"
    written = recipe(
        made, chosen, name=f"{name}-{method}", model=_found_from(model), data=data_spec(data)
    )
    values = {layer.path: layer.values for layer in made.layers}
    write_file(folder / "sensitivity.svg", lines(amounts, values, made.whole, metric=metric))
    text = json.dumps({**made.to_dict(), "chosen": chosen}, indent=2)
    write_file(folder / "sensitivity.json", text.encode())
    write_file(folder / "recipe.yaml", written.dump().encode())
    click.echo(f"wrote {folder}; next: compresskit plan {folder / 'recipe.yaml'}", err=True)


def _found_from(model: str) -> str:
    """The model as the recipe, in a folder of its own, finds it."""
    return str(Path(model).resolve()) if Path(model).exists() else model
