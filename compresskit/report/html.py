"""The report as one HTML page: no script, nothing loaded from elsewhere.

The same report gives the same bytes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import jinja2
from markupsafe import Markup

from compresskit.report import plots
from compresskit.report.records import ArtifactReport, Report, StageReport

_TEMPLATE = "report.html.j2"
_NONE = "–"  # noqa: RUF001


def render(report: Report) -> str:
    """The text of `report.html`.

    Example:
        >>> Path("report.html").write_text(render(report), encoding="utf-8")  # doctest: +SKIP
    """
    return _template().render(
        report=report,
        metrics=_metrics(report),
        metric_plot=_metric_plot(report),
        size_plot=_size_plot(report),
        layer_views=[_layer_view(index, stage) for index, stage in enumerate(report.stages)],
        last_kept=_last_kept(report),
        curve_views=[
            (stage, tuple(_curves(index, stage))) for index, stage in enumerate(report.stages)
        ],
        artifact_names=[artifact_name(artifact) for artifact in report.artifacts],
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        percent=_percent,
        points=_points,
        number=_number,
        short_bytes=plots.short_bytes,
        times=_times,
        duration=_duration,
        milliseconds=_milliseconds,
        shape=_shape,
        breakable=_breakable,
    )
    source = resources.files("compresskit.report").joinpath(_TEMPLATE).read_text("utf-8")
    return environment.from_string(source)


def artifact_name(artifact: ArtifactReport) -> str:
    """What the page calls a file: its target and precision."""
    return f"{artifact.target} {artifact.precision}"


@dataclass(frozen=True, kw_only=True)
class LayerView:
    """The layers of a stage; `plot` is None where none of them has zeros."""

    stage: StageReport
    plot: Markup | None


@dataclass(frozen=True, kw_only=True)
class CurveView:
    """One metric in the epochs of a stage."""

    metric: str
    validated: bool
    plot: Markup


def _metrics(report: Report) -> list[str]:
    """The metric that counts, then all others that were measured of the baseline."""
    others = sorted(set(report.baseline.metrics) - {report.metric})
    return [report.metric, *others]


def _metric_plot(report: Report) -> Markup | None:
    measured = [stage for stage in report.stages if report.metric in stage.metrics]
    if report.metric not in report.baseline.metrics or not measured:
        return None
    values = [report.baseline.metrics[report.metric]]
    values += [stage.metrics[report.metric] for stage in measured]
    return plots.metric_by_stage(
        ["baseline", *(stage.name for stage in measured)],
        values,
        [False, *(stage.rolled_back for stage in measured)],
    )


def _size_plot(report: Report) -> Markup:
    baseline = plots.FileSize(
        name="baseline float32",
        raw=report.baseline.tflite_bytes,
        gzip=report.baseline.tflite_gzip_bytes,
        weights=None,
    )
    files = [
        plots.FileSize(
            name=artifact_name(artifact),
            raw=artifact.bytes,
            gzip=artifact.gzip_bytes,
            weights=artifact.weight_bytes,
        )
        for artifact in report.artifacts
    ]
    return plots.sizes([baseline, *files])


def _layer_view(index: int, stage: StageReport) -> LayerView:
    layers = [layer for layer in stage.layers if layer.skipped is None or layer.sparsity > 0]
    plot = None
    if any(layer.sparsity > 0 for layer in layers):
        plot = plots.sparsity_by_layer(
            [layer.path for layer in layers],
            [layer.sparsity for layer in layers],
            f"layers{index}",
        )
    return LayerView(stage=stage, plot=plot)


def _last_kept(report: Report) -> StageReport | None:
    kept = [stage for stage in report.stages if stage.layers and not stage.rolled_back]
    return kept[-1] if kept else None


def _curves(index: int, stage: StageReport) -> Iterator[CurveView]:
    names = {name.removeprefix("val_") for name, values in stage.history.items() if values}
    for number, name in enumerate(sorted(names)):
        yield CurveView(
            metric=name,
            validated=bool(stage.history.get(f"val_{name}")),
            plot=plots.curves(stage.history, name, f"curve{index}-{number}"),
        )


def _percent(value: float | None, digits: int = 2) -> str:
    return _NONE if value is None else f"{100 * value:.{digits}f}%"


def _points(difference: float) -> str:
    text = f"{100 * difference:+.2f}"
    return "±0.00" if float(text) == 0 else text.replace("-", "−")  # noqa: RUF001


def _number(value: float | str) -> str:
    """A number to four digits with its thousands apart; words as they are."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.4g}"
        if "e" in text and abs(value) >= 1e-6:
            text = f"{value:.7f}".rstrip("0")
    return text.replace("-", "−", 1) if value < 0 else text  # noqa: RUF001


def _times(value: float, by: float) -> str:
    return f"{value / by:.2f}×" if by else _NONE  # noqa: RUF001


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms" if value < 100 else f"{value:,.0f} ms"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) if shape else "scalar"  # noqa: RUF001


def _breakable(path: str) -> Markup:
    """A path that may be broken after each part."""
    parts = re.split(r"(?<=[/;])", path)
    return Markup("<wbr>").join(part for part in parts if part)
