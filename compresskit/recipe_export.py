"""The settings of an export: one file for one target."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from compresskit import catalog
from compresskit.recipe_fields import Count, Drop, Record, Share, Slug, Text, known
from compresskit.recipe_rounding import CALIBRATION, ROUNDING, Calibration, Rounding


class Parity(Record):
    """How far the file's outputs must agree with the model's."""

    min_agreement: Share = Field(default=0.99, description="Least share of equal predictions.")
    samples: Count = Field(default=256, description="Samples to compare.")


class ExportGate(Record):
    """How much quality an export may cost."""

    max_drop: Drop = Field(
        description="Largest loss of the metric against the baseline.", examples=[0.01]
    )


class Export(Record):
    """One file for one target."""

    target: Annotated[Text, AfterValidator(known(catalog.targets))] = Field(
        description="The target.", examples=["edge-cpu"]
    )
    precision: Text | None = Field(
        default=None, description="Default: the target's.", examples=["int8"]
    )
    name: Slug | None = Field(
        default=None, description="Stem of the file. Default: target and precision."
    )
    parity: Parity = Field(default=Parity(), description="Agreement with the model.")
    gate: ExportGate | None = Field(
        default=None, description="How much quality it may cost.", examples=[{"max_drop": 0.01}]
    )
    lstm: Literal["fused", "unrolled", "while"] = Field(
        default="fused",
        description="How an LSTM is written: one fused op, which keeps its state until it is "
        "reset; step by step; or as Keras does, in a loop (not in integers).",
    )
    calibration: Calibration = Field(default=CALIBRATION, description="Where ranges come from.")
    weights: Rounding = Field(
        default=ROUNDING, description="How int4 or dynamic rounds weights that are not on a grid."
    )
    compress: Literal["none", "lut"] = Field(
        default="none",
        description="lut: weights with few values are stored as indices into look-up tables, "
        "which TensorFlow Lite Micro decodes while it runs.",
    )
    c_array: bool = Field(
        default=False,
        description="Write C source and header beside the file, for firmware; for target micro.",
    )
    metadata: bool | None = Field(
        default=None,
        description="Append recipe, versions, metrics and labels to the file, for `inspect`. "
        "Default: yes, but not for micro, whose flash they would fill.",
    )
    options: dict[str, Text] = Field(
        default={},
        description="What the target's own tool is told of the device.",
        examples=[{"accelerator": "ethos-u55-256"}],
    )
