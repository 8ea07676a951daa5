"""Work for torch outside of the thread that runs a model, in a thread that ends with it.

Each thread that works in parallel keeps a team of OpenMP threads for as long as it lives. GNU's
OpenMP counts the threads of all teams: where they are more than the CPUs, none waits for its next
piece of work awake, but sleeps and is woken for each. A call of the built-in UNet took 72 ms on two
CPUs, and 41 without the sleeping team of the thread that had loaded it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch

T = TypeVar("T")


def in_own_thread(function: Callable[[], T]) -> T:
    """What a function returns, or raises, in a thread of its own and in this context. Modes of
    torch (`no_grad`, `autocast`) are a thread's, and do not come along; an interrupt waits for the
    end."""

    def work() -> T:
        torch.get_num_threads()  # a new thread takes as many as torch is set to from here on
        return function()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(copy_context().run, work).result()
