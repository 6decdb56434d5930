"""From the bytes that a converter wrote to the files of a target, and what it says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from compresskit.findings import findings
from compresskit.progress import Bars
from compresskit.resolution import Resolved
from compresskit.target import Compiled, Finding, Placement
from compresskit.tflite import c_array
from compresskit.tflite.audit import Audit, audit
from compresskit.tflite.luts import with_luts
from compresskit.tflite.micro import arena_bytes
from compresskit.tflite.runtime import Runner
from compresskit.tflite.scales import check_scales


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Product:
    """A file for a target, and what lies beside it.

    Attributes:
        plain: the file before its weights became look-up tables; else the file itself.
        content: the file.
        audited: what is in it.
        runner: what runs it.
        beside: by their names, the file that the target's own tool made of it and the C sources.
        sources: the names of the C sources.
        compiled: what the tool says.
        findings, claim: what the target does not run, and what may be claimed.
        placement: what runs where, of a target that knows it by rules.
        arena: bytes of memory that TensorFlow Lite Micro needs, if they were measured.
    """

    plain: bytes
    content: bytes
    audited: Audit
    runner: Runner
    beside: dict[str, bytes]
    sources: tuple[str, ...]
    compiled: Compiled | None
    findings: tuple[Finding, ...]
    claim: str
    placement: Placement | None
    arena: int | None


def produce(
    content: bytes,
    resolved: Resolved,
    *,
    compress: Literal["none", "lut"],
    with_arena: bool,
    with_sources: bool,
    where: str,
    output: str | None = None,
    bars: Bars,
) -> Product:
    """Checks, packs, loads and compiles what a converter wrote. Nothing is on disk yet.

    Args:
        compress: `lut` stores weights with few values as look-up tables.
        with_arena: measure the memory it needs, of a target whose runtime is TensorFlow Lite
            Micro, which takes several processes.
        with_sources: make C sources of it, which have that memory in them.
        where: the file, for errors.
        output: the name in the signature of the output that is read; default: the first.

    Raises:
        ConversionError: the file breaks a rule of scales, or the target's tool failed.
        ModelError: the target's runtime cannot load it, or is not installed.
    """
    target = resolved.target
    plain = content
    check_scales(audit(plain, where), where)
    if compress == "lut":
        content = with_luts(plain, where)
    audited = audit(content, where)
    # What a target claims of a file holds of one that its runtime loads.
    runner = Runner(content, where=where, runtime=target.runtime, output=output)
    beside: dict[str, bytes] = {}
    compiled = None
    if target.compiler is not None:
        with bars.task(f"compiling {resolved.file}", None):
            compiled, made = target.compiler(
                content, audited, name=resolved.file, options=resolved.options
            )
        beside[compiled.path] = made
    found, claim = findings(audited, target, resolved.precision, compiled)
    arena, sources = None, {}
    if target.runtime == "tflite-micro" and (with_arena or with_sources):
        arena = arena_bytes(content, where)
        if with_sources:
            sources = c_array.sources(content, audited, resolved.file, arena)
    beside.update({name: text.encode("ascii") for name, text in sources.items()})
    return Product(
        plain=plain,
        content=content,
        audited=audited,
        runner=runner,
        beside=beside,
        sources=tuple(sources),
        compiled=compiled,
        findings=tuple(found),
        claim=claim,
        placement=target.place(audited) if target.place and compiled is None else None,
        arena=arena,
    )
