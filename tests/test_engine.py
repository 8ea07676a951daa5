"""Who is advanced when: jobs without a model, whose turns are counted."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Generator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline.engine import Engine
from ipadapter_demo.pipeline.jobs import Fits, Job, Unloaded
from ipadapter_demo.pipeline.sampler import Call
from ipadapter_demo.pipeline.schedule import NoiseLevel
from tests.tiny import noise

LEVEL = NoiseLevel(*(torch.tensor(1.0) for _ in range(3)))


class Adder:
    """Adds one to what it reads, and keeps who shared each call."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken: set[str] = set()
        self.most = 99
        self.entered, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.gated = False

    def predict(self, calls: Sequence[Call[Any]]) -> list[Tensor]:
        if self.gated:
            self.entered.release()
            assert self.gate.acquire(timeout=30)
        names = "".join(call.conditions for call in calls)
        self.calls.append(names)
        if self.broken & set(names):
            raise ValueError(f"broken: {names}")
        if len(calls) > self.most:
            raise torch.OutOfMemoryError
        return [call.latents + 1 for call in calls]

    def job(
        self, name: str, steps: int = 2, pauses: int = 0, fits: Any = "size", **more: Any
    ) -> Job:
        """Its events are the numbers of its steps, and at last its latents."""

        def work() -> Generator[object, None, None]:
            latents = torch.zeros(1)
            for step in range(steps):
                call = Call(latents, LEVEL, name)
                yield call
                assert call.output is not None
                latents = call.output
                if step < pauses:
                    yield None
                    self.calls.append(name.lower())
                yield step
            yield None
            self.calls.append(name.lower())
            yield float(latents)

        return Job(work(), self.predict, fits, **{"rows": 1, "share": 4} | more)


@pytest.fixture
def adder() -> Adder:
    return Adder()


@pytest.fixture
def engine() -> Generator[Engine, None, None]:
    engine = Engine()
    yield engine
    engine.stop()


def finished(engine: Engine, *jobs: Job) -> list[list[Any]]:
    engine.submit(*jobs)
    return [list(engine.events(job)) for job in jobs]


def test_those_that_fit_share_and_each_gets_its_own(engine: Engine, adder: Adder) -> None:
    """Whatever their numbers of steps."""
    events = finished(engine, *(adder.job(n, steps) for n, steps in (("A", 1), ("B", 3), ("C", 2))))
    assert adder.calls[0] == "ABC"
    assert events == [[0, 1.0], [0, 1, 2, 3.0], [0, 1, 2.0]]


def test_by_itself_the_oldest_is_finished_first(engine: Engine, adder: Adder) -> None:
    finished(engine, *(adder.job(n, share=1) for n in "ABC"))
    assert adder.calls == list("AAaBBbCCc")


def test_no_more_share_than_each_allows(engine: Engine, adder: Adder) -> None:
    """And who waits comes in when one is done."""
    finished(engine, *(adder.job(n, 3, share=2) for n in "ABC"), adder.job("D", 3))
    assert [c for c in adder.calls if c.isupper()] == ["AB", "AB", "AB", "C", "CD", "CD", "D"]
    adder.calls.clear()
    finished(engine, adder.job("A", 1), adder.job("B", 1, share=2), adder.job("C", 1))
    assert [c for c in adder.calls if c.isupper()] == ["AB", "C"]


def test_another_kind_waits_until_the_oldest_is_done(engine: Engine, adder: Adder) -> None:
    """So LoRAs are not merged in every step; nobody waits for ever, for then he is the oldest."""
    engine.submit(adder.job("A"), odd := adder.job("B", fits="other"), adder.job("C", 4))
    assert list(engine.events(odd)) == [0, 1, 2.0]
    assert [c for c in adder.calls if c.isupper()][:5] == ["AC", "AC", "C", "B", "B"]


def test_one_longer_piece_of_work_lies_between_two_calls(engine: Engine, adder: Adder) -> None:
    """Of everybody in turn: one who wants a preview in every step holds up no decoding."""
    finished(engine, adder.job("A", 6, pauses=6), adder.job("B", 1), adder.job("C", 6))
    waited_for = adder.calls[: adder.calls.index("c")]
    assert not any(one.islower() and other.islower() for one, other in pairwise(waited_for))
    assert waited_for.index("b") == 3


