"""What a target has to say of a file."""

from __future__ import annotations

from compresskit.target import Compiled, Finding, Precision, Target
from compresskit.tflite.audit import Audit


def findings(
    audited: Audit, target: Target, precision: Precision, compiled: Compiled | None = None
) -> tuple[list[Finding], str]:
    """What of a file the target does not run, and what may be claimed of it, if anything.

    Args:
        compiled: what the target's own tool said of the file, if it compiled it.
    """
    if compiled is not None:
        found, claim = _left_to_cpu(compiled), compiled.claim
    else:
        found, claim = list(target.check(audited) if target.check else ()), target.claim
    if precision.integer:
        found += _left_in_float(audited)
    return found, claim if all(each.warning for each in found) else ""


def _left_to_cpu(compiled: Compiled) -> list[Finding]:
    """The CPU runs them beside the accelerator; if that has nothing to do, the target failed."""
    return [
        Finding(
            index=left.index,
            op=left.op,
            reason=f"stays on the CPU: {left.reason}",
            warning=compiled.npu_ops > 0,
        )
        for left in compiled.cpu_ops
    ]


def _left_in_float(audited: Audit) -> list[Finding]:
    """The ops of an integer file that compute in float, each with its place."""
    return [
        Finding(
            index=op.index,
            op=op.name,
            reason=f"computes {audited.tensors[op.outputs[0]].name!r} in float: the converter has "
            "no integer form of it, and casts before and behind it",
            warning=True,
        )
        for op in audited.computed_in_float()
        if op not in audited.requantized()
    ]
