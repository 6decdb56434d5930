"""The records of distillation: who teaches, what is compared, and who learns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Strict, Tag

from compresskit.recipe_fields import (
    Builder,
    Count,
    Model,
    NpzData,
    Positive,
    Record,
    Share,
    Text,
    member,
    wrong,
)


def _some(expected: str, fix: str) -> AfterValidator:
    # Not min_length: for pydantic a list of which one item is wrong is too short as well.
    def check(value: Any) -> Any:
        if not value:
            raise wrong(expected, fix, found="none")
        return value

    return AfterValidator(check)


_Pairs = Annotated[
    dict[Text, Text],
    _some("at least one layer", "for example `layers: {block2_norm: block6_norm}`"),
]


class Logits(Record):
    """The answers themselves: the teacher's probabilities, softened by the temperature."""

    type: Literal["logits"] = "logits"
    weight: Positive = Field(default=1.0, description="Factor in the sum of losses.")


class Features(Record):
    """What layers give: hidden states, feature maps."""

    type: Literal["features"] = "features"
    layers: _Pairs = Field(
        description="Layers of the student, each with the teacher's that it learns from. A "
        "student of another width is compared through a learned projection.",
        examples=[{"block2_norm": "block6_norm"}],
    )
    loss: Literal["mse", "cosine"] = Field(
        default="mse", description="mean squared error, or one minus the cosine."
    )
    weight: Positive = Field(default=1.0, description="Factor in the sum of losses.")


class AttentionMaps(Record):
    """Where attention looks."""

    type: Literal["attention"] = "attention"
    layers: _Pairs = Field(
        description="MultiHeadAttention layers of the student, each with the teacher's. With "
        "other numbers of heads their means are compared.",
        examples=[{"block2_attention": "block6_attention"}],
    )
    loss: Literal["mse", "kl"] = Field(
        default="kl", description="mean squared error, or the Kullback-Leibler divergence."
    )
    weight: Positive = Field(default=1.0, description="Factor in the sum of losses.")


Loss = Annotated[Logits | Features | AttentionMaps, Field(discriminator="type")]


class Texts(Record):
    """Texts, one a line."""

    texts: Text = Field(description="Path of the file, in UTF-8.", examples=["questions.txt"])


class Pictures(Record):
    """Pictures in one folder."""

    pictures: Text = Field(description="Path of the folder.", examples=["more-pictures"])
    image_size: Annotated[tuple[Count, Count], Strict(False)] | None = Field(
        default=None, description="Height and width to resize to.", examples=[[32, 32]]
    )
    grayscale: bool = Field(default=False, description="Read the pictures as grey.")


# None is a member of its own: a discriminator with a context cannot be hashed into `X | None`.
Transfer = Annotated[
    Annotated[None, Tag("<none>")]
    | Annotated[Texts, Tag("<Texts>")]
    | Annotated[NpzData, Tag("<NpzData>")]
    | Annotated[Pictures, Tag("<Pictures>")]
    | Annotated[Builder, Tag("<Builder>")],
    Discriminator(
        member(texts=Texts, npz=NpzData, pictures=Pictures, builder=Builder),
        custom_error_type="transfer",
        custom_error_message="not transfer data",
        custom_error_context={"expected": "a mapping with `texts`, `npz`, `pictures` or `builder`"},
    ),
]


def _rising(layers: tuple[int, ...]) -> tuple[int, ...]:
    if list(layers) != sorted(set(layers)):
        fix = f"write `layers: {sorted(set(layers))}`"
        raise wrong("each block once, in the order of the teacher", fix)
    return layers


class Pupil(Record):
    """A student that begins as a part of its teacher."""

    from_: Literal["teacher"] = Field(
        alias="from", description="Keeps layers of the teacher, with their weights."
    )
    layers: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...],
        Strict(False),
        _some("at least one block", "for example `layers: [0, 2]`"),
        AfterValidator(_rising),
    ] = Field(
        description="Which of the teacher's numbered blocks (Transformer, LSTM, GRU) stay, "
        "counted from 0.",
        examples=[[0, 3, 5]],
    )


Student = Annotated[
    Annotated[None, Tag("<none>")]
    | Annotated[Text, Tag("<text>")]
    | Annotated[Builder, Tag("<Builder>")]
    | Annotated[Pupil, Tag("<Pupil>")],
    Discriminator(
        member(builder=Builder, **{"from": Pupil}),
        custom_error_type="student",
        custom_error_message="not a student",
        custom_error_context={
            "expected": "a name, a .keras path, or a mapping with `builder` or `from`"
        },
    ),
]


class Learning(Record):
    """How a model learns from another one."""

    teacher: Model = Field(
        default="baseline",
        description="baseline, the model before the first stage; previous, as the stage before "
        "left it; or any model, trained.",
    )
    temperature: Positive = Field(
        default=3.0, description="Divides the logits of both before they are compared."
    )
    alpha: Share = Field(
        default=0.5,
        description="Weight of the losses against the teacher; the labels have the rest.",
    )
    losses: Annotated[
        tuple[Loss, ...],
        Strict(False),
        _some("at least one loss", "remove `losses` to compare the answers alone"),
    ] = Field(
        default=(Logits(),),
        description="What is compared with the teacher.",
        examples=[[{"type": "logits"}]],
    )
    transfer: Transfer = Field(
        default=None,
        description="Samples without labels, to learn from the teacher alone.",
        examples=[{"texts": "questions.txt"}],
    )
    cache: bool = Field(
        default=True,
        description="Ask the teacher once and keep its answers on disk while the stage trains, "
        "or ask it at every step.",
    )
