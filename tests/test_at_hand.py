"""Nothing is fetched for a visitor unless the operator lets him have it fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipadapter_demo.cli.serve import prepared_by
from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.at_hand import check_at_hand, missing_of
from ipadapter_demo.models.listing import labels
from ipadapter_demo.models.sources import fetched, no_report
from ipadapter_demo.settings import Settings
from tests.test_sources import HUB, hub

__all__ = ["hub"]


def test_a_model_that_a_visitor_chooses_is_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    load = prepared_by(Settings(device="cpu"))
    with pytest.raises(
        ModelError, match=r"^sd15 is not downloaded here \(\d+ GB\)"
    ):
        load("sd15", no_report)
    assert not list(tmp_path.iterdir())
    assert labels(None, ("sd15",), fetches=False)["sd15"].startswith("sd15 (not downloaded, ")
    assert labels(None, ("sd15",), fetches=True)["sd15"].startswith("sd15 (fetches ")


def test_what_is_on_the_disk_is_at_hand(hub: str) -> None:
    assert missing_of([HUB], None) == [HUB]
    with pytest.raises(ModelError, match="something is not downloaded here"):
        check_at_hand("something", [HUB], None)
    fetched(HUB)
    check_at_hand("something", [HUB], None)
