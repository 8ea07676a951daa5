"""The events of a generation: a Preview after every step, then one Result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from ipadapter_demo.json_values import Json
from ipadapter_demo.layer_presets import LayerPreset
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.few_step import FewStep
from ipadapter_demo.models.recommended import Recommended, fitting
from ipadapter_demo.models.shelf import LoraFolder, VaeFolder
from ipadapter_demo.request import GenerateRequest


@dataclass(frozen=True, slots=True)
class Preview:
    """`step` of `steps` is done. `images` is empty except on the steps that draw a preview. It was
    worked at for `seconds`: waiting does not count."""

    step: int
    steps: int
    images: tuple[Image.Image, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class AttentionTiles:
    """What a reference does in one image: maps side by side in an "L" picture, a row for each layer
    and a column for each step in which it acts."""

    image: Image.Image
    layers: int
    steps: int


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
    provenance: dict[str, Json]  # model, weights and versions, for the PNG record
    warnings: tuple[str, ...] = ()  # what the person should know, e.g. that the prompt was cut
    # If recorded: for image i, how much each reference acted where, as "L" pictures
    attention_maps: tuple[tuple[Image.Image, ...], ...] = ()
    attention_tiles: tuple[tuple[AttentionTiles, ...], ...] = ()  # the same by layer and step


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as a page or a command line knows it, without its weights."""

    name: str
    native_size: int
    recommended: Recommended
    adapters: tuple[str, ...]  # what a request may name; the first where it names none
    face_adapters: tuple[str, ...] = field(default=(), kw_only=True)  # which read faces
    structures: dict[str, tuple[str, ...]]  # kind -> detectors
    structure_notes: dict[str, str] = field(default_factory=dict, kw_only=True)  # by kind
    # by kind/detector: what their first use fetches, or why it cannot, in words behind a name
    structure_costs: dict[str, str] = field(default_factory=dict, kw_only=True)
    loras: dict[str, float]  # by name, with their weights in a request that names none
    lora_folder: LoraFolder | None = field(default=None, kw_only=True)  # with others
    vae_folder: VaeFolder | None = field(default=None, kw_only=True)
    few_step_loras: dict[str, FewStep] = field(default_factory=dict, kw_only=True)
    # of image_layers, and the factor of λ in each transformer of the UNet: see models/layers.py
    layer_presets: Mapping[LayerPreset, tuple[float, ...]]
    second_prompt: bool = field(default=False, kw_only=True)  # for a second text encoder
    words: tuple[str, ...]
    synonyms: tuple[str, ...] = field(default=(), kw_only=True)  # of them, read as well
    note: str
    live: str | None = None  # the LoRA for few steps that is at hand

    @property
    def lora_names(self) -> list[str]:
        """Of all that a request may name just now."""
        there = self.lora_folder.files() if self.lora_folder else {}
        return list(self.loras | dict.fromkeys(there, 0.0))

    @property
    def vae_names(self) -> list[str]:
        """Of those beside the model's own that a request may name just now."""
        return list(self.vae_folder.places()) if self.vae_folder else []

    @property
    def usual_loras(self) -> tuple[Lora, ...]:
        """Those of a request that names none."""
        return tuple(Lora(name=name, weight=w) for name, w in self.loras.items() if w)

    def few_step_of(self, loras: Iterable[Lora]) -> FewStep | None:
        """The settings for these LoRAs, where one of them was distilled to few steps."""
        known = self.few_step_loras
        found = (known[lora.name] for lora in loras if lora.name in known and lora.weight > 0)
        return next(found, None)

    def fields_beside(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The recommended fields of a request that belong to those `given`, its LoRAs included."""
        found = self.recommended.fields_beside(given)
        chosen = given.get("loras")
        few = self.few_step_of(self.usual_loras if chosen is None else chosen)
        return fitting(found | few.fields, given) if few else found

    def in_few_steps(self, request: GenerateRequest) -> GenerateRequest:
        """The same request as Live draws it: in one pass, with the LoRA of `live`, which the model
        has to have."""
        assert self.live is not None
        few = self.few_step_loras[self.live]
        loras = self.usual_loras if request.loras is None else request.loras
        others = tuple(lora for lora in loras if lora.name not in self.few_step_loras)
        return replace(
            request,
            loras=(*others, Lora(name=self.live)),
            guidance_rescale=0.0,
            guidance_window=(0.0, 1.0),
            upscale=None,
            **few.fields | {"steps": few.live_steps or few.steps},
        )

    def usual_annotator(self, kind: str) -> str:
        """The first detector that is offered for a kind of structure."""
        return self.structures.get(kind, ("none",))[0]
