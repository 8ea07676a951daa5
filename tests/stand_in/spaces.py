"""In the place of the package `spaces`, as ZeroGPU runs it: what is decorated is called in a
process forked from this one, which stays for the next call. What goes in and out is pickled.

Beside what the page does with it: `asked` are the seconds of each call, `workers` the processes.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
from collections.abc import Callable
from functools import partial, wraps
from multiprocessing.process import BaseProcess
from typing import Any

FORK = multiprocessing.get_context("fork")
asked: list[int | None] = []
workers: list[BaseProcess] = []
END = "end"


def GPU(task: Callable[..., Any] | None = None, *, duration: Any = None) -> Any:
    if task is None:
        return partial(GPU, duration=duration)
    connections: list[Any] = []  # of the worker that is free

    def events(*args: Any, **kwargs: Any) -> Any:
        asked.append(duration(*args, **kwargs) if callable(duration) else duration)
        connection = connections.pop() if connections else _worker(task)
        connection.send((args, kwargs))
        try:
            while (said := connection.recv())[0] != END:
                kind, value = said
                if kind == "error":
                    raise RuntimeError(value)
                yield value
                connection.send("go on")
        except GeneratorExit:
            connection.send("stop")
            connection.recv()
            raise
        finally:
            connections.append(connection)

    @wraps(task)
    def one(*args: Any, **kwargs: Any) -> Any:
        return list(events(*args, **kwargs))[-1]

    return wraps(task)(events) if inspect.isgeneratorfunction(task) else one


def _worker(task: Callable[..., Any]) -> Any:
    here, there = FORK.Pipe()
    process = FORK.Process(target=_work, args=(there, task), daemon=True)
    process.start()
    workers.append(process)
    return here


def _work(connection: Any, task: Callable[..., Any]) -> None:
    parent = os.getppid()
    while True:
        while not connection.poll(0.2):
            if os.getppid() != parent:  # the server has ended
                return
        args, kwargs = connection.recv()
        try:
            result = task(*args, **kwargs)
            if not inspect.isgenerator(result):
                result = iter([result])
            for value in result:
                connection.send(("value", value))
                if connection.recv() == "stop":
                    result.close()
                    break
        except Exception as error:  # ZeroGPU tells the name of its class alone
            connection.send(("error", f"ZeroGPU worker error: {type(error).__name__}"))
            continue
        connection.send((END, os.getpid()))
