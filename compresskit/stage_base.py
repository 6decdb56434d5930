"""What the stages of a recipe have in common."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo

from compresskit.duration import Duration
from compresskit.recipe_distill import Learning
from compresskit.recipe_fields import (
    Count,
    Drop,
    LearningRateSchedule,
    Positive,
    Record,
    Slug,
    Text,
    Texts,
    wrong,
)


def moment(text: str, description: str) -> Any:
    # Pydantic writes the default of a dataclass into the schema as a mapping of its fields.
    extra: dict[str, Any] = {"default": text}
    return Field(default=Duration(text), description=description, json_schema_extra=extra)


class Gate(Record):
    """How much quality a stage may cost."""

    max_drop: Drop = Field(
        description="Largest loss of the metric against the baseline.", examples=[0.01]
    )
    on_fail: Literal["stop", "rollback"] = Field(
        default="stop", description="End the run, or go on with the model from before the stage."
    )


class EarlyStopping(Record):
    """When a stage has learned enough.

    A schedule always comes to its end: only the epochs after it count.
    """

    monitor: Literal["loss", "accuracy"] = Field(
        default="loss", description="Figure of the training samples; no others are looked at."
    )
    patience: Count = Field(default=1, description="Epochs without improvement that end it.")
    min_delta: Drop = Field(default=0.0, description="Smallest change that is an improvement.")


class StageBase(Record):
    """What every stage has. A stage is a record of one `type`, the settings of one method."""

    model_config = ConfigDict(
        json_schema_extra=lambda schema: schema.setdefault("required", []).insert(0, "type")
    )

    type: str
    name: Slug = Field(
        default_factory=lambda data: data["type"],
        description="Unique in the recipe. Default: the type, numbered from the second on.",
        examples=["sparsify"],
    )
    gate: Gate | None = Field(
        default=None, description="How much quality it may cost.", examples=[{"max_drop": 0.01}]
    )


class TrainingStage(StageBase):
    """A stage that trains."""

    epochs: Count = Field(default=1, description="Passes over the training data.")
    optimizer: Text | None = Field(
        default=None, description="Instead of the defaults'.", examples=["adam"]
    )
    learning_rate: Positive | None = Field(
        default=None, description="Instead of the defaults'.", examples=[1e-4]
    )
    learning_rate_schedule: LearningRateSchedule | None = Field(
        default=None, description="Instead of the defaults'.", examples=["cosine"]
    )
    batch_size: Count | None = Field(
        default=None, description="Instead of the defaults'.", examples=[128]
    )
    early_stopping: EarlyStopping | None = Field(
        default=None,
        description="End the stage before its `epochs`. Default: never.",
        examples=[{"monitor": "loss", "patience": 2}],
    )


class Selecting(StageBase):
    """A stage that acts on chosen weights."""

    targets: Texts = Field(
        default=(),
        description="Patterns of what to compress; empty: all that can be.",
        examples=[["type:Dense", "re:conv.*"]],
    )
    ignore: Texts = Field(
        default=(), description="Patterns of what to leave alone.", examples=[["logits"]]
    )


class Compression(Selecting, TrainingStage):
    """A stage that acts on chosen weights while the model trains."""

    distill: Learning | None = Field(
        default=None,
        description="Learn from a teacher as well as from the labels.",
        examples=[{"teacher": "baseline", "temperature": 4}],
    )

    @property
    def learning(self) -> Learning | None:
        """Who teaches in this stage, if anyone does."""
        return self.distill


def check_end(end: Duration, info: ValidationInfo) -> Duration:
    """A validator of `end`: it is after `begin`."""
    begin = info.data.get("begin", Duration("0ep"))
    if not end.amount or (begin.unit == end.unit and begin.amount >= end.amount):
        found, fix = f"begin {begin}, end {end}", "begin earlier or end later"
        raise wrong("an end after the begin", fix, found=found, others=[("begin",)])
    return end


def check_frequency(frequency: Duration) -> Duration:
    """A validator of `frequency`: some time passes between two updates."""
    if not frequency.amount:
        raise wrong("a time greater than zero", "for example `frequency: 100st`")
    return frequency
