"""The published models: a base, an image adapter and its encoder, and what is recommended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ipadapter_demo.models import unpinned
from ipadapter_demo.models.catalog import LoraEntry, StructureEntry
from ipadapter_demo.models.few_step import FewStep
from ipadapter_demo.models.few_step_files import (
    LIGHTNING,
    LIGHTNING_UNETS,
    SD15_LORAS,
    SDXL_LORAS,
    SDXL_TURBO,
    TURBO,
)
from ipadapter_demo.models.hub_files import (
    SD15,
    SD15_STRUCTURES,
    SDXL,
    SDXL_STRUCTURES,
    VIT_BIGG,
    VIT_H,
    adapter_at,
    composition,
)
from ipadapter_demo.models.recommended import Recommended
from ipadapter_demo.models.sources import Hub
from ipadapter_demo.models.unpinned import UNPINNED, UnpinnedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A model of the hub: its base, an image adapter and the encoder that adapter reads; and a UNet
    in place of the base's, which is then not fetched."""

    name: str
    base: Hub
    image_encoder: Hub
    adapter: Hub
    unet: Hub | None = None
    structures: dict[str, StructureEntry] = field(default_factory=dict)
    loras: dict[str, LoraEntry] = field(default_factory=dict)
    licence: str
    recommended: Recommended = field(default_factory=Recommended)
    note: str = ""

    @property
    def needed(self) -> tuple[Hub, ...]:
        """The files of a first picture; structure networks are fetched when they are asked for."""
        unet = () if self.unet is None else (self.unet,)
        return self.base, *unet, self.image_encoder, self.adapter


_SD = "CreativeML Open RAIL-M (base), Apache-2.0 (adapter)"
_XL = "CreativeML Open RAIL++-M (base), Apache-2.0 (adapter)"


def _sd15(
    name: str, files: Hub, note: str, encoder: Hub = VIT_H, image_scale: float = 1.0
) -> Published:
    return Published(
        name=name,
        base=SD15,
        adapter=files,
        image_encoder=encoder,
        structures=SD15_STRUCTURES | unpinned.SD15_STRUCTURES,
        loras=SD15_LORAS,
        licence=_SD,
        recommended=Recommended(image_scale=image_scale),
        note=f"Stable Diffusion 1.5 {note}",
    )


def _sdxl(
    name: str, files: Hub, note: str, encoder: Hub = VIT_H, image_scale: float = 1.0
) -> Published:
    return Published(
        name=name,
        base=SDXL,
        adapter=files,
        image_encoder=encoder,
        structures=SDXL_STRUCTURES | unpinned.SDXL_STRUCTURES,
        loras=SDXL_LORAS,
        licence=_XL,
        recommended=Recommended(image_scale=image_scale, guidance=5.0),
        note=f"SDXL {note}",
    )


def _unpinned(model: UnpinnedModel) -> Published:
    make = _sdxl if model.name.startswith("sdxl") else _sd15
    note = f"{model.note} {UNPINNED}"
    made = make(model.name, model.files, note, model.encoder, model.image_scale)
    base, _, _ = made.licence.partition(", ")
    return replace(made, licence=f"{base}, {model.licence}")


def _distilled(name: str, few_step: FewStep, note: str, **parts: Any) -> Published:
    """SDXL in few steps, with its first adapter. Its LoRAs would distil it once more."""
    return replace(
        _sdxl(name, _SDXL_ADAPTER, note),
        **parts,
        loras={},
        recommended=Recommended(**few_step.fields),
    )


def _without_unet(base: Hub, megabytes: int) -> Hub:
    """Its configuration stays."""
    weights = next(f for f in base.files if f.startswith("unet/") and f.endswith(".safetensors"))
    return replace(
        base,
        files=tuple(file for file in base.files if file != weights),
        sha256={file: sha256 for file, sha256 in base.sha256.items() if file != weights},
        megabytes=base.megabytes - megabytes,
    )


_SDXL_ADAPTER = adapter_at(
    "sdxl_models/ip-adapter_sdxl_vit-h.safetensors",
    698,
    "ebf05d918348aec7abb02a5e9ecef77e0aaea6914a5c4ea13f50d45eb1681831",
)

