"""Compiles a file with `edgetpu_compiler`, where that is on PATH, and reads its log.

The log is that of compiler 16 and of those before it, back to 2.1: a line for each figure, such
as "On-chip memory used for caching model parameters: 604.50KiB", then with `-s` a table of
ops: name, count and status.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from compresskit.target import Compiled
from compresskit.targets.tool import failed, run, stays
from compresskit.tflite.audit import Audit
from compresskit.tflite.audit import audit as read
from compresskit.tflite.macs import placement

TOOL = "edgetpu_compiler"
SUFFIX = "_edgetpu"
# What the compiler itself is given, in seconds; it ends on its own then.
_OWN_TIMEOUT = 180
_CUSTOM_OP = "edgetpu-custom-op"
_MAPPED = "Mapped to Edge TPU"
_VERSION = re.compile(r"^Edge TPU Compiler version (\S+)", re.MULTILINE)
_ROW = re.compile(r"^(?P<op>[A-Z][A-Z0-9_]*) +(?P<count>\d+) +(?P<status>\S.*?) *$", re.MULTILINE)
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def available() -> bool:
    """Whether the compiler is on PATH."""
    return shutil.which(TOOL) is not None


def compile_file(
    content: bytes, audit: Audit, *, name: str, options: Mapping[str, str]
) -> tuple[Compiled, bytes]:
    """Compiles a file with the compiler that is on PATH.

    Returns:
        What it says: memory on the chip that caches parameters, as SRAM, and memory off it that
        they are read from at every inference, as DRAM; it estimates no time. And the file that
        it wrote.

    Raises:
        ConversionError: it failed, crashed, or took too long, or its log is not as known.
    """
    path = f"{name.removesuffix('.tflite')}{SUFFIX}.tflite"
    with tempfile.TemporaryDirectory(prefix="compresskit-") as temporary:
        folder = Path(temporary)
        (folder / "model.tflite").write_bytes(content)
        command = [TOOL, "-s", "-t", str(_OWN_TIMEOUT), "-o", ".", "model.tflite"]
        said = run(command, tool=TOOL, where=name, folder=folder, timeout=2 * _OWN_TIMEOUT)
        try:
            made = (folder / f"model{SUFFIX}.tflite").read_bytes()
        except OSError as error:
            # It ends with status 0 for some files that it refuses.
            raise failed(TOOL, name, f"it wrote no file: {_end(said)}") from error
    version = _VERSION.search(said)
    rows = list(_ROW.finditer(said))
    if version is None or not rows:
        raise failed(TOOL, name, f"its log has no version or no table of ops: {_end(said)}")
    reasons = {(row["op"], ""): row["status"] for row in reversed(rows) if row["status"] != _MAPPED}
    left = stays(audit, read(made, path), _CUSTOM_OP, reasons)
    # The log counts ops and does not say which; where it counts more than the file has, the
    # last ones of that name are meant, for the mapping begins at the first.
    unmapped: Counter[str] = Counter()
    for row in rows:
        unmapped[row["op"]] += int(row["count"]) * (row["status"] != _MAPPED)
    for name_of_op, count in unmapped.items():
        same = [op.index for op in audit.ops if op.name == name_of_op]
        others = [index for index in reversed(same) if index not in left]
        for index in others[: max(0, count - (len(same) - len(others)))]:
            left[index] = reasons[name_of_op, ""]
    placed = placement(audit, left)
    return Compiled(
        npu_ops=placed.npu_ops,
        cpu_ops=placed.cpu_ops,
        multiply_adds=placed.multiply_adds,
        npu_multiply_adds=placed.npu_multiply_adds,
        tool=TOOL,
        version=version[1],
        options=dict(options),
        path=path,
        bytes=len(made),
        sram_bytes=_size(said, "On-chip memory used for caching model parameters"),
        dram_bytes=_size(said, "Off-chip memory used for streaming uncached model parameters"),
    ), made


def _size(said: str, what: str) -> int | None:
    """In bytes, to the hundredth of the unit that the log has."""
    found = re.search(rf"^{what}: ([\d.]+)(B|KiB|MiB|GiB)\s*$", said, re.MULTILINE)
    return round(float(found[1]) * _UNITS[found[2]]) if found else None


def _end(said: str) -> str:
    return " | ".join(said.split("\n")[-4:]).strip(" |") or "no word"
