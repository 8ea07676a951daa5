"""The finished example that the page opens on: of the shipped model, and shown with no other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from ipadapter_demo.imaging import read_image
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.weight_hashes import recorded_hashes
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.record import record_from_png
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import model_input
from ipadapter_demo.ui.tabs import TABS
from ipadapter_demo.ui.widgets.opening import FOLDER, REFERENCE, opening

PICTURES = sorted(FOLDER.glob("*.png"))
MAX_BYTES = 300_000


def shipped(**changed: Any) -> Any:
    """What `opening` reads of a manager."""
    provenance = {"model": "tabletop", "weights": recorded_hashes(TABLETOP.folder)} | changed
    info = SimpleNamespace(name=provenance["model"])
    return SimpleNamespace(pipeline=SimpleNamespace(provenance=provenance), info=info)


def test_it_was_drawn_with_the_weights_and_the_settings_that_are_shipped() -> None:
    """Else draw it again: the command stands in widgets/opening.py."""
    assert len(PICTURES) == 4
    assert sum(path.stat().st_size for path in PICTURES) <= MAX_BYTES
    hashes = recorded_hashes(TABLETOP.folder)
    for index, path in enumerate(PICTURES):
        record = record_from_png(path)
        assert record.provenance["model"] == "tabletop"
        assert record.provenance["weights"].items() <= hashes.items()  # type: ignore[union-attr]
        request, usual = record.request, TABLETOP.recommended
        [reference] = request.references
        assert reference.image == read_image(REFERENCE).convert("RGB")
        assert (request.steps, request.guidance) == (usual.steps, usual.guidance)
        assert request.guidance_window == usual.guidance_window
        assert (request.image_scale, request.sampler) == (usual.image_scale, usual.sampler)
        assert (record.index, request.count, TABS["variation"].makes(request)) == (index, 4, True)


def test_it_is_shown_with_the_model_that_drew_it_and_no_other(
    pipeline: ImagePromptPipeline,
) -> None:
    found = opening(shipped())
    assert found is not None
    assert found.pictures == PICTURES
    assert "4 variations: drawn by tabletop, 8 steps" in found.sentence
    weights = recorded_hashes(TABLETOP.folder)
    assert opening(shipped(weights=weights | {"own.safetensors": "0"})) is not None
    for changed in (
        {"model": "other"},
        {"weights": {**weights, "unet/diffusion_pytorch_model.safetensors": "0"}},
    ):
        assert opening(shipped(**changed)) is None
    assert opening(ModelManager(pipeline)) is None


@pytest.mark.parametrize(
    ("name", "files", "cleared"),
    [
        ("other", ["0.png", "3.png"], True),
        ("tabletop", ["0.png"], False),
        ("other", ["ip-adapter-7.png"], False),
        ("other", [], False),
    ],
)
def test_it_goes_with_its_model_and_results_stay(
    pipeline: ImagePromptPipeline,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    files: list[str],
    cleared: bool,
) -> None:
    monkeypatch.setattr("ipadapter_demo.ui.tabs.variation.opening", lambda _: opening(shipped()))
    manager = ModelManager(pipeline)
    with gr.Blocks() as page:
        _, results, _ = TABS["variation"].layout(manager, model_input(manager))
    assert [Path(str(item["image"]["path"])).name for item in results.gallery.value] == [
        path.name for path in PICTURES
    ]
    [shown] = [f for f in page.fns.values() if getattr(f.fn, "__name__", "") == "shown"]
    gallery = [{"image": {"path": f"/tmp/{name}"}} for name in files] or None
    updates = shown.fn(gallery, name)
    assert (results.gallery in updates) == cleared
    assert not cleared or updates[results.gallery] is None
