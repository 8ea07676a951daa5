"""One tiny model for the whole session: frozen, like any other, so tests cannot disturb it."""

from __future__ import annotations

import pytest
import torch

from ipadapter_demo.models.base_model import BaseModel, load_base_model
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.pipeline import ImagePromptPipeline
from tests.tiny import write_tiny_model

# Tiny models gain nothing from a second thread, and on a busy machine they would wait for it.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def entry(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    """A model folder in the layout of `assets/tabletop`."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def model(entry: CatalogEntry) -> BaseModel:
    return load_base_model(entry, "cpu", torch.float32)


@pytest.fixture
def pipeline(model: BaseModel) -> ImagePromptPipeline:
    """The session's model with caches of its own."""
    return ImagePromptPipeline(model)
