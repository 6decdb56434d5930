"""Times within a stage: `3ep`, `100st`, `75%`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from pydantic_core import PydanticCustomError, core_schema

_PATTERN = r"^([0-9]{1,9}(\.[0-9]{1,6})?(ep|%)|[0-9]{1,9}st)$"
_EXPECTED = "a number with a unit: `3ep` (epochs), `100st` (whole steps) or `75%` (at most 100%)"


@dataclass(frozen=True)
class Duration:
    """A time of a stage, counted from the stage's first step.

    ```python
    Duration("75%").steps(steps_per_epoch=100, epochs=4)  # 300
    ```

    Attributes:
        text: the time as it is written in a recipe, for example `3ep`, `0.5ep`, `100st`, `75%`.

    Raises:
        ValueError: the text is not a number with a unit, or is more than 100%.
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not re.fullmatch(_PATTERN[1:-1], self.text):
            raise ValueError(f"{self.text!r} is not {_EXPECTED}")
        if self.unit == "%" and self.amount > 100:
            raise ValueError(f"{self.text} is more than the whole stage: at most 100%")

    @property
    def unit(self) -> str:
        """`ep` for epochs, `st` for steps, `%` for a share of the stage."""
        return "%" if self.text.endswith("%") else self.text[-2:]

    @property
    def amount(self) -> Decimal:
        """The number before the unit."""
        return Decimal(self.text.removesuffix(self.unit))

    def steps(self, steps_per_epoch: int, epochs: int) -> int:
        """The number of steps, rounded to the nearest; a half is rounded up."""
        scale = {
            "st": Decimal(1),
            "ep": Decimal(steps_per_epoch),
            "%": Decimal(steps_per_epoch * epochs) / 100,
        }[self.unit]
        return int((self.amount * scale).to_integral_value(ROUND_HALF_UP))

    def __str__(self) -> str:
        return self.text

    @classmethod
    def _validate(cls, value: Any) -> Duration:
        if isinstance(value, Duration):
            return value
        try:
            return cls(value)
        except ValueError:
            context = {"expected": _EXPECTED}
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                context["fix"] = f"write `{value}ep` for epochs, or `{value}st` for steps"
            raise PydanticCustomError("duration", "not a duration", context) from None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """A string in YAML and JSON, a `Duration` in Python."""
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema(when_used="always")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """The pattern of the text, for editors."""
        return {"type": "string", "pattern": _PATTERN, "examples": ["3ep", "100st", "75%"]}
