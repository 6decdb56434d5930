"""compresskit.tflite.timing: files are called in turn."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.tflite import timing
from compresskit.tflite.runtime import Runner
from compresskit.tflite.timing import Timing, interleaved
from tests.files import token_file
from tests.models import sequences


class Clock:
    """What is timed in place of a file: it says what its calls take, and notes its name."""

    def __init__(self, name, said, *times):
        self.name, self.said, self.times = name, said, times

    def feed(self, samples):
        calls = iter(range(10**6))

        def call():
            self.said.append(self.name)
            return self.times[next(calls) % len(self.times)]

        return call


def test_rounds_take_turns_and_every_second_one_goes_back():
    said = []
    made = interleaved([Clock("a", said, 1.0), Clock("b", said, 4.0)], [None, None], runs=12)
    warm_up = ["a"] * timing.WARM_UP + ["b"] * timing.WARM_UP
    # One call of each turn is not timed.
    rounds = ["a"] * 6 + ["b"] * 6 + ["b"] * 6 + ["a"] * 6 + ["a"] * 3 + ["b"] * 3
    assert said == warm_up + rounds
    assert [each.calls for each in made] == [12, 12]
    assert [len(each) for each in made[1].rounds] == [5, 5, 2]
    assert [each.ms() for each in made] == [1.0, 4.0]
    assert [each.ratio() for each in made] == [1.0, 4.0]


def test_percentiles():
    made = Timing(rounds=((2.0, 4.0, 3.0), (9.0, 9.0, 9.0)), first=((1.0,) * 3, (9.0,) * 3))
    assert made.calls == 6
    assert made.ms() == pytest.approx(6.5)
    assert made.ms(0) == 2.0
    assert made.ms(100) == 9.0
    # Round by round: a machine that was slow in the second slowed both files down.
    assert made.ratio(0) == 1.0
    assert made.ratio(100) == 3.0
    assert made.ratio() == 2.0


def test_a_fused_lstm_begins_each_call_without_state():
    x = sequences("bidirectional", 3)
    runner = Runner(token_file())
    expected = runner.predict(x[:1])
    (made,) = interleaved([runner], [x], runs=1)  # the last call took another sample
    assert made.ms() > 0
    call = runner.feed(x)
    for _ in range(4):
        call()
    read = runner._interpreter.get_tensor(runner._output["index"])
    np.testing.assert_array_equal(read, expected)