def test_who_comes_later_joins_at_any_position(engine: Engine, adder: Adder) -> None:
    adder.gated = True
    engine.submit(first := adder.job("A", 4))
    assert adder.entered.acquire(timeout=30)
    adder.gate.release()
    assert adder.entered.acquire(timeout=30)
    engine.submit(second := adder.job("B", 3))
    adder.gated = False
    adder.gate.release()
    assert [list(engine.events(job))[-1] for job in (first, second)] == [4.0, 3.0]
    assert [c for c in adder.calls if c.isupper()] == ["A", "A", "AB", "AB", "B"]


def test_the_background_waits_between_two_steps(engine: Engine, adder: Adder) -> None:
    adder.gated = True
    engine.submit(slow := adder.job("C", 4, background=True))
    assert adder.entered.acquire(timeout=30)
    engine.submit(quick := adder.job("A"))
    adder.gated = False
    adder.gate.release()
    assert [list(engine.events(job))[-1] for job in (quick, slow)] == [2.0, 4.0]
    assert adder.calls == [*"CAAaCCCc"]


@pytest.mark.parametrize("begun", [False, True])
def test_who_leaves_gets_no_further_step(engine: Engine, adder: Adder, begun: bool) -> None:
    adder.gated = True
    engine.submit(*(jobs := [adder.job(n, 50) for n in ("A", "B")]))
    assert adder.entered.acquire(timeout=30)
    events = engine.events(jobs[0])
    if begun:
        adder.gate.release()
        assert next(events) == 0
        assert adder.entered.acquire(timeout=30)
        events.close()
    else:
        engine.cancel(jobs[0])
    adder.gated = False
    adder.gate.release()
    assert len(list(engine.events(jobs[1]))) == 51
    assert [c for c in adder.calls if "A" in c] == ["AB"] * (1 + begun)


def test_an_error_is_its_own_caller_s(engine: Engine, adder: Adder) -> None:
    """In a shared call as well: it is made again one by one, and the others go on together."""
    adder.broken = {"B"}
    jobs = [adder.job(n) for n in "ABC"]
    engine.submit(*jobs)
    assert list(engine.events(jobs[0])) == list(engine.events(jobs[2])) == [0, 1, 2.0]
    with pytest.raises(ValueError, match="broken: B"):
        list(engine.events(jobs[1]))
    assert [c for c in adder.calls if c.isupper()] == ["ABC", "A", "B", "C", "AC"]
    assert finished(engine, adder.job("D")) == [[0, 1, 2.0]], "and the thread is alive"


def test_an_error_between_calls_too(engine: Engine, adder: Adder) -> None:
    def work() -> Generator[object, None, None]:
        yield Call(torch.zeros(1), LEVEL, "B")
        raise KeyError("between")

    bad = Job(work(), adder.predict, "size", 1, 4)
    engine.submit(good := adder.job("A"), bad)
    with pytest.raises(KeyError, match="between"):
        list(engine.events(bad))
    assert list(engine.events(good)) == [0, 1, 2.0]


def test_where_the_memory_is_too_small_fewer_share(engine: Engine, adder: Adder) -> None:
    adder.most = 2
    events = finished(engine, *(adder.job(n, 3) for n in "ABCD"))
    assert [own[-1] for own in events] == [3.0] * 4
    calls = [c for c in adder.calls if c.isupper()]
    assert calls[:5] == ["ABCD", "A", "B", "C", "D"]
    assert calls[5:7] == ["AB", "AB"]
    assert max(len(c) for c in calls[5:]) == 2
    adder.calls.clear()
    finished(engine, *(adder.job(n, 1, fits="smaller") for n in "AB"))
    assert adder.calls[0] == "AB", "of another size others fit"


def test_a_function_runs_on_the_thread(engine: Engine) -> None:
    assert engine.run(lambda: threading.current_thread().name) == "engine"
    assert engine.run(lambda: None) is None
    assert not engine.run(torch.is_grad_enabled)
    with pytest.raises(ZeroDivisionError):
        engine.run(lambda: 1 / 0)


def test_all_work_runs_in_a_context_of_one_s_own() -> None:
    engine = Engine(lambda: torch.autocast("cpu", torch.bfloat16))
    made = engine.run(lambda: (noise(1, 2, 2) @ noise(2, 2, 2)).dtype)
    assert made == torch.bfloat16
    engine.stop()


def threads_of(engine: Engine) -> list[threading.Thread]:
    own = engine._thread
    return [thread for thread in threading.enumerate() if thread is own]


