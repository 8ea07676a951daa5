"""Models on offer, and files that visitors may have fetched: none, unless the operator says so."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from ipadapter_demo.cli.serve import prepared_by
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.listing import labels
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.sources import Hub, no_report
from ipadapter_demo.pipeline import load
from ipadapter_demo.request import GenerateRequest, Structure
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.serving.ray import Scale
from ipadapter_demo.serving.ray import prepared_by as replicas_prepared_by
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui.widgets.slots import structure_choices
from tests.shelf import models, offline, shelf
from tests.tiny import picture

__all__ = ["models", "offline", "shelf"]  # fixtures
ON_THE_SHELF = ("sd15",)


def test_those_on_offer_are_shown_with_what_is_missing(shelf: Path) -> None:
    offered = labels(str(shelf), ("tabletop", "sd15", "sd15-plus", "sdxl"), fetches=False)
    assert offered == {
        "tabletop": "tabletop (built in)",
        "sd15": "sd15",
        "sd15-plus": "sd15-plus (not downloaded, 98 MB)",  # its base and encoder are there
        "sdxl": "sdxl (not downloaded, 8 GB)",
    }
    assert labels(str(shelf), ("sdxl",))["sdxl"] == "sdxl (fetches 8 GB, once)"
    assert len(labels(None)) > len(offered), "all, where none is named"


def test_a_name_that_is_no_model_s_is_said_with_those_that_are() -> None:
    with pytest.raises(ModelError, match=r"models must be names of tabletop, sd15, .*got 'sd16'"):
        labels(None, ("tabletop", "sd16"))


@pytest.mark.parametrize("downloads", [False, True])
def test_a_visitor_has_nothing_fetched_unless_the_operator_lets_him(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, downloads: bool
) -> None:
    """The hub is not even asked."""
    asked: list[object] = []
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: asked.append(1) or _refuse())
    prepare = prepared_by(
        Settings(models_dir=str(shelf), device="cpu", visitor_downloads=downloads)
    )
    assert prepare("sd15", no_report)().info.name == "sd15", "what is at hand is loaded"
    said = (
        "could not be fetched" if downloads else r"sdxl is not downloaded here \(8 GB\), and this"
    )
    with pytest.raises(ModelError, match=said):
        prepare("sdxl", no_report)
    assert bool(asked) is downloads


def test_replicas_fetch_nothing_for_visitors_either(shelf: Path) -> None:
    settings = Settings(models_dir=str(shelf), device="cpu", ray=True)
    prepare = replicas_prepared_by(settings, Scale(), joined=True)
    with pytest.raises(ModelError, match=r"sdxl is not downloaded here \(8 GB\), and this"):
        prepare("sdxl", no_report)
    for allowed in (False, True):
        settings = replace(settings, visitor_downloads=allowed)
        for name in ("tabletop", "sd15", *(["sdxl"] if allowed else [])):
            start: Any = replicas_prepared_by(settings, Scale(), True)(name, no_report)
            _, options, _ = start.args
            assert options.fetch_later is allowed, name


def test_the_operator_s_own_model_is_fetched_in_any_case(shelf: Path) -> None:
    prepare = prepared_by(Settings(model="sdxl", models_dir=str(shelf), device="cpu"))
    with pytest.raises(ModelError, match="could not be fetched"):
        prepare("sdxl", no_report)


def _refuse() -> None:
    raise ConnectionError("no network")


def test_what_a_request_asks_for_is_not_fetched_either(shelf: Path) -> None:
    prepare = prepared_by(Settings(models_dir=str(shelf), device="cpu"))
    pipeline = prepare("sd15", no_report)()
    edges = Structure(kind="canny", image=picture(1), annotator="none")
    with pytest.raises(ModelError, match=r"canny is not downloaded here .723 MB., and this server"):
        pipeline.generate(GenerateRequest(steps=1, structures=(edges,), width=64, height=64))
    lines = Structure(kind="canny", image=picture(1), annotator="canny")
    assert pipeline.structure_map(lines) is not None, "a detector without weights is at hand"
    [lora, *_] = pipeline.info.loras
    with pytest.raises(ModelError, match="is not downloaded here"):
        pipeline.generate(GenerateRequest(steps=1, loras=(Lora(name=lora),)))


@pytest.mark.parametrize(
    ("downloads", "said"), [(True, "fetches {}, once"), (False, "not downloaded, {}")]
)
def test_a_kind_of_map_says_what_its_network_and_detector_still_need(
    models: Path, downloads: bool, said: str
) -> None:
    """A network that is at hand, and a detector without weights, cost nothing."""
    canny = PUBLISHED["sd15"].structures["canny"].folder
    assert isinstance(canny, Hub)
    for file in canny.paths:
        (models / canny.repo / file).parent.mkdir(parents=True, exist_ok=True)
        (models / canny.repo / file).touch()
    options = LoadOptions(device="cpu", models_dir=models, fetch_later=downloads)
    labels = {choice: label for label, choice in structure_choices(load("sd15", options).info)}
    assert labels["canny/canny"] == "Canny"
    assert labels["depth/none"].endswith(f" ({said.format('723 MB')})")
    assert labels["depth/depth"].endswith(f" ({said.format('1 GB')})"), "both"


def test_a_restored_picture_or_a_call_names_only_what_is_offered(shelf: Path) -> None:
    manager = ModelManager(
        load("tabletop", device="cpu"),
        prepared_by(Settings(models_dir=str(shelf), device="cpu")),
        labels(str(shelf), ("sd15", "sdxl"), fetches=False),
    )
    assert list(manager.models) == ["tabletop", "sd15", "sdxl"], "the operator's own is one of them"
    with pytest.raises(RequestError, match="model must be one of tabletop, sd15, sdxl"):
        manager.with_model("sd15-plus")
    with pytest.raises(ModelError, match="sdxl is not downloaded here"):
        manager.with_model("sdxl")
    assert manager.info.name == "tabletop"


def test_the_limits_are_written_down_with_what_they_are_by_themselves() -> None:
    text = (Path(__file__).parent.parent / "docs/limits.md").read_text(encoding="utf-8")
    rows = dict(
        re.findall(r"^\| `--([\w-]+)` \| .* \| ([\d,]+|all|off)\b.* \|$", text, re.MULTILINE)
    )
    default = {field.name.replace("_", "-"): field.default for field in fields(Settings)}
    words = {"": "all", False: "off"}
    assert set(rows) >= {"max-cost", "time-limit", "visitor-requests", "models", "queue-size"}
    for name, said in rows.items():
        value = default[name]
        assert said == words.get(value, f"{value:,}" if isinstance(value, int) else value)
