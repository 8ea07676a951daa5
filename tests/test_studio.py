"""Changing models: whoever asks for another gets it, the old one goes, a failure goes back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.sources import Report
from ipadapter_demo.pipeline import ImagePromptPipeline, Studio, load, prepare
from ipadapter_demo.request import GenerateRequest, Reference
from tests.tiny import picture

REQUEST = GenerateRequest(prompt="a", references=(Reference(image=picture(1)),), steps=2)
NAMES = {"other": "other (2 GB)", "broken": "broken"}


@pytest.fixture
def studio(entry: CatalogEntry) -> Studio:
    def prepared(name: str, report: Report) -> Callable[[], ImagePromptPipeline]:
        report("fetching", 0.5)
        if name == "broken":
            return lambda: load(replace(entry, folder=entry.folder / "nowhere"))
        return prepare(replace(entry, name=name))

    return Studio(load(entry), prepared, NAMES)


def pipelines_alive() -> int:
    gc.collect()
    return sum(type(thing) is ImagePromptPipeline for thing in gc.get_objects())


def test_ten_switches_leave_one_model(studio: Studio) -> None:
    before = pipelines_alive()
    first = weakref.ref(studio.pipeline._model.unet)
    for name in ["other", "tiny"] * 5:
        assert studio.with_model(name) is studio.pipeline
        assert studio.info.name == name
        studio.pipeline.generate(REQUEST)
    assert first() is None, "the model before must be gone"
    assert pipelines_alive() == before


def test_the_same_model_is_not_loaded_again(studio: Studio) -> None:
    assert studio.with_model("tiny") is studio.pipeline is studio.with_model("tiny")


def test_downloads_are_reported(studio: Studio) -> None:
    heard = []
    studio.with_model("other", lambda text, share: heard.append((text, share)))
    assert heard == [("fetching", 0.5)]


def test_a_model_that_cannot_be_read_leaves_the_one_before(studio: Studio) -> None:
    expected = np.asarray(studio.pipeline.generate(REQUEST).images[0])
    with pytest.raises(ModelError, match="no folder"):
        studio.with_model("broken")
    assert studio.info.name == "tiny"
    assert np.array_equal(np.asarray(studio.pipeline.generate(REQUEST).images[0]), expected)


def test_only_what_is_offered_can_be_chosen(studio: Studio, entry: CatalogEntry) -> None:
    with pytest.raises(RequestError, match="model must be one of tiny, other, broken, got 'sd0'"):
        studio.with_model("sd0")
    alone = Studio(load(entry))
    assert list(alone.models) == ["tiny"]
    with pytest.raises(RequestError, match="model must be one of tiny, got 'other'"):
        alone.with_model("other")
