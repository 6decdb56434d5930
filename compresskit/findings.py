"""What a target has to say of a file."""

from __future__ import annotations

from compresskit.target import Finding, Precision, Target
from compresskit.tflite.audit import Audit


def findings(audited: Audit, target: Target, precision: Precision) -> tuple[list[Finding], str]:
    """What of a file the target does not run, and what may be claimed of it, if anything."""
    found = list(target.check(audited) if target.check else ())
    if precision.integer:
        found += _left_in_float(audited)
    return found, target.claim if all(each.warning for each in found) else ""


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
