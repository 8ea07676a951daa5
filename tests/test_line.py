"""Who may work, who comes first, and how long the others wait, as whoever works says it."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from ipadapter_demo.errors import RequestError
from ipadapter_demo.serving import Visitor
from ipadapter_demo.serving.line import Line, Turn
from ipadapter_demo.serving.visitors import Visitors
from ipadapter_demo.ui.run.updates import so_far


@pytest.fixture
def line() -> Line:
    return Line(most=5)


kept: list[ExitStack] = []  # a turn that nobody holds any more is over


def joined(line: Line, model: str = "", cost: float = 40.0) -> tuple[Turn, ExitStack]:
    kept.append(ExitStack())
    return kept[-1].enter_context(line.turn(model, cost)), kept[-1]


def test_a_turn_that_nobody_holds_is_over(line: Line) -> None:
    with line.turn() as one:
        abandoned = line.turn()
        abandoned.__enter__()
        assert len(line.turns) == 2
        del abandoned
        assert line.turns == [one]


def test_of_those_who_ask_for_as_much_the_first_comes_first(line: Line) -> None:
    (one, first), (two, second), (three, _) = (joined(line) for _ in range(3))
    assert all(turn.begun for turn in (one, two, three)), "whose turn it is the engine says"
    assert [turn.ahead for turn in (one, two, three)] == [0, 1, 2]
    second.close()  # somebody in the middle has had enough
    assert [turn.ahead for turn in (one, three)] == [0, 1]
    first.close()
    assert three.ahead == 0
    assert two not in line.turns


def test_who_asks_for_less_comes_first(line: Line) -> None:
    (dear, _), (cheap, _), (also, _) = (joined(line, cost=cost) for cost in (9000, 40, 40))
    assert [turn.ahead for turn in (dear, cheap, also)] == [2, 0, 1]


def test_nothing_is_expected_before_anything_was_measured(line: Line) -> None:
    (one, _), (two, _) = joined(line), joined(line)
    assert one.expected == 0.0
    assert two.expected is None


def test_what_is_at_work_says_how_long_it_takes(line: Line) -> None:
    (one, _), (two, _), (three, _) = (joined(line, cost=cost) for cost in (40, 60, 40))
    one.share, one.seconds = 0.25, 6.0  # so 24 s in all, 18 of them to come, 0.6 s for a call
    assert two.expected == 18.0
    assert three.expected == 18.0 + 36.0, "the second costs half as much again"
    one.seconds = 8.0
    assert two.expected == 24.0, "slower than it seemed"


def test_who_lets_others_by_is_told_how_long(line: Line) -> None:
    (dear, _), (cheap, _) = joined(line, cost=4000), joined(line, cost=40)
    dear.share, dear.seconds = 0.1, 400.0
    assert (dear.ahead, dear.expected) == (1, 40.0), "by its own pace"
    assert cheap.expected == 0.0


def test_finished_turns_say_how_long_the_next_take(line: Line) -> None:
    for seconds in (10.0, 20.0):
        turn, done = joined(line)
        turn.share, turn.seconds = 1.0, seconds
        done.close()
    (one, stopped), (two, _), (three, _) = (joined(line) for _ in range(3))
    assert (two.expected, three.expected) == (15.0, 30.0)
    one.seconds = 4.0  # of its work nothing is known yet
    assert (two.expected, three.expected) == (11.0, 26.0)
    one.seconds = 404.0
    assert (two.expected, three.expected) == (0.0, 15.0), "never less than nothing"
    one.share = 0.5
    stopped.close()
    assert three.expected == 15.0, "one that was stopped says nothing of the others"


def test_a_full_line_is_said(line: Line) -> None:
    places = [joined(line) for _ in range(5)]
    with pytest.raises(RequestError, match="5 visitors are in line, which is the limit"):
        joined(line)
    places[2][1].close()
    assert joined(line)[0].ahead == 4


def test_whoever_waits_is_woken_when_somebody_leaves(line: Line) -> None:
    (_, first), (two, _) = joined(line, "a"), joined(line, "b")
    done = threading.Event()

    def wait() -> None:
        while not two.begun:
            two.wait()
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    assert not done.wait(0.05)
    first.close()
    assert done.wait(30)


def test_where_calls_are_shared_the_next_is_behind_the_first_to_end() -> None:
    line = Line(most=9, at_once=2)
    one, (two, _), three, (four, _), (five, _) = (joined(line) for _ in range(5))
    assert [turn.ahead for turn in (one[0], two, three[0], four)] == [0, 0, 1, 2]
    one[0].share, one[0].seconds = 0.5, 6.0  # 6 s are left
    two.share, two.seconds = 0.25, 6.0  # and here 18 s; so turns take 18 s
    assert three[0].expected == 6.0
    assert four.expected == 18.0, "when the second ends"
    assert five.expected == 6.0 + 18.0, "when the third does"
    one[0].share, one[0].seconds = 1.0, 6.0
    one[1].close()
    assert three[0].ahead == 0
    assert four.expected == 6.0, "as long as the finished one took"


class TestSeveralModels:
    """One is loaded at a time."""

    def test_another_model_waits_for_all_of_the_one_before(self, line: Line) -> None:
        (one, first), (other, leaves), (two, second) = (joined(line, m) for m in ("a", "b", "a"))
        assert [turn.begun for turn in (one, other, two)] == [True, False, True]
        assert other.ahead == 2
        first.close()
        assert not other.begun, "the second is still there"
        (late, _) = joined(line, "a")
        assert not late.begun, "whoever comes now would keep the other waiting"
        second.close()
        assert (other.begun, late.begun) == (True, False)
        leaves.close()
        assert late.begun

    def test_a_dear_request_and_another_model_freeze_nobody(self, line: Line) -> None:
        """Who comes to a model that is at work anyway costs the other nothing."""
        (dear, _), (other, _), (cheap, _) = (
            joined(line, model, cost) for model, cost in (("a", 9000), ("b", 40), ("a", 40))
        )
        assert (dear.begun, other.begun, cheap.begun) == (True, False, True)
        assert cheap.ahead == 0

    def test_a_model_begins_when_all_of_another_have_ended(self, line: Line) -> None:
        (one, _), (two, _), (three, _) = (joined(line, model) for model in "aab")
        one.share, two.share = 0.5, 0.25
        one.seconds = two.seconds = 6.0
        assert three.expected == 6.0 + 18.0


# How many of one visitor


def places(visitors: Visitors, *given: Visitor) -> list[ExitStack]:
    found = []
    for visitor in given:
        found.append(ExitStack())
        found[-1].enter_context(visitors.place(visitor))
    kept.extend(found)
    return found


def test_a_visitor_has_so_many_and_no_more() -> None:
    visitors, one = Visitors(2), Visitor("one", "192.0.2.1")
    first, _ = places(visitors, one, one)
    with pytest.raises(RequestError, match=r"you have 2 requests waiting or at work, and 2 is"):
        places(visitors, one)
    places(visitors, Visitor("two", "192.0.2.1"))
    first.close()
    places(visitors, one)


@pytest.mark.parametrize(
    "addresses",
    [["192.0.2.1"], ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"], ["::ffff:192.0.2.1", "192.0.2.1"]],
)
def test_new_sessions_from_one_address_do_not_help(addresses: list[str]) -> None:
    """Of IPv6 an address is all that one customer has."""
    visitors = Visitors(2)
    held = places(visitors, *(Visitor(str(i), addresses[i % len(addresses)]) for i in range(8)))
    with pytest.raises(RequestError, match=r"8 requests from your address .* 8 is the limit"):
        places(visitors, Visitor("new", addresses[0]))
    held += places(visitors, Visitor("new", "192.0.2.77"), Visitor("new", "2001:db8:0:2::1"))
    for one in held:
        one.close()
    assert not visitors._counts, "nobody is remembered"


def test_all_together_have_a_limit_and_the_operator_has_none() -> None:
    visitors = Visitors(None, in_all=2)
    places(visitors, *(Visitor(str(i), "testclient") for i in range(2)))
    with pytest.raises(RequestError, match="2 requests are at work, which is the limit"):
        places(visitors, Visitor("3", "192.0.2.3"))
    with visitors.place(None):
        pass


def test_whoever_is_at_work_is_told_how_long_it_still_takes(line: Line) -> None:
    one, _ = joined(line)
    assert so_far(one, 0, 20).endswith("starting")
    one.share, one.seconds = 0.25, 3.0
    assert so_far(one, 5, 20).endswith("step 5 of 20, about 9 s left")
    two, _ = joined(line)
    assert so_far(two, 0, 20) == "Waiting: place 1 in line, about 9 s."
