"""Times within a stage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from compresskit.duration import Duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3ep", 300), ("0.5ep", 50), ("0.005ep", 1), ("100st", 100), ("75%", 300), ("0%", 0)],
)
def test_steps(text, expected):
    assert Duration(text).steps(steps_per_epoch=100, epochs=4) == expected


@pytest.mark.parametrize(
    "text",
    ["", "3", "ep", "-1ep", "3 ep", "0.5st", "1e2st", "101%", "nanep", "3EP", "٣ep", "3ep\n"],
)
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match=r"is not a number with a unit|more than the whole stage"):
        Duration(text)


def test_a_number_alone_is_refused_with_both_units():
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Duration).validate_python(3)
    fix = caught.value.errors()[0]["ctx"]["fix"]
    assert fix == "write `3ep` for epochs, or `3st` for steps"


texts = st.one_of(
    st.integers(0, 10**6).map(lambda n: f"{n}st"),
    st.decimals(0, 1000, places=2).map(lambda n: f"{n}ep"),
    st.decimals(0, 100, places=1).map(lambda n: f"{n}%"),
)


@given(texts)
def test_round_trip(text):
    adapter = TypeAdapter(Duration)
    duration = adapter.validate_python(text)
    assert str(duration) == text
    assert adapter.dump_python(duration, mode="json") == text
    assert adapter.validate_python(duration) == Duration(text)


@given(st.decimals(0, 100, places=1), st.integers(1, 5000), st.integers(1, 100))
def test_a_share_is_within_the_stage(amount, steps_per_epoch, epochs):
    steps = Duration(f"{amount}%").steps(steps_per_epoch, epochs)
    assert 0 <= steps <= steps_per_epoch * epochs
    assert abs(steps - float(amount) / 100 * steps_per_epoch * epochs) <= 0.5 + 1e-6
