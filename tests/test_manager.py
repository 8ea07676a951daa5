"""Changing models: whoever asks for another gets it, the old one goes, a failure goes back."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import UNet2DConditionModel

from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.sources import Report
from ipadapter_demo.pipeline import ImagePromptPipeline, Result, load, prepare
from ipadapter_demo.request import GenerateRequest, Reference, Structure
from ipadapter_demo.serving import ModelManager
from tests.larger import SEEN, SIDE, write_larger_model
from tests.tiny import picture

REQUEST = GenerateRequest(prompt="a", references=(Reference(image=picture(1)),), steps=2)
NAMES = {"other": "other (2 GB)", "broken": "broken"}


@pytest.fixture
def manager(entry: CatalogEntry) -> ModelManager:
    def prepared(name: str, report: Report) -> Callable[[], ImagePromptPipeline]:
        report("fetching", 0.5)
        if name == "broken":
            return lambda: load(replace(entry, folder=entry.folder / "nowhere"))
        return prepare(replace(entry, name=name))

    return ModelManager(load(entry), prepared, NAMES)


def models_alive() -> int:
    gc.collect()
    return sum(type(thing) is UNet2DConditionModel for thing in gc.get_objects())


def test_ten_switches_leave_one_model(manager: ModelManager) -> None:
    before = models_alive()
    first = weakref.ref(manager.pipeline._model.unet)
    for name in ["other", "tiny"] * 5:
        assert manager.with_model(name) is manager.pipeline
        assert manager.info.name == name
        manager.pipeline.generate(REQUEST)
    assert first() is None, "the model before must be gone"
    assert models_alive() == before


def test_the_same_model_is_not_loaded_again(manager: ModelManager) -> None:
    assert manager.with_model("tiny") is manager.pipeline is manager.with_model("tiny")


def test_downloads_are_reported(manager: ModelManager) -> None:
    heard = []
    manager.with_model("other", lambda text, share: heard.append((text, share)))
    assert heard == [("fetching", 0.5)]


def test_a_model_that_cannot_be_read_leaves_the_one_before(manager: ModelManager) -> None:
    expected = np.asarray(manager.pipeline.generate(REQUEST).images[0])
    with pytest.raises(ModelError, match="no folder"):
        manager.with_model("broken")
    assert manager.info.name == "tiny"
    assert np.array_equal(np.asarray(manager.pipeline.generate(REQUEST).images[0]), expected)


def test_only_what_is_offered_can_be_chosen(manager: ModelManager, entry: CatalogEntry) -> None:
    with pytest.raises(RequestError, match="model must be one of tiny, other, broken, got 'sd0'"):
        manager.with_model("sd0")
    alone = ModelManager(load(entry))
    assert list(alone.models) == ["tiny"]
    with pytest.raises(RequestError, match="model must be one of tiny, got 'other'"):
        alone.with_model("other")


# What a page shows of a model that is not loaded


@pytest.fixture
def two(entry: CatalogEntry, tmp_path: Path) -> ModelManager:
    """Two models with different sizes and structures."""
    other = write_larger_model(entry, tmp_path / "other")
    return ModelManager(
        load(entry),
        lambda name, report: prepare(entry if name == "tiny" else other),
        {"other": "other"},
    )


def test_previews_are_those_of_the_model_that_is_asked_for(two: ModelManager) -> None:
    reference = Reference(image=picture(1, 60, 40))
    colours = Structure(kind="palette", annotator="palette", image=picture(3, 200, 200))
    first = two.previews("tiny")
    assert first is not None
    assert two.previews("other") is None, "nothing is loaded only to look"
    assert two.info_of("other") is None
    expected = two.pipeline.encoder_view(reference), two.pipeline.structure_map(colours)
    two.with_model("other")
    second = two.previews("other")
    assert second is not None
    assert (first.encoder_view(reference), first.structure_map(colours)) == expected
    assert [first.structure_map(colours).size, second.structure_map(colours).size] == [
        (64, 64),
        (SIDE, SIDE),
    ]
    assert [first.encoder_view(reference).size, second.encoder_view(reference).size] == [
        (16, 16),
        (SEEN, SEEN),
    ]
    assert first.working_size(REQUEST) == (64, 64)
    edges = Structure(kind="canny", image=picture(3))
    assert first.structure_map(edges) is not None
    with pytest.raises(RequestError, match=r"structure\.kind must be one of those of other"):
        second.structure_map(edges)
    infos = two.info_of("tiny"), two.info_of("other")
    assert [info and (info.recommended.steps, info.native_size) for info in infos] == [
        (3, 64),
        (4, SIDE),
    ]
    with pytest.raises(RequestError, match="model must be one of tiny, other, got 'sd0'"):
        two.previews("sd0")


def test_previews_hold_no_weights(two: ModelManager) -> None:
    gone = weakref.ref(two.pipeline._model.unet), weakref.ref(two.pipeline._model.image_encoder)
    two.with_model("other")
    gc.collect()
    assert two.previews("tiny") is not None
    assert [network() for network in gone] == [None, None]


# Who comes first


def test_visitors_draw_one_after_the_other(two: ModelManager) -> None:
    """Each with the model of his page, in the order in which they came."""
    order: list[str] = []
    all_there = threading.Event()

    def visitor(name: str) -> None:
        with two.acquire(name) as pipeline:
            assert all_there.wait(30)
            assert two.info.name == name
            pipeline.generate(REQUEST)
            assert two.info.name == name
            order.append(name)

    names = ["tiny", "other", "tiny", "other", "other"]
    threads = []
    for count, name in enumerate(names):
        threads.append(threading.Thread(target=visitor, args=(name,)))
        threads[-1].start()
        while len(two.line.turns) <= count:
            time.sleep(0.001)
    all_there.set()
    for thread in threads:
        thread.join(60)
    assert order == names


def test_no_comparison_changes_the_model_while_somebody_draws(two: ModelManager) -> None:
    changed = threading.Event()

    def compare() -> None:
        two.with_model("other")
        changed.set()

    with two.acquire("tiny") as pipeline:
        thread = threading.Thread(target=compare)
        thread.start()
        for _ in pipeline.stream(replace(REQUEST, steps=20)):
            assert two.info.name == "tiny"
        assert not changed.is_set()
    assert changed.wait(30)
    assert two.info.name == "other"


def test_only_whoever_is_first_gets_the_model(two: ModelManager) -> None:
    with two.turn("tiny"), two.turn("tiny") as second, pytest.raises(AssertionError):
        two.at_turn(second)


def test_as_many_as_share_calls_are_at_work_at_once(entry: CatalogEntry, tmp_path: Path) -> None:
    other = write_larger_model(entry, tmp_path / "other")
    manager = ModelManager(
        load(entry, share_steps=2),
        lambda name, report: prepare(entry if name == "tiny" else other),
        {"other": "other"},
    )
    with manager.turn("tiny") as one, manager.turn("tiny") as two:
        assert manager.at_turn(one) is manager.at_turn(two) is manager.pipeline
        with manager.turn("other") as third:
            assert third.ahead == 1
            with pytest.raises(AssertionError):
                manager.at_turn(third)
    with manager.acquire("other"):
        assert manager.info.name == "other"


# Comparisons


def begun(manager: ModelManager, name: str, request: GenerateRequest) -> tuple[Any, list[Any]]:
    """A thread that draws in the background, once it has begun to."""
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.extend(manager.draw_in_background(name, [request]))
    )
    thread.start()
    deadline = time.monotonic() + 60
    while not manager._comparing:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return thread, results


def test_a_comparison_lets_its_model_go_and_begins_again(two: ModelManager) -> None:
    """Nothing of the model is left in memory while the other is there."""
    long = replace(REQUEST, steps=60)
    network = weakref.ref(two.pipeline._model.unet)
    thread, results = begun(two, "tiny", long)
    with two.acquire("other") as pipeline:
        gc.collect()
        assert network() is None
        assert not results
        pipeline.generate(REQUEST)
    thread.join(60)
    assert two.info.name == "tiny"
    assert results[0].images == two.pipeline.generate(long).images


def test_comparisons_with_two_models_come_one_after_the_other(two: ModelManager) -> None:
    """Neither takes the other's model away."""
    thread, results = begun(two, "tiny", replace(REQUEST, steps=30))
    [other] = two.draw_in_background("other", [REQUEST])
    assert isinstance(other, Result)
    assert results, "the first was there first"
    thread.join(60)
    assert two.info.name == "other"
    assert other.images == two.pipeline.generate(REQUEST).images


