"""Drawing on ZeroGPU, where a call runs in a forked process, by a stand-in that really forks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from gradio_client import Client, handle_file
from PIL import Image, ImageChops

from benchmarks.ports import free_port
from ipadapter_demo.cli.serve import serve
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.pipeline import ImagePromptPipeline, Preview, Result
from ipadapter_demo.request import GenerateRequest, Reference, Structure
from ipadapter_demo.serving.zero_gpu import START, ZeroGPUPipeline
from ipadapter_demo.settings import Settings
from tests.stand_in import spaces
from tests.tiny import picture

ROOT = Path(__file__).parent.parent


@pytest.fixture
def lent(pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A pipeline on ZeroGPU. One picture was drawn here before: the engine has its thread."""
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    lent = ZeroGPUPipeline(pipeline)
    ImagePromptPipeline.image_embeds(lent, [picture(1)])
    begun = len(spaces.workers)
    spaces.asked.clear()
    yield lent
    for worker in spaces.workers[begun:]:
        worker.kill()
        worker.join()


def asked(seed: int = 1, **fields: Any) -> GenerateRequest:
    values = {"steps": 3, "guidance": 2.0, "seed": seed} | fields
    return GenerateRequest(references=(Reference(image=picture(seed)),), **values)


def same(a: Image.Image, b: Image.Image) -> bool:
    return ImageChops.difference(a, b).getbbox() is None


def test_a_request_streams_from_a_fork_with_the_same_picture(
    lent: Any, pipeline: ImagePromptPipeline
) -> None:
    events = list(lent.stream(asked(), preview_every=2))
    assert [event.step for event in events[:-1]] == [1, 2, 3]
    assert [len(event.images) for event in events[:-1]] == [0, 1, 0]
    drawn = pipeline.generate(asked())
    assert same(events[-1].images[0], drawn.images[0])
    assert events[-1].provenance == drawn.provenance
    assert spaces.workers[-1].pid != os.getpid()


def test_a_worker_that_has_drawn_and_a_new_one_draw_the_same(
    lent: Any, pipeline: ImagePromptPipeline
) -> None:
    """Law 3: nothing depends on what an earlier call has set."""
    before = len(spaces.workers)
    used = [lent.generate(asked(seed)) for seed in (1, 2, 1)]
    assert len(spaces.workers) == before + 1
    new = ZeroGPUPipeline(pipeline).generate(asked(1))
    assert len(spaces.workers) == before + 2
    assert same(used[0].images[0], used[2].images[0])
    assert same(new.images[0], used[2].images[0])
    assert not same(used[1].images[0], used[2].images[0])


def test_two_at_once_have_a_worker_each(lent: Any, pipeline: ImagePromptPipeline) -> None:
    before = len(spaces.workers)
    first, second = lent.stream(asked(1)), lent.stream(asked(2))
    assert isinstance(next(first), Preview)
    assert isinstance(next(second), Preview)
    (*_, a), (*_, b) = first, second
    assert len(spaces.workers) == before + 2
    assert same(a.images[0], pipeline.generate(asked(1)).images[0])
    assert same(b.images[0], pipeline.generate(asked(2)).images[0])


def test_errors_say_what_they_say_elsewhere(lent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="adapter must be one of"):
        lent.generate(asked(adapter="none"))
    structure = Structure(kind="nothing", image=picture(1))
    with pytest.raises(RequestError, match="structure"):
        lent.generate(asked(structures=(structure,)))
    assert isinstance(lent.generate(asked()), Result)  # the worker goes on


def test_stop_reaches_the_worker(lent: Any) -> None:
    events = lent.stream(asked(steps=50))
    assert [event.step for event in islice(events, 2)] == [1, 2]
    events.close()
    assert isinstance(lent.generate(asked()), Result)


def test_a_comparison_draws_in_workers_too(lent: Any, pipeline: ImagePromptPipeline) -> None:
    wrong = asked(adapter="none")
    outcomes = list(lent.outcomes([asked(1), wrong, asked(2)], background=True))
    assert isinstance(outcomes[1], RequestError)
    assert same(outcomes[2].images[0], pipeline.generate(asked(2)).images[0])
    images = [picture(1), picture(2)]
    torch.testing.assert_close(lent.image_embeds(images), pipeline.image_embeds(images))


def test_the_time_that_is_asked_for_follows_the_request(lent: Any) -> None:
    """In proportion to rows and pixels."""

    def seconds(**fields: Any) -> int:
        return lent.seconds(asked(**{"width": 1024, "height": 1024, "steps": 100} | fields))

    one = seconds() - START
    assert seconds(count=4) - START == pytest.approx(4 * one, abs=4)
    assert seconds(steps=200) - START == pytest.approx(2 * one, abs=4)
    assert seconds(guidance=1.0) - START == pytest.approx(one / 2, abs=4)
    assert seconds(height=512) - START == pytest.approx(one / 2, abs=4)
    lent.generate(asked())
    assert spaces.asked == [lent.seconds(asked())]


def test_no_frame_of_live_takes_a_gpu(pipeline: ImagePromptPipeline, lent: Any) -> None:
    assert lent.info == replace(pipeline.info, live=None)


def test_compiling_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    with pytest.raises(ModelError, match="compile is not possible on ZeroGPU"):
        serve(Settings(compile=True))


@pytest.mark.slow
def test_the_page_on_zero_gpu(tmp_path: Path) -> None:
    """The whole program, as a Space starts it."""
    port, log = free_port(), tmp_path / "log"
    paths = os.pathsep.join([str(ROOT / "tests/stand_in"), str(ROOT)])
    variables = {"SPACES_ZERO_GPU": "true", "PYTHONPATH": paths, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "app.py", "--device", "cpu", "--port", str(port)]
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | variables, stdout=output, stderr=output
        )
    try:
        client = until_it_answers(f"http://127.0.0.1:{port}/", server, log)
        for steps in (2, 3):
            [made], *_ = client.predict(
                reference=handle_file(ROOT / "assets/examples/red-sphere.png"),
                steps=steps,
                count=1,
                seed=7,
                api_name="/variation",
            )
            with Image.open(made) as image:
                assert image.size == (128, 128)
        client.close()
    finally:
        server.terminate()
        server.wait()


def until_it_answers(url: str, server: Any, log: Path) -> Client:
    while server.poll() is None:
        try:
            return Client(url, verbose=False)
        except Exception:
            continue
    raise AssertionError(log.read_text())
