"""The parts of a model as a pipeline of diffusers, for its loader of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipadapter_demo.models.parts import Parts

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def pipeline_of(parts: Parts) -> DiffusionPipeline:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    scheduler = DDIMScheduler.from_config(parts.scheduler_config)
    common = {
        "vae": parts.vae,
        "unet": parts.unet,
        "scheduler": scheduler,
        "text_encoder": parts.text_encoders[0],
        "tokenizer": parts.tokenizers[0],
    }
    if len(parts.text_encoders) > 1:
        return StableDiffusionXLPipeline(
            **common, text_encoder_2=parts.text_encoders[1], tokenizer_2=parts.tokenizers[1]
        )
    return StableDiffusionPipeline(
        **common, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
