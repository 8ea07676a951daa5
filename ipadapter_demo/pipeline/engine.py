"""The thread that runs a model: requests are jobs, which it advances from one model call to the
next. Jobs that fit share a call.

Nobody else touches the model, so there are no locks around it. A turn of the thread is one call for
the job that comes first and those that fit it, beginnings of theirs, and one longer piece of work,
such as a decoding. Jobs in the background wait while there are others.

The job of the lowest rank comes first, of several the oldest. So whoever asks for much delays
others by the turn that he is in, and no more; and he goes on whenever one of them is done, for then
the oldest of all has a turn.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from queue import Empty
from threading import Condition, Thread
from typing import Any, TypeVar
from weakref import WeakSet

import torch

from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline.jobs import End, Fits, Job, Unloaded
from ipadapter_demo.pipeline.sampler import Call

T = TypeVar("T")

MOST_BEGUN = 16  # jobs that hold memory at once, besides one of each rank
# Seconds without a job after which the thread ends, and with it what slows those of other models:
# see ipadapter_demo/own_thread.py.
IDLE = 5.0

log = logging.getLogger(__name__)


class Engine:
    """Jobs, oldest first, and the thread that advances them, which begins with a job and ends when
    none has come for `idle` seconds, if that is not None.

    It holds no model while it has nothing to do. All work runs in `context`, such as autocast.
    """

    def __init__(
        self,
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
        clock: Callable[[], float] = time.monotonic,
        idle: float | None = IDLE,
    ) -> None:
        self._context, self._clock, self._idle = context, clock, idle
        self._closed = False
        self._begin()
        self._most_rows: dict[Hashable, int] = {}  # of a shared call, where more did not go

    def _begin(self) -> None:
        """Without jobs or a thread, as it is new, and as it is in a process that was forked."""
        self._changed = Condition()
        self._jobs: list[Job] = []
        self._thread: Thread | None = None
        self._owed = False  # a turn, to the oldest job

    def submit(self, *jobs: Job) -> None:
        """Raises Unloaded for a job in the background once the engine is closed."""
        with self._changed:
            if self._closed and any(job.background for job in jobs):
                raise Unloaded("the model is unloaded")
            if jobs and self._thread is None:
                _engines.add(self)
                thread = Thread(target=self._run, name="engine", daemon=True)
                thread.start()  # it waits for this lock; an error has changed nothing yet
                self._thread = thread
            self._jobs += jobs
            self._changed.notify_all()

    def events(self, job: Job, look_again: float | None = None) -> Generator[Any, None, None]:
        """Of a job that was submitted, as they come, and None where nothing came for `look_again`
        seconds. Raises its error. Closing the generator cancels it."""
        try:
            while True:
                try:
                    event = job.events.get(timeout=look_again)
                except Empty:
                    yield None
                    continue
                if isinstance(event, End):
                    break
                yield event
            if event.error is not None:
                raise event.error
        finally:
            self.cancel(job)

    def cancel(self, *jobs: Job) -> None:
        """They leave before the next call."""
        with self._changed:
            for job in jobs:
                job.left = True
            self._changed.notify_all()

    def run(self, function: Callable[[], T]) -> T:
        """What a function returns on the thread, when its turn comes."""

        def work() -> Generator[object, None, None]:
            yield (function(),)

        job = Job(work())
        self.submit(job)
        [(value,)] = self.events(job)
        return value

    def close(self) -> None:
        """Jobs in the background end with Unloaded, and no more of them are taken. The thread ends
        once the others are done; one that still comes gets another thread."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                if job.background and not job.left:
                    job.left = True
                    job.events.put(End(Unloaded("the model is unloaded")))
            self._changed.notify_all()

    def seconds_of(self, job: Job) -> float:
        """What was done for it so far, and what is being done, of which its events are a part."""
        seconds, since = job.worked
        return seconds + (0.0 if since is None else self._clock() - since)

    def stop(self) -> None:
        """Cancel everything, and wait until the thread has ended."""
        with self._changed:
            self.cancel(*self._jobs)
            self.close()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        with torch.no_grad(), self._context():
            while self._turn():
                pass

    def _turn(self) -> bool:
        """False where the thread is to end. It refers to no job while it waits for one."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._jobs or self._closed, self._idle)
            gone = [job for job in self._jobs if job.left]
            self._jobs = [job for job in self._jobs if not job.left]
            self._owed |= any(job.advanced is not None for job in gone)
            group = self._group()
            if last := not group and (self._closed or not came):
                self._thread = None
        for job in gone:
            job.work.close()
        for job in group:
            if job.advanced is None:
                self._timed([job], partial(self._advance, job))
        pausing = [job for job in group if job.call is None and not job.left]
        if pausing:
            longest = min(pausing, key=lambda job: job.advanced or 0.0)
            self._timed([longest], partial(self._advance, longest))
        if calling := [job for job in group if job.call is not None]:
            # one whose calls changed within this turn waits for its next
            calling = [job for job in calling if job.fits == calling[0].fits]
            self._timed(calling, partial(self._predict, calling))
        return not last

    def _group(self) -> list[Job]:
        """The job that comes first, and those that may share its calls."""
        jobs = [job for job in self._jobs if not job.background] or self._jobs
        if not jobs:
            return []
        others = sorted(jobs, key=lambda job: job.rank)
        first = jobs[0] if self._owed else others[0]
        self._owed = False
        group, share, rows = [first], first.share, first.rows
        most = self._most_rows.get(first.fits)
        begun = sum(job.advanced is not None for job in self._jobs)
        for job in others:
            smaller = min(share, job.share)
            room = len(group) < smaller and (most is None or rows + job.rows <= most)
            if job is not first and room and _joins(job, first):
                new = job.advanced is None
                if not new or begun < max(MOST_BEGUN, first.share):
                    group.append(job)
                    share, rows, begun = smaller, rows + job.rows, begun + new
        return group

    def _timed(self, jobs: Sequence[Job], work: Callable[[], object]) -> None:
        """What is done for jobs counts for each of them."""
        began = self._clock()
        for job in jobs:
            job.worked = (job.worked[0], began)
        work()
        ended = self._clock()
        for job in jobs:
            seconds = job.worked[0] + ended - began
            job.worked = (seconds, None)
            if job.most_seconds is not None and seconds > job.most_seconds and not job.left:
                self._end(
                    job,
                    RequestError(
                        f"the request was drawn for {seconds:.0f} seconds, and "
                        f"{job.most_seconds:g} is the limit: fewer pictures, steps or pixels "
                        "take less"
                    ),
                )

    def _advance(self, job: Job) -> None:
        """As far as its next call, or the next longer piece of work."""
        job.advanced = self._clock()
        error: BaseException | None = None
        try:
            for item in job.work:
                if isinstance(item, Call):
                    job.call = item
                    return
                if item is None:
                    return
                if isinstance(item, Fits):
                    job.fits = item.value
                    continue
                job.events.put(item)
        except BaseException as raised:  # its caller's, and no other's
            error = raised
        self._end(job, error)

    def _predict(self, jobs: Sequence[Job]) -> bool:
        """Answer the calls of jobs, in one. False where that failed."""
        calls = [job.call for job in jobs if job.call is not None]
        try:
            outputs = jobs[0].predict(calls)
        except Exception as error:
            if len(jobs) == 1:
                self._end(jobs[0], error)
                return False
            log.info("a shared call failed, its requests come one by one: %s", error)
            outputs = None
        if outputs is None:  # what the error held is free by now
            self._one_by_one(jobs)
            return False
        for job, call, output in zip(jobs, calls, outputs, strict=True):
            call.output, job.call = output, None
            self._advance(job)
        return True

    def _one_by_one(self, jobs: Sequence[Job]) -> None:
        """So that one that fails takes no other with it. Where none does, there was no memory for
        so many rows: from now on a call has at most half."""
        fits = jobs[0].fits  # of these calls: the next ones may be others
        if all([self._predict([job]) for job in jobs]):
            self._most_rows[fits] = sum(job.rows for job in jobs) // 2

    def _end(self, job: Job, error: BaseException | None = None) -> None:
        job.left, job.call = True, None
        job.events.put(End(error))


def _joins(job: Job, first: Job) -> bool:
    """True if a job may share the calls of the first: one with more rows would delay it."""
    own = job.owner is not None and job.owner is first.owner
    return job.fits == first.fits and (own or job.rows <= first.rows)


@contextmanager
def of_thread(device: torch.device, autocast: torch.dtype | None) -> Iterator[None]:
    """All that a thread has of its own, for the one that runs a model on a device."""
    torch.get_num_threads()  # a new thread takes as many as torch is set to from here on
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        if autocast is not None:
            stack.enter_context(torch.autocast(device.type, autocast))
        yield


_engines: WeakSet[Engine] = WeakSet()


def _begin_all() -> None:
    """A fork has neither the threads of its parent, nor those who would release their locks."""
    for engine in list(_engines):
        engine._begin()


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(after_in_child=_begin_all)


@atexit.register
def _stop_all() -> None:
    """A thread that is inside of torch while Python ends may bring the process down."""
    for engine in list(_engines):
        engine.stop()
