"""Fixtures of published models in small, as people have them on disk; a test module imports those
that it wants, and names the models as ON_THE_SHELF."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.published import write_published


@pytest.fixture(scope="module")
def shelf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of ON_THE_SHELF, below one folder. Not to be changed."""
    models = tmp_path_factory.mktemp("models")
    for name in request.module.ON_THE_SHELF:
        write_published(models, name)
    return models


@pytest.fixture
def models(shelf: Path, tmp_path: Path) -> Path:
    """The same, to be changed and damaged."""
    shutil.copytree(shelf, tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may reach for the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