def test_closed_it_drops_the_background_and_ends(engine: Engine, adder: Adder) -> None:
    adder.gated = True
    engine.submit(visitor := adder.job("A", 3), slow := adder.job("B", 3, background=True))
    assert adder.entered.acquire(timeout=30)
    engine.close()
    with pytest.raises(Unloaded):
        list(engine.events(slow))
    adder.gated = False
    adder.gate.release()
    assert list(engine.events(visitor))[-1] == 3.0, "who is there gets what he asked for"
    deadline = time.monotonic() + 30
    while threads_of(engine):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    with pytest.raises(Unloaded):
        engine.submit(adder.job("C", background=True))
    assert finished(engine, adder.job("D")) == [[0, 1, 2.0]], "and so does who still comes"


def test_it_holds_nothing_while_it_waits() -> None:
    engine, adder = Engine(idle=60), Adder()
    gone = weakref.ref(adder)
    finished(engine, *(adder.job(n) for n in "AB"))
    del adder
    deadline = time.monotonic() + 30
    while gone() is not None:
        gc.collect()
        assert time.monotonic() < deadline
    assert threads_of(engine), "the thread waits for more"
    engine.stop()


def test_where_no_thread_begins_nothing_waits_for_one(
    engine: Engine, adder: Adder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="new thread"):
            engine.submit(adder.job("A"))
    assert engine._thread is None
    assert finished(engine, adder.job("B")) == [[0, 1, 2.0]]
    assert "A" not in "".join(adder.calls)


