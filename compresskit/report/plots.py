"""The plots of the report as inline SVG: a function of numbers each, nothing global.

Colours are CSS variables of the page, so that a plot follows its light or dark scheme.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

# Stand-ins that matplotlib can parse, and the variables that take their place.
_INK, _MUTED, _LINE = "#010101", "#010102", "#010103"
_FIRST, _SECOND, _THIRD = "#010104", "#010105", "#010106"
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
    _THIRD: "var(--third)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "compresskit",
    "text.parse_math": False,  # names may hold a dollar sign
    "font.family": "sans-serif",
    "font.size": 11.5,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.labelsize": 11.0,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
}
_WIDTH = 430.0
_POINTS_PER_INCH = 72.0
_ENLARGED = 1.25  # on a wide screen; on a narrow one a plot shrinks to the column


@dataclass(frozen=True, kw_only=True)
class FileSize:
    """The sizes of one file in bytes; `weights` is None where it was not read."""

    name: str
    raw: int
    gzip: int
    weights: int | None


def metric_by_stage(
    names: Sequence[str], values: Sequence[float], undone: Sequence[bool]
) -> Markup:
    """A metric over the stages of a run; stages whose gate undid them are hollow."""
    with _figure(230.0) as (figure, axes):
        kept = [index for index, flag in enumerate(undone) if not flag]
        axes.plot(kept, [values[index] for index in kept], color=_FIRST, linewidth=1.8)
        for index, value in enumerate(values):
            face = "none" if undone[index] else _FIRST
            axes.plot(index, value, "o", markersize=6, color=_FIRST, markerfacecolor=face)
            axes.annotate(
                f"{value:.2%}",
                (index, value),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=11,
            )
        low, high = min(values), max(values)
        room = max(high - low, 0.01)
        axes.set_ylim(low - 0.25 * room, high + 0.4 * room)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_xticks(range(len(names)), [_shortened(name, 60 // len(names)) for name in names])
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        return _svg(figure, "metric")


def sparsity_by_layer(names: Sequence[str], values: Sequence[float], prefix: str) -> Markup:
    """The share of zeros in each layer, as horizontal bars in the layers' order."""
    with _figure(44.0 + 24.0 * len(names)) as (figure, axes):
        rows = range(len(names))
        axes.barh(rows, [1.0] * len(names), height=0.62, color=_LINE, alpha=0.45)
        axes.barh(rows, values, height=0.62, color=_FIRST)
        for row, value in zip(rows, values, strict=True):
            axes.text(1.03, row, f"{value:.1%}", va="center", fontsize=11)
        axes.set_yticks(rows, [_shortened(name, 26) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0.0, 1.2)
        axes.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0])
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0))
        for spine in axes.spines.values():
            spine.set_visible(False)
        return _svg(figure, prefix)


def sizes(files: Sequence[FileSize]) -> Markup:
    """Raw and gzipped bytes of each file, one bar under the other."""
    with _figure(52.0 + 46.0 * len(files)) as (figure, axes):
        for row, file in enumerate(files):
            weights = file.weights or 0
            if file.weights is None:
                axes.barh(row - 0.19, file.raw, height=0.34, color=_FIRST, alpha=0.55)
            else:
                axes.barh(row - 0.19, weights, height=0.34, color=_FIRST)
                axes.barh(row - 0.19, file.raw - weights, left=weights, height=0.34, color=_SECOND)
            axes.barh(row + 0.19, file.gzip, height=0.34, color=_THIRD)
            for offset, size in ((-0.19, file.raw), (0.19, file.gzip)):
                axes.annotate(
                    short_bytes(size),
                    (size, row + offset),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=10.5,
                )
        axes.set_yticks(range(len(files)), [_shortened(file.name, 26) for file in files])
        axes.set_ylim(len(files) - 0.5, -0.5)
        axes.set_xlim(0, 1.2 * max(max(file.raw, file.gzip) for file in files))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_bytes(value)))
        axes.grid(axis="x")
        axes.spines["bottom"].set_visible(False)
        return _svg(figure, "sizes")


def curves(history: Mapping[str, Sequence[float]], metric: str, prefix: str) -> Markup:
    """A metric over the epochs of a stage, in training and, dashed, in validation."""
    with _figure(200.0, width=330.0) as (figure, axes):
        for name, color, dashes in ((metric, _FIRST, "-"), (f"val_{metric}", _SECOND, "--")):
            values = history.get(name, ())
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, dashes, marker="o", markersize=3.5, color=color)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        return _svg(figure, prefix)


def short_bytes(size: float) -> str:
    """A size in bytes, kB or MB, of a thousand each."""
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


def _shortened(name: str, length: int) -> str:
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[:half]}…{name[-half:]}"


@contextmanager
def _figure(height: float, width: float = _WIDTH) -> Iterator[tuple[Figure, Axes]]:
    # The SVG backend reads its settings when it draws, and a user's own must not show.
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's browser has a font
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        size = (width / _POINTS_PER_INCH, height / _POINTS_PER_INCH)
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.add_subplot()


def _svg(figure: Figure, prefix: str) -> Markup:
    """The figure's SVG, with ids that are unique in a page and without its preamble."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # Its style element would hold for the whole page.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;]*; ", "", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    width, _ = figure.get_size_inches() * _POINTS_PER_INCH
    text = re.sub(
        r'<svg ([^>]*?)width="[^"]*"',
        rf'<svg \1style="max-width: {_ENLARGED * width:.0f}px"',
        text,
        count=1,
    )
    text = re.sub(r'(<svg [^>]*?)height="[^"]*" ?', r"\1", text, count=1)
    text = re.sub("<svg ", '<svg aria-hidden="true" ', text, count=1)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    return Markup(text)
