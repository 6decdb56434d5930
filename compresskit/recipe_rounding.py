"""How an export rounds what training has not set: ranges of activations, and weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from compresskit.recipe_fields import Count, Record, wrong


class Calibration(Record):
    """What the ranges of activations are measured on, where training did not set them."""

    samples: Count = Field(default=128, description="Training samples to run.")
    estimator: Literal["min-max", "moving-average", "percentile", "mse"] = Field(
        default="min-max",
        description="min-max: the lowest and highest value; moving-average: those of a sample, "
        "averaged over the samples; percentile: all but the outermost values; mse: the range "
        "that rounds with the least squared error.",
    )
    percentile: Annotated[float, Field(gt=50, le=100)] = Field(
        default=99.99, description="Of the values, how many a range reaches over, for percentile."
    )


class Rounding(Record):
    """How 4-bit weights, and the 8-bit ones of `dynamic`, are rounded."""

    algorithm: Literal["min-max", "mse", "octav", "gptq"] = Field(
        default="min-max",
        description="min-max: a scale reaches the largest weight; mse and octav clip for the "
        "least squared error; gptq rounds dense layers for the least error of their answers.",
    )
    granularity: Literal["channel", "block"] = Field(
        default="channel",
        description="What shares a scale: an output channel, or a block of a dense layer's inputs.",
    )
    block: Literal[32, 64, 128, 256] = Field(
        default=32, description="Weights in a block, for `granularity: block`."
    )

    @field_validator("granularity")
    @classmethod
    def _check_granularity(cls, granularity: str, info: ValidationInfo) -> str:
        if granularity == "block" and info.data.get("algorithm") == "mse":
            raise wrong(
                "channel with mse, which knows no blocks",
                "write `algorithm: octav`, or leave `granularity` out",
                others=[("algorithm",)],
            )
        return granularity


# What happens where nothing is said.
CALIBRATION = Calibration()
ROUNDING = Rounding()
