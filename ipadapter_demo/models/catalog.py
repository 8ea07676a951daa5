"""The named models and what is recommended for each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ipadapter_demo.assets import asset
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.few_step import FewStep
from ipadapter_demo.models.recommended import Recommended
from ipadapter_demo.models.sources import Hub

EDGES = ("canny", "lineart", "none")
COLOURS = ("palette", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureEntry:
    """A structure network: its folder, inside the model's or on the hub, its class, and the
    detectors that suit it. One on the hub is fetched when it is first asked for; there it may be
    one file without a configuration."""

    folder: str | Hub
    network: Literal["controlnet", "t2i-adapter"]
    annotators: tuple[str, ...]
    note: str = ""  # of a kind that its name does not explain


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraEntry:
    """A LoRA: its file, inside the model's folder or on the hub, from where it is fetched when it
    is first asked for, and the settings of one that was distilled to few steps."""

    file: str | Hub
    few_step: FewStep | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """A model at hand, in diffusers' folder layout: its image adapters, its structure networks.

    Paths without a root lie in `folder`. `adapters` maps the name that a request gives to a file;
    the first is what a request gets that names none. `folder` may be a single checkpoint file:
    then `configs` is a folder in diffusers' layout with configurations and tokenizers.
    """

    name: str
    folder: Path
    configs: Path | None = None
    image_encoder: str | None = "image_encoder"  # None: no image prompts
    # of adapters that read another one
    encoders: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=lambda: {"base": "ip-adapter.safetensors"})
    structures: dict[str, StructureEntry] = field(default_factory=dict)
    loras: dict[str, str | LoraEntry] = field(default_factory=dict)  # for requests to choose
    unet: str | None = None  # a file of weights in place of the folder's
    inpaint_adapter: str | None = None  # a T2I-Adapter that reads what is left around a mask
    recommended: Recommended = field(default_factory=Recommended)
    small: bool = False  # so that half precision gains nothing
    words: tuple[str, ...] = ()  # all that a small model knows, in the order in which it reads them
    note: str = ""

    @property
    def synonyms(self) -> tuple[str, ...]:
        """Other words for those of a small model that it reads as well: `synonyms.json` in its
        folder, {"sphere": ["ball", "orb"]}, where there is one."""
        file = self.folder / "synonyms.json"
        if not self.words or not file.is_file():
            return ()
        texts = " ".join(one for every in json.loads(file.read_bytes()).values() for one in every)
        return tuple(dict.fromkeys(re.findall(r"[^\W\d_]+", texts.lower())))

    @property
    def few_step_loras(self) -> dict[str, FewStep]:
        """The settings of those that were distilled, by name."""
        return {
            name: lora.few_step
            for name, lora in self.loras.items()
            if isinstance(lora, LoraEntry) and lora.few_step is not None
        }

    def live_lora(self, usual: Sequence[Lora]) -> str | None:
        """The first of them that is at hand: in the model's folder, or among those `usual`."""
        loaded = {lora.name for lora in usual if lora.weight > 0}
        for name in self.few_step_loras:
            lora = self.loras[name]
            if name in loaded or (isinstance(lora, LoraEntry) and isinstance(lora.file, str)):
                return name
        return None


TABLETOP = CatalogEntry(
    name="tabletop",
    folder=asset("assets/tabletop"),
    adapters={"base": "ip-adapter.safetensors", "plus": "ip-adapter-plus.safetensors"},
    structures={
        "canny": StructureEntry(folder="controlnet-canny", network="controlnet", annotators=EDGES),
        "palette": StructureEntry(folder="t2i-palette", network="t2i-adapter", annotators=COLOURS),
        "t2i-canny": StructureEntry(folder="t2i-canny", network="t2i-adapter", annotators=EDGES),
    },
    loras={
        "few-step": LoraEntry(
            file="lcm-lora.safetensors", few_step=FewStep(steps=4, sampler="lcm", live_steps=2)
        )
    },
    inpaint_adapter="t2i-inpaint",
    recommended=Recommended(
        text_image_scale=0.7,  # at 0.65 solids of the picture get lost, at 0.75 floors of the text
        map_image_scale=0.75,  # at 1 the picture's textures and the map's are mixed
        guidance=6.0,
        guidance_window=(0.0, 0.7),  # to 0.5 a variation loses a point
        steps=8,
        text_steps=12,  # with 8 a text loses 3 points of its floors to the picture
        paint_steps=6,  # 8 gain 0.1 points, and take a third longer
        paint_guidance=3.0,  # at 6 the part's wall and floor differ in tint from the rest
        repaint_passes=4,
        background_weight=1.0,  # at 0 what is drawn in a mask fits less at its edge
    ),
    small=True,
    words=(
        "red",
        "orange",
        "yellow",
        "green",
        "teal",
        "blue",
        "purple",
        "pink",
        "plain",
        "striped",
        "checkered",
        "dotted",
        "sphere",
        "cube",
        "cylinder",
        "cone",
        "floor",
        "wall",
    ),
    note="Built in: one or two solids on a table. Solids are named from left to right.",
)

CATALOG = {entry.name: entry for entry in (TABLETOP,)}
