"""Compiles a file for an Arm Ethos-U with Vela, Arm's own compiler, and reads what it says.

Its command line runs in a process of its own: on some files it ends in a signal. A file of
which nothing runs on the NPU it takes with status 0, so what stays on the CPU is read from
the file that it writes.
"""

from __future__ import annotations

import csv
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from compresskit.errors import ModelError
from compresskit.installed import VELA, missing
from compresskit.target import Compiled
from compresskit.targets.tool import failed, run, stays
from compresskit.tflite.audit import Audit
from compresskit.tflite.audit import audit as read
from compresskit.tflite.macs import placement

TOOL = "ethos-u-vela"
SUFFIX = "_vela"
_NPU_OP = "ethos-u"
_KIB = 1024
# "Warning (supported operators) operator: GATHER, ofm: 'name'", then "Reason: ..." on lines.
_FALLBACK = re.compile(
    r"^Warning \(\w+ operators\) operator: (?P<op>\w+), ofm: '(?P<output>.*)'\n"
    r"Reason: (?P<reason>.+(?:\n.+)*)",
    re.MULTILINE,
)


def compile_file(
    content: bytes, audit: Audit, *, name: str, options: Mapping[str, str]
) -> tuple[Compiled, bytes]:
    """Compiles a file with Vela.

    Args:
        options: `accelerator`, `system_config` and `memory_mode`, the last two as in the
            file Arm/vela.ini that comes with Vela.

    Returns:
        What Vela estimates for one inference, and the file for the device. The memory and the
        weights are those of the NPU's part: what the CPU keeps, such as the table of a
        GATHER, comes on top.

    Raises:
        ModelError: Vela is not installed.
        ConversionError: it failed, crashed, or took too long.
    """
    problem = missing(VELA, where=name)
    if problem is not None:
        raise ModelError(problem)
    path = f"{name.removesuffix('.tflite')}{SUFFIX}.tflite"
    with tempfile.TemporaryDirectory(prefix="compresskit-") as temporary:
        folder = Path(temporary)
        # Nothing in a name of the user's can be taken for an option.
        (folder / "model.tflite").write_bytes(content)
        command = [
            *(sys.executable, "-m", "ethosu.vela", "model.tflite", "--output-dir", "out"),
            *("--accelerator-config", options["accelerator"]),
            *("--config", "Arm/vela.ini", "--system-config", options["system_config"]),
            *("--memory-mode", options["memory_mode"], "--verbose-performance"),
        ]
        said = run(command, tool=TOOL, where=name, folder=folder)
        try:
            made = (folder / "out" / "model_vela.tflite").read_bytes()
            summary = _last_row(next((folder / "out").glob("model_summary_*.csv")))
            layers = _rows(folder / "out" / "model_per-layer.csv")
            figures = _figures(summary)
            cycles = _op_cycles(layers)
        except (OSError, StopIteration, LookupError, ValueError) as error:
            words = f"it ended well, but left no result that can be read ({error!r})"
            raise failed(TOOL, name, words) from error
    left = stays(audit, read(made, path), _NPU_OP, _reasons(said))
    placed = placement(audit, left)
    record = Compiled(
        npu_ops=placed.npu_ops,
        cpu_ops=placed.cpu_ops,
        multiply_adds=placed.multiply_adds,
        npu_multiply_adds=placed.npu_multiply_adds,
        tool=TOOL,
        version=metadata.version(TOOL),
        options=dict(options),
        path=path,
        bytes=len(made),
        op_cycles=cycles,
        **figures,
    )
    return record, made


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _last_row(path: Path) -> dict[str, str]:
    return _rows(path)[-1]


def _figures(summary: Mapping[str, str]) -> dict[str, Any]:
    """What the summary holds, in bytes, cycles and milliseconds.

    Of a file of which nothing runs on the NPU Vela says zero everywhere; here that is None.
    """
    figures: dict[str, Any] = {
        "cycles": int(summary["cycles_total"]),
        "npu_cycles": int(summary["cycles_npu"]),
        "latency_ms": float(summary["inference_time"]) * 1000.0,
        "sram_bytes": round(float(summary["sram_memory_used"]) * _KIB),
        "flash_bytes": round(
            (
                float(summary["on_chip_flash_memory_used"])
                + float(summary["off_chip_flash_memory_used"])
            )
            * _KIB
        ),
        "dram_bytes": round(float(summary["dram_memory_used"]) * _KIB),
        "weight_bytes": int(summary["total_original_weights"]),
        "encoded_weight_bytes": int(summary["total_npu_encoded_weights"]),
    }
    return figures if figures["cycles"] else dict.fromkeys(figures)


def _op_cycles(layers: list[dict[str, str]]) -> dict[str, int]:
    """By the op of the file that Vela made the steps of: those that take most first."""
    cycles: Counter[str] = Counter()
    for layer in layers:
        cycles[layer["Original Operator"]] += int(float(layer["Op Cycles"]))
    return {op: count for op, count in cycles.most_common() if count}


def _reasons(said: str) -> dict[tuple[str, str], str]:
    """Why ops stay on the CPU, by op and output; any op of that output comes second.

    Vela splits a fused activation off: then the op's output has another name.
    """
    found: dict[tuple[str, str], str] = {}
    for match in _FALLBACK.finditer(said):
        reason = "; ".join(line.strip() for line in match["reason"].splitlines())
        found[match["op"], match["output"].removesuffix("_act")] = reason
        found.setdefault(("", match["output"].removesuffix("_act")), reason)
    return found