PUBLISHED = {
    model.name: model
    for model in (
        _sd15(
            "sd15",
            adapter_at(
                "models/ip-adapter_sd15.safetensors",
                45,
                "289b45f16d043d0bf542e45831f971dcdaabe18b656f11e86d9dfba7e9ee3369",
            ),
            "with 4 image tokens: the look and the gist of a picture.",
        ),
        _sd15(
            "sd15-light",
            adapter_at(
                "models/ip-adapter_sd15_light.safetensors",
                45,
                "0747d08db670535bfa286452a77d93cebad5c677b46d038543f9f2de8690bb26",
            ),
            "with 4 image tokens that leave more to the prompt.",
        ),
        _sd15(
            "sd15-light-v11",
            adapter_at(
                "models/ip-adapter_sd15_light_v11.bin",
                45,
                "350b63a57847c163e2e984b01090f85ffe60eaae20f32b2b2c9e1ccc7ddd972b",
            ),
            "with 4 image tokens that leave more to the prompt, second version.",
        ),
        _sd15(
            "sd15-vit-g",
            adapter_at(
                "models/ip-adapter_sd15_vit-G.safetensors",
                46,
                "a26f736af07bb341a83dfea23713531d0575760e8ed947c68cb31a4c62d9c90b",
            ),
            "with 4 image tokens from the larger encoder, ViT-bigG.",
            encoder=VIT_BIGG,
        ),
        _sd15(
            "sd15-plus",
            adapter_at(
                "models/ip-adapter-plus_sd15.safetensors",
                98,
                "a1c250be40455cc61a43da1201ec3f1edaea71214865fb47f57927e06cbe4996",
            ),
            "with 16 image tokens: closer to the picture, less free.",
            image_scale=0.9,
        ),
        _sd15(
            "sd15-plus-face",
            adapter_at(
                "models/ip-adapter-plus-face_sd15.safetensors",
                98,
                "1c9edc21af6f737dc1d6e0e734190e976cfacf802d6b024b77aa3be922f7569b",
            ),
            "for faces: give it a picture cropped to the face.",
            image_scale=0.8,
        ),
        _sd15(
            "sd15-full-face",
            adapter_at(
                "models/ip-adapter-full-face_sd15.safetensors",
                44,
                "f4a17fb643bf876235a45a0e87a49da2855be6584b28ca04c62a97ab5ff1c6f3",
            ),
            "for faces, with all 257 tokens of the encoder: give it a picture cropped to the face, "
            "the background removed.",
        ),
        _sd15(
            "sd15-composition",
            composition(
                "ip_plus_composition_sd15.safetensors",
                98,
                "4a02c9f4d2ade7c0e14db7471377ce5d326a2bfda7777231c79dc861c93f2c12",
            ),
            "for the composition of a picture, mostly without its style and content.",
        ),
        _sdxl(
            "sdxl",
            _SDXL_ADAPTER,
            "with 4 image tokens: the look and the gist of a picture.",
        ),
        _sdxl(
            "sdxl-bigg",
            adapter_at(
                "sdxl_models/ip-adapter_sdxl.safetensors",
                703,
                "ba1002529e783604c5f326d49f0122025392d1d20ac8d573b3eeb3e6dea4ebb6",
            ),
            "with 4 image tokens from the larger encoder, ViT-bigG.",
            encoder=VIT_BIGG,
        ),
        _sdxl(
            "sdxl-plus",
            adapter_at(
                "sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
                848,
                "3f5062b8400c94b7159665b21ba5c62acdcd7682262743d7f2aefedef00e6581",
            ),
            "with 16 image tokens: closer to the picture, less free.",
            image_scale=0.9,
        ),
        _sdxl(
            "sdxl-plus-face",
            adapter_at(
                "sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors",
                848,
                "677ad8860204f7d0bfba12d29e6c31ded9beefdf3e4bbd102518357d31a292c1",
            ),
            "for faces: give it a picture cropped to the face.",
            image_scale=0.8,
        ),
        _sdxl(
            "sdxl-composition",
            composition(
                "ip_plus_composition_sdxl.safetensors",
                848,
                "e92dc36cc273bac3200b2e41807ebdc174076185d95a45238558d4c236b6da74",
            ),
            "for the composition of a picture, mostly without its style and content.",
        ),
        *(
            _distilled(
                f"sdxl-lightning-{steps}",
                LIGHTNING[steps],
                f"Lightning, distilled to {steps} steps without guidance, with 4 image tokens.",
                base=_without_unet(SDXL, unet.megabytes),
                unet=unet,
            )
            for steps, unet in LIGHTNING_UNETS.items()
        ),
        _distilled(
            "sdxl-turbo",
            TURBO,
            "Turbo, distilled to 1 to 4 steps without guidance, for pictures of 512 x 512 pixels; "
            "with 4 image tokens.",
            base=SDXL_TURBO,
            licence="Stability AI Non-Commercial (base), Apache-2.0 (adapter)",
        ),
        *map(_unpinned, unpinned.MODELS),
    )
}
