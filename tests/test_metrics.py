"""Figures for Prometheus and the log as JSON: right, and without a word of what was asked for."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from benchmarks.ports import free_port
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.serving.logs import PACKAGE, log_requests
from ipadapter_demo.serving.metrics import serve_metrics
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch_options
from tests.tiny import picture

pytestmark = [
    # gradio counts its calls with options that pandas is about to drop.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

WORDS = "cerulean walrus"
REQUEST = GenerateRequest(prompt=WORDS, references=(Reference(image=picture(1)),), steps=3)


@contextmanager
def logging_to(as_json: bool) -> Iterator[io.StringIO]:
    stream, root, package = io.StringIO(), logging.getLogger(), logging.getLogger(PACKAGE)
    before = root.handlers[:], package.handlers[:], package.level
    log_requests(as_json, stream)
    yield stream
    root.handlers, package.handlers = before[:2]
    package.setLevel(before[2])


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    with logging_to(as_json=True) as stream:
        yield stream


@pytest.fixture
def manager(pipeline: ImagePromptPipeline) -> ModelManager:
    return ModelManager(pipeline)


@pytest.fixture
def metrics(manager: ModelManager, log: io.StringIO) -> Iterator[str]:
    """The address of its figures."""
    server = serve_metrics(manager, "127.0.0.1", port := free_port())
    yield f"http://127.0.0.1:{port}/metrics"
    server.shutdown()
    server.server_close()


def read(url: str) -> tuple[str, dict[str, float]]:
    """The page of figures, and what is in it by name and labels."""
    with urllib.request.urlopen(url, timeout=30) as response:
        text = response.read().decode()
    return text, {
        name: float(value) for name, value in re.findall(r"^([^#\s]\S*) (\S+)$", text, re.MULTILINE)
    }


def lines_of(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def broken_reader(pipeline: ImagePromptPipeline) -> None:
    """From now on a prompt makes the server fail, with the words in the error."""

    def states(text: str, *_: Any, **__: Any) -> None:
        raise ValueError(f"cannot read {text!r}")

    pipeline._conditioner.prompts.states = states  # type: ignore[assignment, method-assign]


def test_neither_the_log_nor_the_figures_repeat_a_prompt(
    manager: ModelManager, metrics: str, log: io.StringIO, tmp_path: Path
) -> None:
    """A visitor of the page who gets a picture, an answer to a wrong value, and a failure."""
    settings = Settings(port=free_port())
    page = build_ui(manager, settings)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options(settings))
    file = tmp_path / "reference.png"
    picture(1).save(file)
    asked: dict[str, Any] = {
        "prompt": WORDS, "reference": handle_file(file), "steps": 2, "api_name": "/image_text",
    }  # fmt: skip
    with closing(Client(url, verbose=False)) as client:
        client.predict(**asked)
        with pytest.raises(AppError, match=f"adapter must be .*{WORDS}"):
            client.predict(**asked | {"adapter": WORDS})
        broken_reader(manager.pipeline)
        with pytest.raises(AppError, match="went wrong"):
            client.predict(**asked | {"prompt": f"{WORDS} again"})
    page.close()
    text, figures = read(metrics)
    said = log.getvalue()
    for word in WORDS.split():
        assert word not in said
        assert word not in text
    assert figures['ipadapter_requests_total{model="tiny",outcome="drawn"}'] == 1
    assert figures['ipadapter_requests_total{model="tiny",outcome="failed"}'] == 1
    assert figures['ipadapter_errors_total{type="ValueError"}'] == 1
    [failed] = [line for line in lines_of(log) if line.get("outcome") == "failed"]
    [traced] = [line for line in lines_of(log) if line["level"] == "error"]
    assert traced["message"] == "a request failed"
    assert traced["errors"][0]["type"] == failed["error"] == "ValueError"
    assert f"request {failed['request']}" in traced["errors"][0]["notes"]
    assert any("test_metrics.py" in place for place in traced["errors"][0]["places"])


def test_every_end_of_a_request_is_counted(
    manager: ModelManager, metrics: str, log: io.StringIO
) -> None:
    pipeline = manager.pipeline
    pipeline.generate(replace(REQUEST, count=2))
    events = pipeline.stream(REQUEST)
    next(events)
    events.close()
    with pytest.raises(RequestError):
        pipeline.generate(replace(REQUEST, adapter="nonesuch"))
    manager.draw_in_background("tiny", [REQUEST, replace(REQUEST, adapter="nonesuch")])
    lines = lines_of(log)
    assert [line["outcome"] for line in lines] == [
        "drawn", "stopped", "refused", "drawn", "refused"
    ]  # fmt: skip
    assert len({line["request"] for line in lines}) == 5
    drawn, stopped, refused, cell, _ = lines
    assert (drawn["model"], drawn["pictures"], drawn["steps"]) == ("tiny", 2, 3)
    assert 0 < drawn["step_seconds"] * 3 <= drawn["seconds"] + 0.001
    assert stopped["steps"] == 1
    assert refused["error"] == "RequestError"
    assert cell["pictures"] == 1
    _, figures = read(metrics)
    of = 'ipadapter_requests_total{model="tiny",outcome="%s"}'
    assert [figures[of % end] for end in ("drawn", "stopped", "refused")] == [2, 1, 2]
    assert figures['ipadapter_pictures_total{model="tiny"}'] == 3
    assert figures['ipadapter_step_seconds_count{model="tiny"}'] == 2
    assert figures["process_resident_memory_bytes"] > 1e6
    assert not [name for name in figures if name.startswith("ipadapter_errors_total")]


def test_the_queue_is_seen_as_it_is(manager: ModelManager, metrics: str) -> None:
    def queue() -> list[float]:
        figures = read(metrics)[1]
        return [figures["ipadapter_working"], figures["ipadapter_waiting"]]

    assert queue() == [0, 0]
    with manager.turn("tiny"), manager.turn("tiny"), manager.turn("tiny"):
        assert queue() == [3, 0], "with one model they are at work together"
    assert queue() == [0, 0]


def test_without_json_the_log_has_warnings_and_errors_only(
    pipeline: ImagePromptPipeline,
) -> None:
    with logging_to(as_json=False) as stream:
        pipeline.generate(REQUEST)
        assert stream.getvalue() == ""
        logging.getLogger(f"{PACKAGE}.anything").warning("a cell is damaged: %s", 3)
    assert stream.getvalue() == "a cell is damaged: 3\n"


def test_what_another_library_filled_in_is_left_out(log: io.StringIO) -> None:
    other = logging.getLogger("another.library")
    other.warning("it reads %s", WORDS)
    other.warning(f"it reads {WORDS}")
    first, second = lines_of(log)
    assert first["message"] == "it reads %s"
    assert "message" not in second
    assert (second["logger"], second["level"]) == ("another.library", "warning")


def test_an_error_is_followed_to_where_it_came_from(log: io.StringIO) -> None:
    try:
        try:
            raise KeyError(WORDS)
        except KeyError as error:
            raise ValueError(WORDS) from error
    except ValueError:
        logging.getLogger(PACKAGE).exception("a request failed")
    [line] = lines_of(log)
    assert [error["type"] for error in line["errors"]] == ["ValueError", "KeyError"]
    assert WORDS not in json.dumps(line)


def test_a_port_that_is_taken_is_one_sentence(manager: ModelManager) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ModelError, match=f"metrics_port {port} on 127.0.0.1: Address already"):
            serve_metrics(manager, "127.0.0.1", port)
