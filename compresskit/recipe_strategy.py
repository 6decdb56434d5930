"""On which devices a recipe trains."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, ValidationInfo, field_validator

from compresskit.recipe_fields import Record, Text, wrong

Kind = Literal["mirrored", "multi-worker", "tpu"]


class Strategy(Record):
    """How training is shared out over devices; see `tf.distribute`."""

    type: Kind = Field(
        description="mirrored: the devices of this machine; multi-worker: those of several, each "
        "with a process, which TF_CONFIG names; tpu: the cores of a TPU.",
        examples=["mirrored"],
    )
    devices: Annotated[tuple[Text, ...], Strict(False)] = Field(
        default=(),
        description="Devices of `mirrored`; default: every GPU, or the processor.",
        examples=[["GPU:0", "GPU:1"]],
    )
    tpu: Text | None = Field(
        default=None, description="Name or address of the TPU; default: the environment's."
    )

    @field_validator("devices")
    @classmethod
    def _check_devices(cls, devices: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if devices and info.data.get("type", "mirrored") != "mirrored":
            raise wrong(
                "no `devices`: only `mirrored` chooses them",
                "remove `devices`, or write `type: mirrored`",
                others=[("type",)],
            )
        if len(set(devices)) < len(devices):
            raise wrong("each device once", "remove what is there twice")
        return devices

    @field_validator("tpu")
    @classmethod
    def _check_tpu(cls, tpu: str | None, info: ValidationInfo) -> str | None:
        if tpu is not None and info.data.get("type", "tpu") != "tpu":
            raise wrong(
                "no `tpu` with another type", "write `type: tpu`, or remove it", others=[("type",)]
            )
        return tpu


def _of_type(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


# In the words of an error the short form comes first.
StrategyField = Annotated[
    Strategy | None, BeforeValidator(_of_type, json_schema_input_type=Kind | Strategy | None)
]
