"""What stays in memory of the comparisons that visitors may go on with."""

from __future__ import annotations

import gc
import inspect
import json
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from benchmarks.ports import free_port
from ipadapter_demo.compare import Job, Plan, spec_from_document
from ipadapter_demo.compare.kept import MOST, Kept, pictures_size, size_of
from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch
from ipadapter_demo.ui.tabs.compare import results
from tests.test_ui import Api, png
from tests.tiny import picture

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
LET_GO = "his comparison is not kept any more, to make room for those of others"


def job_of(pipeline: ImagePromptPipeline, folder: Path) -> Job:
    document = {
        "columns": {"image_scale": [0, 1]},
        "request": {"steps": 1, "references": [{"image": "a.png"}]},
    }
    spec = spec_from_document(document, lambda _: png(picture(1)))
    return Job(Plan(spec, ModelManager(pipeline)), folder)


def test_a_picture_counts_once_and_decoded(pipeline: Any, tmp_path: Path) -> None:
    job = job_of(pipeline, tmp_path)
    assert pictures_size(job.plan.grid) == 64 * 64 * 3
    assert size_of(job) == 64 * 64 * 3 + len(png(picture(1)))


def test_whose_work_ended_first_is_let_go_first_and_none_at_work(
    pipeline: Any, tmp_path: Path
) -> None:
    first, second, third = (job_of(pipeline, tmp_path / name) for name in "abc")
    kept = Kept(int(2.5 * size_of(first)))
    with kept.at_work(first):
        with kept.at_work(second):
            pass
        with kept.at_work(third):
            assert (first.is_kept, second.is_kept, third.is_kept) == (True, False, True)
    with kept.at_work(job_of(pipeline, tmp_path / "d")):
        assert (first.is_kept, third.is_kept) == (True, False)
    with pytest.raises(RequestError, match=f"^t{LET_GO}.*; Compare draws it again$"):
        third.finished()


def test_one_that_is_too_large_goes_when_its_work_ends(pipeline: Any, tmp_path: Path) -> None:
    job = job_of(pipeline, tmp_path)
    with Kept(1).at_work(job):
        assert job.is_kept
    assert not job.is_kept


def test_none_is_kept_alive(pipeline: Any, tmp_path: Path) -> None:
    kept = Kept()
    job = job_of(pipeline, tmp_path)
    with kept.at_work(job):
        pass
    gone = weakref.ref(job)
    del job
    gc.collect()
    assert gone() is None


@pytest.fixture
def page(pipeline: Any) -> Iterator[tuple[gr.Blocks, Api]]:
    settings = Settings(port=free_port())
    page = build_ui(pipeline, settings)
    launch(page, settings)
    api = Api(f"http://127.0.0.1:{settings.port}/")
    yield page, api
    api.http.close()
    page.close()


def asked(page: gr.Blocks, api: Api, name: str, session: str, **given: Any) -> dict[str, Any]:
    """The last that a handler of the page says to a program without a heartbeat."""
    [called] = [f for f in page.fns.values() if getattr(f.fn, "__name__", "") == name]
    names = list(inspect.signature(called.fn).parameters)
    data = [given.get(name, one.value) for name, one in zip(names, called.inputs, strict=True)]
    body = {"fn_index": called._id, "data": data, "session_hash": session}
    api.http.post("queue/join", json=body).raise_for_status()
    said = api.http.get("queue/data", params={"session_hash": session}).text
    return json.loads(re.findall(r"^data: (.*process_completed.*)$", said, re.MULTILINE)[-1])


def test_a_visitor_whose_comparison_was_let_go_is_told(
    page: tuple[gr.Blocks, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = "columns: {seed: [1, 2]}\nrequest: {steps: 1, references: [{image: a.png}]}"
    pictures = [{"image": page[1].upload(png(picture(1)), "a.png"), "caption": None}]
    assert results.KEPT._most == MOST
    monkeypatch.setattr(results, "KEPT", Kept(20_000))  # one has 13,000
    for session in ("first", "second"):
        done = asked(*page, "compared", session, written=written, pictures=pictures)
        assert done["success"], done
    again = {"cell": "p1-r1-c1", "seed": 5}
    assert asked(*page, "redrawn", "second", **again)["success"]
    told = asked(*page, "redrawn", "first", **again)
    assert not told["success"]
    assert told["output"]["error"].startswith(f"t{LET_GO}")
    done = asked(*page, "compared", "first", written=written, pictures=pictures)
    assert done["success"], "and can draw it again"
