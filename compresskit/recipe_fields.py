"""What a recipe's records are made of: types of fields, and references to models and data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Strict, Tag
from pydantic_core import PydanticCustomError

from compresskit.errors import nearest
from compresskit.registry import Registry


def wrong(expected: str, fix: str, **context: Any) -> PydanticCustomError:
    """An error whose words `recipe_problems.explain` takes over.

    Other words that it knows: `found`; `missing`, if a key is not there; `others`, the paths,
    from the same record, of further keys that the error is about.
    """
    return PydanticCustomError("recipe", expected, {"expected": expected, "fix": fix, **context})


def _matching(pattern: str, expected: str, fix: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise wrong(expected, fix)
        return text

    return check


def known(registry: Registry) -> Callable[[str], str]:
    """A validator of names: those of a registry."""

    def check(name: str) -> str:
        if name not in registry:
            problem = registry.unknown(name)
            raise wrong(problem.expected, problem.fix, found=problem.found)
        return name

    return check


def _plain(args: dict[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(args, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        expected = "texts, finite numbers, booleans, lists and mappings"
        raise wrong(expected, "make other values in the builder itself") from None


_SLUG = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_BUILDER = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Strict(False)]
Slug = Annotated[
    str,
    AfterValidator(
        _matching(
            _SLUG,
            "letters, digits, `.`, `_` and `-`, a letter or a digit first, at most 100",
            "for example `lenet5-2of4`: it becomes the name of a file or folder",
        )
    ),
    Field(json_schema_extra={"pattern": f"^{_SLUG}$"}),
]
Count = Annotated[int, Field(ge=1)]
LearningRateSchedule = Literal["constant", "cosine"]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Drop = Annotated[float, Field(ge=0)]


class Record(BaseModel):
    """A part of a recipe: frozen, without unknown keys, without silent conversions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
    )


class Builder(Record):
    """A function of your own that makes a model or a data set."""

    builder: Annotated[
        str,
        AfterValidator(
            _matching(
                _BUILDER, "`package.module:function`", "for example `my_pkg.models:small_cnn`"
            )
        ),
    ] = Field(
        description="The function, as package.module:function.",
        examples=["my_pkg.models:small_cnn"],
        json_schema_extra={"pattern": f"^{_BUILDER}$"},
    )
    args: Annotated[dict[str, Any], AfterValidator(_plain)] = Field(
        default={}, description="Its keyword arguments.", examples=[{"classes": 10}]
    )


class NpzData(Record):
    """Arrays in a .npz file."""

    npz: Text = Field(description="Path of the file.", examples=["data.npz"])


class DirectoryData(Record):
    """Pictures in a folder, one folder a class."""

    directory: Text = Field(description="Path of the folder.", examples=["pictures"])
    image_size: Annotated[tuple[Count, Count], Strict(False)] | None = Field(
        default=None, description="Height and width to resize to.", examples=[[32, 32]]
    )
    grayscale: bool = Field(default=False, description="Read the pictures as grey.")


def member(**records: type) -> Callable[[Any], str | None]:
    """Tells the members of a union apart: a text, or a record known by one of its keys."""

    def tag(value: Any) -> str | None:
        if value is None:
            return "<none>"
        if isinstance(value, str):
            return "<text>"
        if isinstance(value, BaseModel):
            return f"<{type(value).__name__}>"
        keys = [str(key) for key in value] if isinstance(value, Mapping) else []
        for key in [*keys, *(nearest(key, records) for key in keys)]:
            if key in records:
                return f"<{records[key].__name__}>"
        return None

    return tag


Model = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[Builder, Tag("<Builder>")],
    Discriminator(
        member(builder=Builder),
        custom_error_type="model",
        custom_error_message="not a model",
        custom_error_context={"expected": "a name, a .keras path, or a mapping with `builder`"},
    ),
]
Data = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[NpzData, Tag("<NpzData>")]
    | Annotated[DirectoryData, Tag("<DirectoryData>")]
    | Annotated[Builder, Tag("<Builder>")],
    Discriminator(
        member(npz=NpzData, directory=DirectoryData, builder=Builder),
        custom_error_type="data",
        custom_error_message="not a data set",
        custom_error_context={
            "expected": "a name, or a mapping with `npz`, `directory` or `builder`"
        },
    ),
]
