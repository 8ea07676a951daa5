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

from ipadapter_demo.compare import Plan, spec_from_document
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.sources import Report
from ipadapter_demo.pipeline import ImagePromptPipeline, Result, load, prepare
from ipadapter_demo.request import GenerateRequest, Reference, Structure
from ipadapter_demo.serving import Limits, ModelManager, Visitor
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
    assert two.info_of([]) is None  # as a program may send it
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


def test_visitors_draw_each_with_the_model_of_his_page(two: ModelManager) -> None:
    """Those of one model together, the models in the order in which they were asked for."""
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
    assert order == ["tiny", "tiny", "other", "other", "other"]


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


def test_only_whoever_is_at_work_gets_the_model(two: ModelManager) -> None:
    with two.turn("tiny") as first, two.turn("tiny") as second, two.turn("other") as third:
        assert two.at_turn(first) is two.at_turn(second) is two.pipeline
        assert third.ahead == 2
        with pytest.raises(AssertionError):
            two.at_turn(third)
    with two.acquire("other"):
        assert two.info.name == "other"


# What visitors may ask for


def test_a_request_that_costs_too_much_is_refused_in_words(entry: CatalogEntry) -> None:
    limited = ModelManager(load(entry), limits=Limits(max_cost=500))
    request = replace(REQUEST, count=4, steps=20, guidance=2.0, width=128, height=128)
    with pytest.raises(
        RequestError,
        match=r"costs 776 calls of the model at 64x64 pixels, and 500 is the limit here "
        r"\(max_cost\): count 4 x 45\.1 calls each \(steps 20, guidance 2, references 1\) x "
        r"4\.30 for 128x128 pixels",
    ):
        limited.cost("tiny", [request])
    assert limited.cost("tiny", [replace(request, count=1)]) < 500
    with pytest.raises(RequestError, match=r"7 pictures x count 1 x"):
        limited.cost("tiny", [replace(request, count=1)] * 7)
    assert ModelManager(load(entry)).cost("tiny", [request] * 100) > 500, "none is set"


def test_a_comparison_has_no_cell_that_costs_too_much(entry: CatalogEntry) -> None:
    limited = ModelManager(load(entry), limits=Limits(max_cost=100))
    spec = {"columns": {"steps": [2, 200]}, "request": {"prompt": "a", "guidance": 2.0}}
    with pytest.raises(RequestError, match="100 is the limit here"):
        Plan(spec_from_document(spec, lambda name: b""), limited)


def test_of_a_model_that_is_not_known_yet_it_is_said_once_it_is(entry: CatalogEntry) -> None:
    def prepared(name: str, report: Report) -> Callable[[], ImagePromptPipeline]:
        return prepare(replace(entry, name=name))

    limited = ModelManager(load(entry), prepared, NAMES, limits=Limits(max_cost=100))
    dear = replace(REQUEST, steps=200)
    assert limited.cost("other", [dear]) == 1.0
    limited.with_model("other")
    with pytest.raises(RequestError, match="100 is the limit here"):
        limited.cost("other", [dear])


def test_a_visitor_has_as_many_requests_as_the_operator_lets_him(entry: CatalogEntry) -> None:
    """Comparisons count as well."""
    limited = ModelManager(load(entry), limits=Limits(visitor_requests=2))
    one = Visitor("one", "192.0.2.1")
    with limited.turn("tiny", one), limited.comparison(one):
        with pytest.raises(RequestError, match="you have 2 requests"), limited.turn("tiny", one):
            pass
        with limited.turn("tiny", Visitor("two", "192.0.2.1")):
            pass


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


def test_what_is_drawn_in_the_background_has_a_time_limit_as_well(entry: CatalogEntry) -> None:
    """In place of a picture that is drawn for longer comes an error, and the next one is drawn."""
    limited = ModelManager(load(entry), limits=Limits(time_limit=1))
    requests = [replace(REQUEST, steps=200, count=8, width=512, height=512), REQUEST]
    long, short = limited.draw_in_background("tiny", requests)
    assert isinstance(long, RequestError)
    assert "1 is the limit" in str(long)
    assert isinstance(short, Result)


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


def test_who_leaves_a_comparison_is_dropped_before_the_next_step(two: ModelManager) -> None:
    calls: list[int] = []
    hook = two.pipeline._model.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    work = two.background("tiny", [replace(REQUEST, steps=100)], look_again=0.5)
    next(work)
    work.close()
    before = len(calls)
    two.pipeline.generate(REQUEST)
    hook.remove()
    assert before < 50
    assert len(calls) <= before + 3
    assert not two._comparing
