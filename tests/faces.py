"""FaceID in small: adapters in the published layouts, and embeddings of faces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

import ipadapter_demo as ip
from ipadapter_demo.adapter import (
    FacePlusProjection,
    FaceProjection,
    ImageAdapter,
    save_image_adapter,
)
from tests.tiny import VISION_WIDTH, noise, randomise, seeded

RECOGNISER = "cd" * 32
RANK = 2
# file -> tokens; those of Plus read the encoder's states too
FACE_FILES = {
    "ip-adapter-faceid_sd15.bin": 4,
    "ip-adapter-faceid-portrait_sd15.bin": 16,
    "ip-adapter-faceid-plus_sd15.bin": 4,
    "ip-adapter-faceid-plusv2_sd15.bin": 4,
}


def face_adapter(unet: UNet2DConditionModel, file: str) -> ImageAdapter:
    """Every weight random; with the LoRA of all attention layers, but for Portrait."""
    cross_dim = unet.config.cross_attention_dim
    with seeded(7):
        projection: FaceProjection | FacePlusProjection = (
            # diffusers reads Plus files of depth 4, 4 tokens and an inner width of 1024
            FacePlusProjection(
                VISION_WIDTH,
                cross_dim,
                inner=1024,
                width=cross_dim,
                heads=2,
                shortcut="plusv2" in file,
            )
            if "plus" in file
            else FaceProjection(512, cross_dim, FACE_FILES.get(file, 4), inner=1024)
        )
        adapter = ImageAdapter.for_unet(unet, projection)
        randomise(adapter)
    if "portrait" not in file:
        adapter.lora = face_lora(unet)
    return adapter


def face_lora(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    lora = {}
    for number, name in enumerate(unet.attn_processors):
        attn: Any = unet.get_submodule(name.removesuffix(".processor"))
        layers = {"to_q": attn.to_q, "to_k": attn.to_k, "to_v": attn.to_v, "to_out": attn.to_out[0]}
        for place, (kind, layer) in enumerate(layers.items()):
            seed = 100 * number + place
            key = f"ip_adapter.{number}.{kind}_lora"
            lora[f"{key}.down.weight"] = 0.2 * noise(seed, RANK, layer.in_features)
            lora[f"{key}.up.weight"] = 0.2 * noise(seed + 50, layer.out_features, RANK)
    return lora


def write_face_adapter(folder: Path, unet: UNet2DConditionModel, file: str) -> Path:
    path = folder / file
    save_image_adapter(face_adapter(unet, file), path)
    return path


def face_embeds(*seeds: int) -> ip.ImageEmbeds:
    """Of length 1, as InsightFace's are."""
    rows = torch.stack([noise(seed, 512) for seed in seeds])
    values = torch.nn.functional.normalize(rows, dim=-1).numpy()
    return ip.ImageEmbeds.of(values, encoder=RECOGNISER, adapter="face", fit="face")
