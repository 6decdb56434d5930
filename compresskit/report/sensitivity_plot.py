"""The plot of a sensitivity: a line for each layer, an SVG file of its own."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

_WIDTH, _HEIGHT, _ROW = 8.0, 4.0, 0.22  # inches


def lines(
    amounts: Sequence[float], values: Mapping[str, Sequence[float]], whole: float, *, metric: str
) -> bytes:
    """The metric over how much of each layer goes.

    Args:
        amounts: shares, rising.
        values: the metric at each amount, by layer.
        whole: the metric of the model as it is, at 0.
    """
    with matplotlib.rc_context({"svg.hashsalt": "compresskit", "text.parse_math": False}):
        figure = Figure(figsize=(_WIDTH, max(_HEIGHT, _ROW * len(values) + 1)), layout="tight")
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["viridis"]
        for index, (name, line) in enumerate(values.items()):
            axes.plot(
                [0.0, *amounts],
                [whole, *line],
                marker="o",
                markersize=3,
                color=colours(index / max(1, len(values) - 1)),
                label=name,
            )
        axes.set_xlabel("share of the layer that goes")
        axes.set_ylabel(metric)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="x-small", frameon=False)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
