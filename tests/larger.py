"""A second tiny model, that differs from the first in all that a preview shows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ipadapter_demo.models.catalog import CatalogEntry
from tests.tiny import seeded

SIDE, SEEN = 128, 24  # pixels of a result, and of what the encoder sees; of the first 64 and 16


def write_larger_model(entry: CatalogEntry, folder: Path) -> CatalogEntry:
    """`entry` once more as "other", with another native size, image encoder and structure."""
    shutil.copytree(entry.folder, folder)
    _change(folder / "unet/config.json", lambda config: config | {"sample_size": 32})
    config = CLIPVisionConfig.from_pretrained(folder / "image_encoder")
    config.image_size = SEEN
    with seeded(3):
        CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    size = {"height": SEEN, "width": SEEN}
    _change(
        folder / "feature_extractor/preprocessor_config.json",
        lambda config: config | {"size": {"shortest_edge": SEEN}, "crop_size": size},
    )
    return replace(
        entry,
        name="other",
        folder=folder,
        recommended=replace(entry.recommended, steps=4, guidance=4.0),
        structures={"palette": entry.structures["palette"]},
    )


def _change(path: Path, change: Any) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
