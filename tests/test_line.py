"""One after the other: who is next, and how long it takes, with a clock that the test winds."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from ipadapter_demo.errors import RequestError
from ipadapter_demo.serving.line import Line, Turn


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def line(clock: Clock) -> Line:
    return Line(most=4, clock=clock)


kept: list[ExitStack] = []  # a turn that nobody holds any more is over


def joined(line: Line, model: str = "") -> tuple[Turn, ExitStack]:
    kept.append(ExitStack())
    return kept[-1].enter_context(line.turn(model)), kept[-1]


def test_a_turn_that_nobody_holds_is_over(line: Line) -> None:
    with line.turn() as one:
        abandoned = line.turn()
        abandoned.__enter__()
        assert len(line.turns) == 2
        del abandoned
        assert line.turns == [one]


def test_who_comes_first_is_served_first(line: Line) -> None:
    (one, first), (two, second), (three, _) = (joined(line) for _ in range(3))
    assert [turn.ahead for turn in (one, two, three)] == [0, 1, 2]
    second.close()  # somebody in the middle has had enough
    assert [turn.ahead for turn in (one, three)] == [0, 1]
    first.close()
    assert three.ahead == 0
    assert two not in line.turns


def test_nothing_is_expected_before_anything_was_measured(line: Line, clock: Clock) -> None:
    (one, _), (two, _) = joined(line), joined(line)
    clock.now += 5
    assert one.expected == 0.0
    assert two.expected is None


def test_what_is_at_work_says_how_long_it_takes(line: Line, clock: Clock) -> None:
    (one, _), (two, _), (three, _) = (joined(line) for _ in range(3))
    clock.now += 6
    one.share = 0.25  # so 24 s in all, 18 of them to come
    assert two.expected == 18.0
    assert three.expected == 18.0 + 24.0, "a turn like this one is before it"
    clock.now += 2
    assert two.expected == 24.0, "slower than it seemed"


def test_finished_turns_say_how_long_the_next_take(line: Line, clock: Clock) -> None:
    for seconds in (10.0, 20.0):
        turn, done = joined(line)
        clock.now += seconds
        turn.share = 1.0
        done.close()
    (one, stopped), (two, _), (three, _) = (joined(line) for _ in range(3))
    assert (two.expected, three.expected) == (15.0, 30.0)
    clock.now += 4
    assert (two.expected, three.expected) == (11.0, 26.0)
    clock.now += 400
    assert (two.expected, three.expected) == (0.0, 15.0), "never less than nothing"
    one.share = 0.5
    stopped.close()
    assert three.expected == 15.0, "one that was stopped says nothing of the others"


def test_a_full_line_is_said(line: Line) -> None:
    places = [joined(line) for _ in range(4)]
    with pytest.raises(RequestError, match="4 visitors are in line, which is the limit"):
        joined(line)
    places[2][1].close()
    assert joined(line)[0].ahead == 3


def test_whoever_waits_is_woken_when_somebody_leaves(line: Line) -> None:
    (_, first), (two, _) = joined(line), joined(line)
    done = threading.Event()

    def wait() -> None:
        while two.ahead:
            two.wait()
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    assert not done.wait(0.05)
    first.close()
    assert done.wait(30)


class TestSeveralAtWork:
    """Those of one model, as many as may be at work at once."""

    @pytest.fixture
    def line(self, clock: Clock) -> Line:
        return Line(most=9, at_once=2, clock=clock)

    def test_as_many_are_at_work_and_the_next_is_behind_one_of_them(self, line: Line) -> None:
        (one, _), (two, second), (three, _), (four, _) = (joined(line) for _ in range(4))
        assert [turn.ahead for turn in (one, two, three, four)] == [0, 0, 1, 2]
        second.close()
        assert [turn.ahead for turn in (one, three, four)] == [0, 0, 1]

    def test_another_model_waits_for_all_and_lets_nobody_by(self, line: Line) -> None:
        (one, first), (other, leaves), (three, _) = (joined(line, m) for m in ("a", "b", "a"))
        assert [turn.ahead for turn in (one, other, three)] == [0, 1, 2]
        (four, _) = joined(line, "b")
        first.close()
        assert [turn.ahead for turn in (other, three, four)] == [0, 1, 2]
        leaves.close()
        assert [turn.ahead for turn in (three, four)] == [0, 1]

    def test_the_first_to_end_makes_room(self, line: Line, clock: Clock) -> None:
        one, (two, _), three, (four, _), (five, _) = (joined(line) for _ in range(5))
        clock.now += 6
        one[0].share, two.share = 0.5, 0.25  # 6 s and 18 s are left; so turns take 18 s
        assert three[0].expected == 6.0
        assert four.expected == 18.0, "when the second ends"
        assert five.expected == 6.0 + 18.0, "when the third does"
        one[0].share = 1.0
        one[1].close()
        assert three[0].ahead == 0
        assert four.expected == 6.0, "as long as the finished one took"

    def test_a_model_begins_when_all_of_another_have_ended(self, line: Line, clock: Clock) -> None:
        (one, _), (two, _), (three, _), (four, _), (five, _) = (
            joined(line, model) for model in "aabba"
        )
        clock.now += 6
        one.share, two.share = 0.5, 0.25
        assert [turn.expected for turn in (three, four)] == [18.0, 18.0]
        assert five.expected == 18.0 + 18.0
