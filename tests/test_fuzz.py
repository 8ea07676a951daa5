"""A small share of `make fuzz`, and the page of its figures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ports import free_port
from fuzz import crowd, inputs, wire
from fuzz.kills import TESTS
from fuzz.page import FIGURES, PAGE, written_into
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch_options

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),  # of damaged files
]


@pytest.fixture(scope="module")
def manager(model: BaseModel) -> ModelManager:
    return ModelManager(ImagePromptPipeline(model))


@pytest.fixture(scope="module")
def client(manager: ModelManager) -> Iterator[wire.Client]:
    settings = Settings(port=free_port())
    page = build_ui(manager, settings)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options(settings))
    client = wire.Client(url)
    yield client
    client.http.close()
    page.close()


@pytest.mark.parametrize("kind", inputs.KINDS)
def test_changed_files_are_read_or_refused_in_words(kind: str, manager: ModelManager) -> None:
    found = inputs.fuzzed(kind, manager, 150, number=1)
    assert found["failures"] == {}
    assert found["files"] >= 150
    assert found["read"]
    assert found["refused"]
    assert found["read_outside"] == 0


def test_a_failure_is_counted(manager: ModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: inputs.Checks, content: bytes) -> None:
        raise ZeroDivisionError("as if")

    monkeypatch.setattr(inputs.Checks, "record", broken)
    assert list(inputs.fuzzed("records", manager, 5)["failures"]) == ["ZeroDivisionError: as if"]


def test_changed_files_over_http(client: wire.Client, capfd: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checks = inputs.Checks(None, Path(folder))  # it reads nothing
        found = wire.files_over_http(client, checks, 40, number=2)
    assert found["failures"] == {}
    assert found["requests"] >= 40
    assert "Traceback" not in capfd.readouterr().err


def test_wrong_types_over_http(client: wire.Client, capfd: Any, caplog: Any) -> None:
    """Some of each event's."""
    found = wire.wrong_types(client, every=97)
    assert found["failures"] == {}
    assert found["requests"] > 40
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_a_model_of_a_wrong_type_is_refused_in_words(client: wire.Client) -> None:
    """gradio refuses what is no choice, but for an empty list."""
    answer = client.call_event(client.event("switch"), [[], client.model])
    assert "model must be one of tiny, got []" in answer


@pytest.mark.parametrize("visit", dict.fromkeys(crowd.MIXED))
def test_every_visit_of_the_crowd_is_answered(visit: crowd.Visit, client: wire.Client) -> None:
    answer = visit(client)
    assert answer.startswith("error" if visit is crowd.refused else "complete"), answer


def test_what_should_not_be_answered_is_a_failure() -> None:
    told = wire.Told()
    for answer in ("refused 500: x", "nothing: ", f"error: {wire.UNSEEN}", "error: null"):
        told.add(answer, answer)
    for answer in ("refused 422: x", "refused 503: Queue is full", "error: no", "complete: 1"):
        told.add(answer, answer)
    assert len(told.figures()["failures"]) == 4


def test_the_tests_that_kill_are_there() -> None:
    for test in TESTS.values():
        file, _, name = test.partition("::")
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(encoding="utf-8")


def test_the_page_is_the_figures() -> None:
    figures = json.loads(FIGURES.read_text())
    assert PAGE.read_text(encoding="utf-8") == written_into(PAGE, figures)
    for part in ("http", "types", "clients", "soak", "storms"):
        one = figures[part]
        assert not one["crashed"]
        assert (one["tracebacks"], one["read_outside"], one["failures"]) == (0, 0, {})
    for one in figures["files"].values():
        if isinstance(one, dict):
            assert (one["failures"], one["read_outside"]) == ({}, 0)
    assert set(figures["kills"]["drew_again"]) == {"complete"}
    assert set(figures["kills"]["tests"].values()) == {"whole"}


def test_what_the_server_holds_stays_as_it_is() -> None:
    """From the tenth of a soak on, when all is loaded, and after storms."""
    figures = json.loads(FIGURES.read_text())
    first, _, last = figures["soak"]["held"]
    assert last["megabytes"] < 1.05 * first["megabytes"]
    assert abs(last["files"] - first["files"]) <= 8
    assert abs(last["threads"] - first["threads"]) <= 8
    before, after = figures["storms"]["held"]
    assert after["files"] - before["files"] <= 8
