"""The events of a generation: a Preview after every step, then one Result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ipadapter_demo.request import SAMPLERS, GenerateRequest, Sampler


@dataclass(frozen=True, slots=True)
class Preview:
    """`step` of `steps` is done. `images` is empty except on the steps that draw a preview."""

    step: int
    steps: int
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The pictures of a request. Image i came from seeds[i]; maps[j] belongs to structures[j].

    `request` is the one that was drawn; `warnings` say where that is not the one asked for.
    """

    images: tuple[Image.Image, ...]
    seeds: tuple[int, ...]
    request: GenerateRequest
    maps: tuple[Image.Image, ...]
    seconds: float
    provenance: dict[str, Any]  # model, weights and versions, for the PNG record
    warnings: tuple[str, ...] = ()  # what the person should know, e.g. that the prompt was cut
    # If recorded: for image i, how much each reference acted where, as "L" pictures
    attention_maps: tuple[tuple[Image.Image, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The facts about a model that a page or a command line needs, without touching it."""

    name: str
    native_size: int
    image_scale: float
    text_image_scale: float
    map_image_scale: float
    guidance: float
    steps: int
    paint_guidance: float  # recommended where a part of a picture is replaced, like the next
    repaint_passes: int
    context: float
    background_weight: float
    adapters: tuple[str, ...]  # what a request may name; the first where it names none
    structures: dict[str, tuple[str, ...]]  # kind -> detectors
    layer_presets: bool  # whether its layers are known by what they do
    words: tuple[str, ...]
    note: str

    def recommended_scale(self, words: bool = False, maps: bool = False) -> float:
        """λ for a picture alone, or for one that shares with a prompt or with maps."""
        if words:
            return self.text_image_scale
        return self.map_image_scale if maps else self.image_scale

    def recommended(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values for a request of these fields, where they leave them open: guidance, steps, λ,
        the sampler of an inpainting."""
        scale = self.recommended_scale(bool(given.get("prompt")), bool(given.get("structures")))
        if not given.get("inpaint"):
            return {"guidance": self.guidance, "steps": self.steps, "image_scale": scale}
        return {
            "guidance": self.paint_guidance,
            "steps": self.steps,
            "image_scale": scale,
            "sampler": self.paint_sampler,
        }

    @property
    def paint_sampler(self) -> Sampler:
        """Of inpainting: the one that takes steps again, where the model's repaint_passes do."""
        return "ddim" if self.repaint_passes > 1 else SAMPLERS[0]

    @property
    def inpainting(self) -> dict[str, Any]:
        """Values for an Inpaint that leaves them open."""
        return {
            "repaint_passes": self.repaint_passes,
            "context": self.context,
            "background_weight": self.background_weight,
        }

    def usual_annotator(self, kind: str) -> str:
        """The first detector that is offered for a kind of structure."""
        return self.structures.get(kind, ("none",))[0]