def test_without_work_the_thread_ends_and_the_next_job_has_another(adder: Adder) -> None:
    engine = Engine(idle=0.01)
    assert finished(engine, adder.job("A")) == [[0, 1, 2.0]]
    first, deadline = engine._thread, time.monotonic() + 30
    while threads_of(engine) or (first is not None and first.is_alive()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert engine._thread is None
    assert finished(engine, adder.job("B")) == [[0, 1, 2.0]]
    engine.stop()


def test_two_threads_at_once_get_their_own(engine: Engine, adder: Adder) -> None:
    found: dict[int, list[Any]] = {}

    def ask(steps: int) -> None:
        engine.submit(job := adder.job("A", steps))
        found[steps] = list(engine.events(job))

    threads = [threading.Thread(target=ask, args=(steps,)) for steps in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {steps: [*range(steps), float(steps)] for steps in range(1, 17)}


# Who asks for much, beside who asks for little


def test_who_asks_for_more_delays_by_one_turn_at_most(engine: Engine, adder: Adder) -> None:
    """The turn that he is in, and in the worst case the last that he was owed."""
    adder.gated = True
    engine.submit(dear := adder.job("A", 200, share=1, rank=9))
    assert adder.entered.acquire(timeout=30)
    engine.submit(cheap := adder.job("B", 5, share=1, rank=3))
    adder.gated = False
    adder.gate.release()
    assert list(engine.events(cheap))[-1] == 5.0
    assert list(engine.events(dear))[-1] == 200.0
    turns = [c for c in adder.calls if c.isupper()]
    assert turns[:7] == [*"ABBBBBA"]
    assert turns.index("B") == 1


def test_who_asks_for_much_goes_on_between_others(engine: Engine, adder: Adder) -> None:
    """So he gets what he asked for, however many come with less: one turn for each that is done."""
    jobs = [
        adder.job("A", 4, share=1, rank=9),
        *(adder.job("B", 3, share=1, rank=3) for _ in range(4)),
    ]
    finished(engine, *jobs)
    assert [c for c in adder.calls if c.isupper()] == [*"BBBABBBABBBABBBA"]


def test_those_who_ask_for_about_as_much_come_in_order(engine: Engine, adder: Adder) -> None:
    finished(engine, *(adder.job(n, 2, share=1, rank=5) for n in "ABC"))
    assert [c for c in adder.calls if c.isupper()] == [*"AABBCC"]


def test_ranks_bound_what_is_begun(engine: Engine, adder: Adder) -> None:
    """Forty visitors at once of three ranks: nobody's memory is taken before his turn comes."""
    most = 0

    def watched(calls: Sequence[Call[Any]]) -> list[Tensor]:
        nonlocal most
        most = max(most, sum(job.advanced is not None and not job.left for job in jobs))
        return adder.predict(calls)

    jobs = [adder.job("A", 3, rank=9 - i % 3) for i in range(40)]
    for job in jobs:
        job.predict = watched
    finished(engine, *jobs)
    assert most <= 4


def test_the_share_of_a_call_bounds_what_is_begun_too(engine: Engine, adder: Adder) -> None:
    jobs = [adder.job("A", 2, fits=i // 10, rank=9 - i // 10, share=12) for i in range(60)]
    begun: list[int] = []
    predict = adder.predict

    def watched(calls: Sequence[Call[Any]]) -> list[Tensor]:
        begun.append(sum(job.advanced is not None and not job.left for job in jobs))
        return predict(calls)

    for job in jobs:
        job.predict = watched
    finished(engine, *jobs)
    assert max(begun) <= 16 + 6


def test_more_rows_join_no_call_but_their_owner_s(engine: Engine, adder: Adder) -> None:
    """One with many pictures would make every step of the other as long as his own."""
    finished(engine, adder.job("A", 2, rows=2), adder.job("B", 2, rows=32))
    assert [c for c in adder.calls if c.isupper()] == [*"AABB"]
    adder.calls.clear()
    owner = object()
    jobs = [adder.job(n, 2, rows=rows, owner=owner) for n, rows in (("A", 2), ("B", 32))]
    finished(engine, *jobs)
    assert [c for c in adder.calls if c.isupper()] == ["AB", "AB"]


def test_other_loras_are_merged_once_for_each_request(engine: Engine, adder: Adder) -> None:
    """Not in every step, though the dear one is begun and waits in between."""
    jobs = [
        adder.job("A", 50, rank=9, fits="one"),
        *(adder.job(n, 20, rank=5, fits="other") for n in "BCD"),
    ]
    finished(engine, *jobs)
    calls = [c for c in adder.calls if c.isupper()]
    assert sum(one != other for one, other in pairwise(calls)) <= 2 * len(jobs)


def test_who_is_drawn_too_long_gets_an_error(adder: Adder) -> None:
    """What was done for others does not count."""
    now = [0.0]
    engine = Engine(clock=lambda: now[0])

    def slow(calls: Sequence[Call[Any]]) -> list[Tensor]:
        now[0] += 1.0
        return adder.predict(calls)

    jobs = [adder.job("A", 50, rank=9, most_seconds=9.5), adder.job("B", 8, rank=2, share=1)]
    for job in jobs:
        job.predict = slow
    engine.submit(*jobs)
    assert list(engine.events(jobs[1]))[-1] == 8.0
    with pytest.raises(RequestError, match=r"drawn for 10 seconds, and 9\.5 is the limit"):
        list(engine.events(jobs[0]))
    assert sum("A" in call for call in adder.calls) == 10
    engine.stop()


def test_the_time_of_an_event_holds_the_step_it_comes_of(adder: Adder) -> None:
    """Else the first step would seem to have taken none, and so would all that are left."""
    now, seen = [0.0], list[float]()
    engine = Engine(clock=lambda: now[0])

    def slow(calls: Sequence[Call[Any]]) -> list[Tensor]:
        now[0] += 2.0
        return adder.predict(calls)

    def work() -> Generator[object, None, None]:
        for _ in range(3):
            yield Call(torch.zeros(1), LEVEL, "a")
            seen.append(engine.seconds_of(job))

    job = Job(work(), slow, "size", rows=1, share=1)
    assert finished(engine, job) == [[]]
    assert seen == [2.0, 4.0, 6.0]
    assert engine.seconds_of(job) == 6.0
    engine.stop()


def test_it_is_said_again_where_nothing_comes(engine: Engine, adder: Adder) -> None:
    """So that whoever left is missed while others come first."""
    adder.gated = True
    engine.submit(job := adder.job("A", 1))
    events = engine.events(job, look_again=0.01)
    assert [next(events) for _ in range(3)] == [None] * 3
    events.close()
    adder.gated = False
    adder.gate.release()
    assert job.left


def test_a_job_whose_calls_change_shares_with_those_that_fit_it_then(
    engine: Engine, adder: Adder
) -> None:
    """The second pass of a picture is larger: its calls go with others of that size."""

    def work() -> Generator[object, None, None]:
        for fits in ("size", "larger"):
            yield Fits(fits)
            yield None
            for _ in range(2):
                yield Call(torch.zeros(1), LEVEL, "A")

    first = Job(work(), adder.predict, "size", rows=1, share=4)
    others = [adder.job("B", 3), adder.job("C", 3, fits="larger")]
    finished(engine, first, *others)
    calls = [name for name in adder.calls if name.isupper()]
    assert sorted("".join(calls)) == sorted("AAAA" + "BBB" + "CCC")
    assert not any({"B", "C"} <= set(names) for names in calls)
    assert "AC" in calls
