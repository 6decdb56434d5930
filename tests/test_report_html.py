"""The page of a report: what it says, that it stands alone, and that it can be trusted."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from compresskit.report.html import render
from compresskit.report.records import (
    ArtifactReport,
    Baseline,
    FindingReport,
    LayerReport,
    Parity,
    Promise,
    Report,
    StageReport,
    TensorReport,
)

BASELINE = Baseline(
    metrics={"accuracy": 0.9139},
    parameters=431_080,
    tflite_bytes=1_700_000,
    tflite_gzip_bytes=1_600_000,
    latency_ms=0.4,
)
STAGE = StageReport(
    name="sparsify",
    type="prune",
    metrics={"accuracy": 0.9098},
    sparsity=0.9,
    seconds=74.2,
    layers=(
        LayerReport(path="lenet/conv/kernel", shape=(5, 5, 1, 20), sparsity=0.9, distinct=51),
        LayerReport(
            path="lenet/logits/kernel",
            shape=(500, 10),
            sparsity=0.0,
            distinct=4_987,
            skipped="the recipe ignores it",
        ),
    ),
    history={"loss": [0.5, 0.3], "val_loss": [0.6, 0.4], "accuracy": [0.8, 0.9]},
)
ARTIFACT = ArtifactReport(
    target="edge-tpu",
    precision="int8",
    path="lenet-edge-tpu-int8.tflite",
    bytes=425_000,
    gzip_bytes=85_000,
    weight_bytes=420_000,
    metrics={"accuracy": 0.9113},
    parity=Parity(samples=2_000, agreement=0.9985, max_abs_error=0.03, mean_abs_error=0.00002),
    ops={"CONV_2D": 2, "SOFTMAX": 1},
    float_ops=0,
    requantize_ops=7,
    latency_ms=0.2,
    sparsity=0.898,
    tensors=(
        TensorReport(
            name="lenet/conv;fused",
            dtype="INT8",
            shape=(20, 5, 5, 1),
            sparsity=0.898,
            distinct=49,
            bytes=500,
        ),
    ),
    claim="passes the static rules of the Edge TPU (not compiled)",
    findings=(),
)
KEPT = Promise(what="sparsity", stage="sparsify", expected=0.9, measured=0.9023, kept=True)
BROKEN = Promise(
    what="every op is mapped", stage="edge-tpu int8", expected="all", measured="3 of 5", kept=False
)
REPORT = Report(
    recipe="lenet-prune",
    engine="native",
    seed=7,
    model="lenet",
    data="fashion-mnist",
    metric="accuracy",
    versions={"keras": "3.15.1"},
    baseline=BASELINE,
    stages=(STAGE,),
    artifacts=(ARTIFACT,),
    promises=(KEPT,),
    seconds=247.0,
)
VOID = {"meta", "wbr", "br", "path", "use", "rect", "line"}


class Page(HTMLParser):
    """Collects the text of each table row and the ids, and sees that elements are closed."""

    def __init__(self, text: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if "table" in self._open and "tr" in self._open:
            self.rows[-1][-1] += data


def row(page: Page, start: str) -> list[str]:
    return next(cells for cells in page.rows if cells[0].startswith(start))


@pytest.fixture(scope="module")
def text() -> str:
    return render(REPORT)


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_page_is_well_formed_and_ids_are_unique(text, page):
    assert text.lstrip().startswith("<!DOCTYPE html>")
    assert len(page.ids) == len(set(page.ids))
    assert "svg" in page.tags


def test_page_stands_alone(text, page):
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", text)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_references_inside_plots_are_to_ids_of_the_page(text, page):
    used = set(re.findall(r"url\(#([^)]*)\)", text)) | set(re.findall(r'href="#([^"]*)"', text))
    assert used
    assert used <= set(page.ids)


def test_same_report_gives_the_same_bytes(text):
    assert render(REPORT) == text


def test_plots_follow_the_scheme_of_the_page(text):
    assert "var(--first)" in text
    assert "#0101" not in text


def test_users_own_plot_settings_do_not_show(text):
    import matplotlib

    with matplotlib.rc_context({"font.size": 30.0, "svg.hashsalt": "other"}):
        assert render(REPORT) == text
        assert matplotlib.rcParams["font.size"] == 30.0


def test_differences_are_in_points_and_ratios_say_of_what(page):
    assert row(page, "difference") == ["differencepercentage points", "–", "−0.26"]  # noqa: RUF001
    raw = ["smaller, rawfloat32 raw ÷ this file raw", "1.00×", "4.00×"]  # noqa: RUF001
    assert row(page, "smaller, raw") == raw
    zipped = ["smaller, gzippedfloat32 raw ÷ this file gzipped", "1.06×", "20.00×"]  # noqa: RUF001
    assert row(page, "smaller, gzipped") == zipped
    assert row(page, "faster")[1:] == ["1.00×", "2.00×"]  # noqa: RUF001
    assert row(page, "parity")[-1] == "99.85%"
    assert row(page, "mean error")[-1] == "0.00002"


def test_tables_name_layers_ops_and_tensors(page):
    assert row(page, "lenet/conv/kernel")[1:] == ["5×5×1×20", "90.0%", "51"]  # noqa: RUF001
    assert row(page, "lenet/logits/kernel")[0].endswith("left as it was: the recipe ignores it")
    assert row(page, "CONV_2D")[1] == "2"
    assert row(page, "QUANTIZE and DEQUANTIZE")[1] == "7"
    assert row(page, "lenet/conv;fused")[1] == "int8"
    assert row(page, "edge-tpu int8") == ["edge-tpu int8", "420,000", "5,000", "425,000", "85,000"]


def test_every_promise_kept_is_the_headline(text):
    assert "<strong>Every promise kept</strong> (1 of 1)" in text


def test_broken_promises_are_the_headline():
    text = render(replace(REPORT, promises=(KEPT, BROKEN)))
    assert "1 of 2 promises broken" in text
    assert "every op is mapped: expected all, measured 3 of 5" in text
    assert "Every promise kept" not in text


def test_claim_stands_with_warnings_and_falls_with_findings(text):
    assert ARTIFACT.claim in text
    warning = FindingReport(index=3, op="ADD", reason="is slow", confirmed=True, warning=True)
    with_warning = render(replace(REPORT, artifacts=(replace(ARTIFACT, findings=(warning,)),)))
    assert ARTIFACT.claim in with_warning
    assert "is slow" in with_warning
    finding = FindingReport(index=4, op="SPLIT", reason="splits the batch", confirmed=False)
    failing = render(replace(REPORT, artifacts=(replace(ARTIFACT, findings=(finding,)),)))
    assert ARTIFACT.claim not in failing
    assert "(unconfirmed rule)" in failing
    assert "edge-tpu may not run all of this file" in failing
    assert "(unconfirmed rule)" not in with_warning


def test_names_are_escaped_in_text_and_in_plots():
    evil = "<script>alert(1)</script>"
    layer = replace(STAGE.layers[0], path=evil)
    text = render(
        replace(
            REPORT,
            recipe=evil,
            model=evil,
            data=evil,
            versions={evil: evil},
            stages=(
                replace(STAGE, name=evil, layers=(layer,), history={evil: [1.0], "val_a": [1.0]}),
            ),
            artifacts=(
                replace(ARTIFACT, target=evil, tensors=(replace(ARTIFACT.tensors[0], name=evil),)),
            ),
            promises=(replace(BROKEN, what=evil, stage=evil, measured=evil),),
        )
    )
    assert "script" not in Page(text).tags
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_names_that_plots_could_misread():
    names = ["a$b$", "日本語", "x" * 200, "\\frac{1}{2}"]
    layers = tuple(replace(STAGE.layers[0], path=name) for name in names)
    text = render(replace(REPORT, stages=(replace(STAGE, layers=layers),)))
    assert re.search(r"<text[^>]*>a\$b\$</text>", text)
    assert "日本語</text>" in text


def test_memory_of_a_microcontroller_is_shown_where_it_was_measured():
    micro = replace(ARTIFACT, target="micro", flash_bytes=438_216, arena_bytes=25_344)
    text = render(replace(REPORT, artifacts=(ARTIFACT, micro)))
    assert "25,344" in text
    assert "438,216" in text
    assert "least bytes of memory for tensors" in text
    assert "least bytes of memory for tensors" not in render(REPORT)


def test_who_taught_and_how_large_the_student_is():
    taught = replace(STAGE, type="distill", teacher="<baseline>", parameters=12345)
    html = render(replace(REPORT, stages=(taught,)))
    assert "distill, taught by &lt;baseline&gt; (12,345 parameters)" in html
    assert "taught by" not in render(REPORT)


def test_rolled_back_stage_is_marked():
    undone = replace(STAGE, name="harder", rolled_back=True)
    text = render(replace(REPORT, stages=(STAGE, undone)))
    assert "rolled back</span>" in text
    opened = re.findall(r"<details open>\s*<summary>After (\w+)", text)
    assert opened == ["sparsify"]


def test_report_of_almost_nothing():
    text = render(replace(REPORT, stages=(), artifacts=(), promises=()))
    Page(text)
    assert "No promises" in text
    assert "Training curves" not in text


def test_stage_without_layers_metrics_or_history():
    bare = replace(STAGE, layers=(), metrics={}, history={}, sparsity=0.0)
    text = render(replace(REPORT, stages=(bare,)))
    Page(text)
    assert "No stage touched a weight." in text
