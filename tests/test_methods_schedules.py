"""compresskit.methods.schedules: how sparsity grows over a stage."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresskit.methods.schedules import Schedule


def schedule(**changes):
    return Schedule(
        **{"initial": 0.2, "final": 0.8, "begin": 10, "end": 110, "frequency": 20, **changes}
    )


class TestSparsity:
    @pytest.mark.parametrize(
        ("step", "expected"),
        # TFMOT's PolynomialDecay, by hand: 0.8 - 0.6 * (1 - (step - 10) / 100) ** 3.
        [
            (10, 0.2),
            (30, 0.8 - 0.6 * 0.512),
            (60, 0.8 - 0.6 * 0.125),
            (85, 0.8 - 0.6 * 0.015625),
            (110, 0.8),
            (1000, 0.8),
        ],
    )
    def test_polynomial(self, step, expected):
        assert schedule().sparsity(step) == pytest.approx(expected, abs=1e-12)

    def test_power_one_is_linear(self):
        assert schedule(power=1.0).sparsity(35) == pytest.approx(0.35)

    def test_nothing_before_begin(self):
        assert schedule().sparsity(9) == 0.0
        assert schedule(constant=True).sparsity(9) == 0.0

    @pytest.mark.parametrize("step", [10, 50, 110, 500])
    def test_constant(self, step):
        assert schedule(constant=True).sparsity(step) == 0.8

    @given(
        initial=st.floats(0, 0.5),
        final=st.floats(0.5, 0.99),
        begin=st.integers(0, 50),
        span=st.integers(1, 200),
        power=st.floats(0.5, 5),
        constant=st.booleans(),
    )
    def test_grows_from_initial_to_final(self, initial, final, begin, span, power, constant):
        made = schedule(
            initial=initial,
            final=final,
            begin=begin,
            end=begin + span,
            power=power,
            constant=constant,
        )
        values = [made.sparsity(step) for step in range(begin + span + 2)]
        assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(values))
        assert values[begin] == pytest.approx(final if constant else initial)
        assert values[-1] == values[-2] == final

    def test_a_ramp_without_length_is_at_its_end(self):
        assert schedule(begin=10, end=10).sparsity(10) == 0.8


class TestLatest:
    @pytest.mark.parametrize(
        ("step", "expected"),
        [(0, None), (9, None), (10, 10), (29, 10), (30, 30), (109, 90), (110, 110), (999, 110)],
    )
    def test_of_a_ramp(self, step, expected):
        assert schedule().latest(step) == expected

    @given(begin=st.integers(0, 30), span=st.integers(1, 60), frequency=st.integers(1, 70))
    def test_updates_are_at_begin_every_so_often_and_at_the_end(self, begin, span, frequency):
        made = schedule(begin=begin, end=begin + span, frequency=frequency)
        steps = {made.latest(step) for step in range(begin + span + 5)} - {None}
        assert steps == {*range(begin, begin + span, frequency), begin + span}

    def test_the_last_update_has_the_final_sparsity(self):
        made = schedule(frequency=1000)
        assert made.sparsity(made.latest(10**6)) == 0.8