def test_a_cell_that_fails_is_said_and_the_others_are_drawn(two: ModelManager) -> None:
    requests = [REQUEST, replace(REQUEST, adapter="nonesuch"), replace(REQUEST, seed=2)]
    first, broken, last = two.draw_in_background("tiny", requests)
    assert isinstance(broken, RequestError)
    for found, request in ((first, requests[0]), (last, requests[2])):
        assert isinstance(found, Result)
        assert found.images == two.pipeline.generate(request).images


def test_who_comes_while_a_model_is_fetched_for_a_comparison_keeps_his(entry: CatalogEntry) -> None:
    fetching, go = threading.Event(), threading.Event()

    def prepared(name: str, report: Report) -> Callable[[], ImagePromptPipeline]:
        if name == "other":
            fetching.set()
            assert go.wait(60)
        return prepare(replace(entry, name=name))

    manager = ModelManager(load(entry), prepared, NAMES)
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.extend(manager.draw_in_background("other", [REQUEST]))
    )
    thread.start()
    assert fetching.wait(60)
    with manager.turn("tiny") as turn:
        pipeline = manager.at_turn(turn)
        go.set()
        for _ in pipeline.stream(replace(REQUEST, steps=20)):
            assert manager.pipeline is pipeline
        assert not results
    thread.join(60)
    assert isinstance(results[0], Result)
    assert manager.info.name == "other"
