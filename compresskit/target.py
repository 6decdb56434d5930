"""What a target is: a record of what a device can run. Nothing here computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from compresskit.installed import Package
    from compresskit.tflite.audit import Audit


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid on which an integer kernel holds its weights.

    Attributes:
        per_channel_dense: whether FULLY_CONNECTED has a scale for every output channel;
            if not, one for the whole tensor. Convolutions always have one per channel.
        bits: of the integers that hold the kernels of convolutions and dense layers;
            depthwise and transposed kernels, tables and fused recurrent ones have 8.
        activations: whether the kernels compute in 8-bit integers, too; if not, training
            rounds weights alone.
    """

    per_channel_dense: bool = True
    bits: Literal[4, 8] = 8
    activations: bool = True


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One way to store and compute.

    Attributes:
        weights: type of the weights in the file.
        activations: type that the kernels compute in.
        io: type of the file's inputs and outputs.
        grid: the integer grid of the weights.
    """

    weights: Literal["float32", "float16", "int8", "int4"]
    activations: Literal["float32", "int8", "int16"]
    io: Literal["float32", "int8", "int16"]
    grid: Grid = field(default_factory=Grid)

    @property
    def integer(self) -> bool:
        """Whether the whole file computes in integers, for which it needs data."""
        return self.activations in ("int8", "int16")

    @property
    def packed(self) -> bool:
        """Whether the weights are integers, so that a lossless packer makes them smaller."""
        return self.weights in ("int8", "int4")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a target has to say of one op of a file.

    Attributes:
        index: position of the op in the graph.
        op: its name, for example `CONV_2D`.
        reason: why it does not run there.
        confirmed: whether the rule was read in a source, or only recalled.
        warning: whether the file runs there all the same; the claim stands.
    """

    index: int
    op: str
    reason: str
    confirmed: bool = True
    warning: bool = False


@dataclass(frozen=True, kw_only=True)
class CpuOp:
    """An op that the accelerator leaves to the CPU.

    Attributes:
        index: position of the op in the graph of the file that was exported.
        op: its name, for example `GATHER`.
        reason: why it stays, in the words of the rule or of the device's tool.
        multiply_adds: of the op, for one sample.
    """

    index: int
    op: str
    reason: str
    multiply_adds: int = 0


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which ops of a file the accelerator runs, and how much of the work that is.

    Attributes:
        npu_ops: how many ops of the file run on the accelerator.
        cpu_ops: the others, in graph order: the first is where to begin.
        multiply_adds: of the whole file, for one sample.
        npu_multiply_adds: of the ops on the accelerator.
    """

    npu_ops: int
    cpu_ops: tuple[CpuOp, ...]
    multiply_adds: int
    npu_multiply_adds: int


@dataclass(frozen=True, kw_only=True)
class Compiled(Placement):
    """What the device's own tool made of a file, and says of it.

    What a tool does not tell is None.

    Attributes:
        tool, version: which compiler it was.
        options: what it was told about the device.
        path: name of the file that it wrote.
        bytes: size of that file.
        cycles: of one inference, as the tool estimates.
        npu_cycles: in which the accelerator computes; the rest is waiting for memory.
        op_cycles: by op, those that take most first.
        latency_ms: of one inference, as the tool estimates, without the ops on the CPU.
        sram_bytes, flash_bytes, dram_bytes: memory that the accelerator's part needs there.
        weight_bytes: of the weights that the accelerator reads, as exported.
        encoded_weight_bytes: of the same weights, as the accelerator stores them.
    """

    tool: str
    version: str
    options: dict[str, str]
    path: str
    bytes: int
    cycles: int | None = None
    npu_cycles: int | None = None
    op_cycles: dict[str, int] = field(default_factory=dict)
    latency_ms: float | None = None
    sram_bytes: int | None = None
    flash_bytes: int | None = None
    dram_bytes: int | None = None
    weight_bytes: int | None = None
    encoded_weight_bytes: int | None = None

    @property
    def claim(self) -> str:
        """What may be said of a file that went through the tool."""
        ops = self.npu_ops + len(self.cpu_ops)
        on = ", ".join(self.options.values())
        return (
            f"compiled by {self.tool} {self.version}{f' for {on}' if on else ''}: "
            f"{self.npu_ops} of {ops} ops run on the accelerator"
        )


class Compile(Protocol):
    """What runs the device's own tool."""

    def __call__(
        self, content: bytes, audit: Audit, *, name: str, options: Mapping[str, str]
    ) -> tuple[Compiled, bytes]:
        """Compiles a file.

        Args:
            content: the bytes of the file.
            audit: what is in them.
            name: of the file, with its ending.
            options: a value for each name in `Target.options`.

        Returns:
            What the tool says, and the file that it wrote.

        Raises:
            ConversionError: the tool failed, crashed, or took too long.
        """


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device, or a family of them.

    Attributes:
        name: the word that recipes use.
        summary: one line for `compresskit list targets`.
        precisions: what it can run, by name.
        default: the precision that is taken when a recipe names none.
        check: given an audited file, what of it the target cannot run.
        claim: what a file without findings, or with warnings only, may be said to do,
            for example `passes the static rules of the Edge TPU`. What a tool compiled
            claims that instead.
        place: given an audited file, which ops run on the accelerator, by rules alone.
        compile: runs the device's own tool. Then its word counts, and not that of `check`
            and `place`.
        available: whether that tool is there, for targets that can do without it.
        suffix: what follows the stem in the name of the file that it writes.
        options: what a recipe may tell it, each with its values, the default first.
        runtime: what runs the files here, to measure them.
        requires: a package without which nothing can be exported to this target.
        worth: what a kind of stage brings on this target, by `prune`, `prune:n:m`,
            `prune:block`, `qat`, in a sentence for `compresskit plan`.
    """

    name: str
    summary: str
    precisions: Mapping[str, Precision]
    default: str
    check: Callable[[Audit], Sequence[Finding]] | None = None
    claim: str = ""
    place: Callable[[Audit], Placement] | None = None
    compile: Compile | None = None
    available: Callable[[], bool] = lambda: True
    suffix: str = ""
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    runtime: Literal["litert", "tflite-micro"] = "litert"
    requires: Package | None = None
    worth: Mapping[str, str] = field(default_factory=dict)

    @property
    def compiler(self) -> Compile | None:
        """What compiles files for it, if that is there."""
        return self.compile if self.compile is not None and self.available() else None

    def compiled_name(self, file: str) -> str | None:
        """What the tool makes of the name of a file, or None if there is no tool."""
        return f"{file.removesuffix('.tflite')}{self.suffix}.tflite" if self.compiler else None
