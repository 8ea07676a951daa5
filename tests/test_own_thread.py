"""Where torch works outside of the engine: in threads that end, so that no team of theirs stays."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextvars import ContextVar
from typing import Any

import pytest
from PIL import Image

import ipadapter_demo as ip
from ipadapter_demo import pipeline as loading
from ipadapter_demo.errors import ModelError
from ipadapter_demo.models import memory
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.own_thread import in_own_thread
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline.conditioning import maps
from ipadapter_demo.request import Structure

visitor: ContextVar[str] = ContextVar("visitor")


def threads_of(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[threading.Thread]:
    """Those that call a function of a module from here on."""
    found, function = [], getattr(module, name)

    def called(*arguments: Any, **named: Any) -> Any:
        found.append(threading.current_thread())
        return function(*arguments, **named)

    monkeypatch.setattr(module, name, called)
    return found


def test_a_thread_ends_with_its_work() -> None:
    thread = in_own_thread(threading.current_thread)
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_its_error_and_its_context_are_the_caller_s() -> None:
    with pytest.raises(ZeroDivisionError):
        in_own_thread(lambda: 1 / 0)
    token = visitor.set("Ada")
    assert in_own_thread(visitor.get) == "Ada"
    visitor.reset(token)


def test_a_model_is_read_in_one(entry: CatalogEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = threads_of(monkeypatch, loading, "load_base_model")
    ip.load(entry, device="cpu", dtype="float32")
    assert [thread.is_alive() for thread in threads] == [False]


def test_a_model_for_a_gpu_is_read_in_the_caller_s(
    entry: CatalogEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeroGPU stands for a GPU by a function mode of torch, which is a thread's."""
    threads = []

    def read(*_: object) -> BaseModel:
        threads.append(threading.current_thread())
        raise ModelError("read")

    monkeypatch.setattr(loading, "load_base_model", read)
    with pytest.raises(ModelError, match="read"):
        ip.load(entry, device="meta", dtype="float32")
    assert threads == [threading.current_thread()]


def test_precision_is_measured_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = threads_of(monkeypatch, memory.timeit, "repeat")
    memory._bfloat16_is_faster.__wrapped__()
    assert [thread.is_alive() for thread in threads] == [False, False]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone lists a process's threads")
def test_it_takes_as_many_threads_as_torch_is_set_to() -> None:
    code = """
import os, torch
from ipadapter_demo.own_thread import in_own_thread
torch.set_num_threads(1)
pixels, weight = torch.ones(1, 16, 64, 64), torch.ones(16, 16, 3, 3)
def seen():
    before = len(os.listdir("/proc/self/task"))
    torch.nn.functional.conv2d(pixels, weight)
    return len(os.listdir("/proc/self/task")) - before
print(in_own_thread(seen))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "0"


def test_a_map_is_drawn_in_one(model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = threads_of(monkeypatch, maps, "annotate")
    kind = next(iter(model.entry.structures))
    given = Structure(kind=kind, image=Image.new("RGB", (64, 64), "white"), annotator="canny")
    ImagePromptPipeline(model).structure_map(given)
    assert [thread.is_alive() for thread in threads] == [False]
