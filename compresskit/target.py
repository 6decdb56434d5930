"""What a target is: a record of what a device can run. Nothing here computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from compresskit.installed import Package
    from compresskit.tflite.audit import Audit


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid on which an integer kernel holds its weights.

    Attributes:
        per_channel_dense: whether FULLY_CONNECTED has a scale for every output channel;
            if not, one for the whole tensor. Convolutions always have one per channel.
        activations: whether the kernels compute in integers, too; if not, training
            rounds weights alone.
    """

    per_channel_dense: bool = True
    activations: bool = True


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One way to store and compute.

    Attributes:
        weights: type of the weights in the file.
        activations: type that the kernels compute in.
        io: type of the file's inputs and outputs.
        grid: the integer grid, for precisions whose activations are integers.
    """

    weights: Literal["float32", "float16", "int8"]
    activations: Literal["float32", "int8"]
    io: Literal["float32", "int8"]
    grid: Grid = field(default_factory=Grid)

    @property
    def integer(self) -> bool:
        """Whether the whole file computes in integers, for which it needs data."""
        return self.activations == "int8"


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
class Target:
    """A device, or a family of them.

    Attributes:
        name: the word that recipes use.
        summary: one line for `compresskit list targets`.
        precisions: what it can run, by name.
        default: the precision that is taken when a recipe names none.
        check: given an audited file, what of it the target cannot run.
        claim: what a file without findings, or with warnings only, may be said to do,
            for example `passes the static rules of the Edge TPU`.
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
    runtime: Literal["litert", "tflite-micro"] = "litert"
    requires: Package | None = None
    worth: Mapping[str, str] = field(default_factory=dict)
