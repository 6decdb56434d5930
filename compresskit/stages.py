"""The stages of a recipe: a record of settings for each method."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)

from compresskit import catalog
from compresskit.duration import Duration
from compresskit.granularity import GRANULARITIES, NM, Block, Unstructured, parse_granularity
from compresskit.recipe_distill import Learning, Student
from compresskit.recipe_fields import Count, Positive, Record, Text, known, wrong
from compresskit.stage_base import (
    Compression,
    Selecting,
    TrainingStage,
    check_end,
    check_frequency,
    moment,
)


def _shorthand(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"final": value, "schedule": "constant"}
    return value


class Sparsity(Record):
    """The share of weights that are zero, over the time of the stage."""

    initial: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="At `begin`; not used by a constant schedule."
    )
    final: Annotated[float, Field(ge=0, lt=1)] = Field(description="From `end` on.", examples=[0.8])
    schedule: Literal["constant", "polynomial"] = Field(
        default="polynomial", description="All at once, or ever slower towards the end."
    )
    power: Positive = Field(default=3.0, description="Exponent of the polynomial.")

    @field_validator("final")
    @classmethod
    def _check_final(cls, final: float, info: ValidationInfo) -> float:
        initial = info.data.get("initial", 0.0)
        if initial > final:
            found = f"initial {initial}, final {final}"
            fix = "exchange the two, or leave `initial` out"
            raise wrong("initial not above final", fix, found=found, others=[("initial",)])
        return final


class Prune(Compression):
    """Sets the least important weights to zero and keeps them there."""

    type: Literal["prune"] = "prune"
    method: Annotated[Text, AfterValidator(known(catalog.criteria))] = Field(
        default="magnitude", description="The criterion: what makes a weight important."
    )
    granularity: str = Field(
        default="unstructured",
        description="What is zeroed as one: unstructured, N:M (at most N nonzero weights of every "
        "M), or block(RxC).",
        examples=["unstructured", "2:4", "block(1x16)"],
    )
    sparsity: Annotated[
        Sparsity | None,
        BeforeValidator(
            _shorthand,
            json_schema_input_type=Annotated[float, Field(ge=0, lt=1)] | Sparsity | None,
        ),
    ] = Field(
        default=None,
        description="A number alone is a constant schedule. Not with N:M, which says it itself.",
        examples=[0.8],
    )
    scope: Literal["global", "layer"] = Field(
        default="layer", description="Rank weights within their layer, or all together."
    )
    begin: Duration = moment("0ep", "First update of the masks.")
    end: Duration = moment("75%", "End of the updates, exclusive.")
    frequency: Duration = moment("100st", "Time between updates.")

    @property
    def mask_shape(self) -> Unstructured | NM | Block:
        """The record that `granularity` stands for."""
        return parse_granularity(self.granularity)

    @field_validator("granularity")
    @classmethod
    def _check_granularity(cls, text: str) -> str:
        try:
            parse_granularity(text)
        except ValueError:
            fix = "for example `2:4`, `block(1x16)` or `unstructured`"
            raise wrong(GRANULARITIES, fix) from None
        return text

    @field_validator("sparsity", mode="wrap")
    @classmethod
    def _check_sparsity(cls, value: Any, handler: Any, info: ValidationInfo) -> Sparsity | None:
        text = info.data.get("granularity")
        if text is None:
            return handler(value)
        if isinstance(parse_granularity(text), NM):
            if value is None:
                return None
            n, m = text.split(":")
            expected = f"no `sparsity` with {text}: at most {n} of every {m} weights are kept"
            raise wrong(expected, "remove `sparsity`", others=[("granularity",)])
        if value is None:
            expected = "a number from 0 to 1 (1 excluded), or a mapping with `final`"
            fix = "add `sparsity: 0.8`"
            raise wrong(
                expected, fix, found="no `sparsity`", missing=True, others=[("granularity",)]
            )
        return handler(value)

    @field_validator("scope")
    @classmethod
    def _check_scope(cls, scope: str, info: ValidationInfo) -> str:
        text = info.data.get("granularity", "unstructured")
        if scope == "global" and isinstance(parse_granularity(text), NM):
            fix = "write `scope: layer`"
            raise wrong(f"layer: {text} ranks within M weights", fix, others=[("granularity",)])
        return scope

    _end = field_validator("end")(check_end)
    _frequency = field_validator("frequency")(check_frequency)


Part = Annotated[float, Field(gt=0, lt=1)]


def _of_units(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"units": value}
    return value


class Amount(Record):
    """How much is removed: a share of one of these."""

    units: Part | None = Field(default=None, description="Of the units that may be removed.")
    parameters: Part | None = Field(default=None, description="Of the model's parameters.")
    flops: Part | None = Field(default=None, description="Of its multiply-adds.", examples=[0.75])
    latency: Part | None = Field(
        default=None, description="Of the time of its float32 file in LiteRT on this machine."
    )

    @model_validator(mode="after")
    def _check_one(self) -> Amount:
        if len([value for _, value in self if value is not None]) != 1:
            raise wrong(
                "one of units, parameters, flops, latency",
                "for example `amount: {flops: 0.75}`, or `amount: 0.5` of the units",
            )
        return self

    @property
    def of(self) -> str:
        """What it is a share of."""
        return next(name for name, value in self if value is not None)

    @property
    def share(self) -> float:
        """How much of that is removed."""
        return float(getattr(self, self.of))


class Shrink(Compression):
    """Removes filters, units, heads or width: the model that comes out is smaller."""

    type: Literal["shrink"] = "shrink"
    method: Annotated[Text, AfterValidator(known(catalog.unit_criteria))] = Field(
        default="l2", description="The criterion: what makes a unit important."
    )
    amount: Annotated[Amount, BeforeValidator(_of_units, json_schema_input_type=Part | Amount)] = (
        Field(
            description="How much is removed. A number alone is a share of the units.",
            examples=[0.5],
        )
    )
    scope: Literal["global", "layer"] = Field(
        default="layer", description="Take as large a share of each layer, or rank all together."
    )
    schedule: Literal["constant", "polynomial"] = Field(
        default="polynomial", description="All at once, or ever slower towards the end."
    )
    begin: Duration = moment("0ep", "When the first units are held at zero.")
    end: Duration = moment("50%", "When the last ones are; what follows is recovery.")
    frequency: Duration = moment("100st", "Time between updates.")

    _end = field_validator("end")(check_end)
    _frequency = field_validator("frequency")(check_frequency)


class Cluster(Compression):
    """Lets the weights of a tensor share a few values, which go on learning."""

    type: Literal["cluster"] = "cluster"
    clusters: Annotated[int, Field(ge=2, le=256)] = Field(
        description="How many values, zero among them if pruning came first.", examples=[16]
    )
    init: Literal["kmeans", "kmeans++", "density", "linear"] = Field(
        default="kmeans", description="How the values are chosen at first."
    )
    granularity: Literal["tensor", "channel", "gate"] = Field(
        default="tensor",
        description="What shares one set of values: the integers of a whole tensor, each output "
        "channel, or each gate of an LSTM.",
    )
    assignment: Literal["learned", "fixed"] = Field(
        default="learned",
        description="Whether each weight goes on learning and takes the value nearest to it, or "
        "keeps the value that it has at first.",
    )


class QAT(Compression):
    """Trains through the rounding of the integer kernels."""

    type: Literal["qat"] = "qat"
    weight_bits: Annotated[int, Field(ge=2, le=8)] = Field(
        default=8, description="Bits of a weight."
    )
    activation_bits: Annotated[int, Field(ge=4, le=8)] = Field(
        default=8, description="Bits of an activation."
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.99, description="How slowly the ranges of activations follow the data."
    )


Algorithm = Literal["cross_layer_equalization", "gptq", "bias_correction"]


class PTQ(Selecting):
    """Makes the weights fit for rounding by what samples show, without training or labels."""

    # What a stage that trains has.
    epochs: ClassVar[int] = 0
    batch_size: ClassVar[None] = None
    optimizer: ClassVar[None] = None
    learning_rate: ClassVar[None] = None
    learning_rate_schedule: ClassVar[None] = None
    early_stopping: ClassVar[None] = None
    learning: ClassVar[None] = None

    type: Literal["ptq"] = "ptq"
    algorithms: Annotated[tuple[Algorithm, ...], Strict(False), Field(min_length=1)] = Field(
        description="What is done, in this order: cross_layer_equalization gives the channels "
        "between two layers equal ranges; gptq rounds weight by weight, the later ones making up "
        "for the earlier; bias_correction takes from each bias what rounding adds on average.",
        examples=[["cross_layer_equalization", "bias_correction"]],
    )
    weight_bits: Annotated[int, Field(ge=2, le=8)] = Field(
        default=8, description="Bits of a weight, if the export has as many."
    )
    samples: Count = Field(default=128, description="Training samples to run, without labels.")

    @field_validator("algorithms")
    @classmethod
    def _check_algorithms(cls, algorithms: tuple[Algorithm, ...]) -> tuple[Algorithm, ...]:
        order = [name for name in get_args(Algorithm) if name in algorithms]
        if list(algorithms) != order:
            raise wrong(
                f"each once, in the order {', '.join(get_args(Algorithm))}",
                f"write `algorithms: [{', '.join(order)}]`",
            )
        return algorithms


class Distill(Learning, TrainingStage):
    """Lets a smaller model, the student, learn from a larger one."""

    type: Literal["distill"] = "distill"
    student: Student = Field(
        default=None,
        description="The model to go on with: a name of `compresskit list models`, a .keras "
        "path, a builder, or layers of the teacher. Default: the model as it is.",
        examples=[{"from": "teacher", "layers": [0, 3, 5]}],
    )
    vocabulary: Literal["all", "data"] = Field(
        default="all",
        description="data: keep the tokens alone that the training and transfer samples have; "
        "the tokenizer beside the model is cut to them.",
    )
    embedding: Literal["own", "teacher"] = Field(
        default="own",
        description="teacher: the student's token embedding begins as the teacher's, on as many of "
        "its principal axes as the student is wide.",
    )

    @property
    def learning(self) -> Learning:
        """Who teaches in this stage."""
        return self


Stage = Annotated[
    Prune | Shrink | Cluster | QAT | PTQ | Distill,
    Field(discriminator="type", examples=[{"type": "qat"}]),
]
