"""Tiny models of the real classes, random but the same every time, for tests of any layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ipadapter_demo.adapter import ImageAdapter, LinearProjection, Resampler

CROSS_DIM = 24
EMBED_DIM = 20  # projected image embedding
VISION_WIDTH = 16  # hidden states of the vision encoder
TEXT_TOKENS = 6


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` without disturbing the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny_unet(seed: int = 0, **overrides: Any) -> UNet2DConditionModel:
    """7 cross-attention layers: 2 down, 4 up, 1 mid, of widths that tell the order apart."""
    config: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": CROSS_DIM,
        "attention_head_dim": 2,  # diffusers means the number of heads here
        "norm_num_groups": 4,
    }
    with seeded(seed):
        return UNet2DConditionModel(**{**config, **overrides}).eval().requires_grad_(False)


def tiny_adapter(
    unet: UNet2DConditionModel, variant: str = "base", seed: int = 1, depth: int = 4
) -> ImageAdapter:
    """An adapter with every weight random, norms and biases too, so that each one matters."""
    cross_dim = unet.config.cross_attention_dim
    with seeded(seed):
        projection = (
            LinearProjection(EMBED_DIM, cross_dim)
            if variant == "base"
            else Resampler(VISION_WIDTH, cross_dim, 5, width=64, depth=depth, heads=2)
        )
        adapter = ImageAdapter.for_unet(unet, projection)
        randomise(adapter)
    return adapter


def randomise(module: nn.Module) -> None:
    """Move every parameter away from its initial value; biases of zero hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


def tiny_vision_encoder(seed: int = 2) -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=EMBED_DIM,
    )
    with seeded(seed):
        return CLIPVisionModelWithProjection(config).eval().requires_grad_(False)


def tiny_image_processor() -> CLIPImageProcessor:
    size = {"height": 16, "width": 16}
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size)


def tiny_tokenizer() -> CLIPTokenizer:
    """Single letters: enough to tell prompts apart."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def tiny_text_encoder(seed: int = 3, cross_dim: int = CROSS_DIM) -> CLIPTextModel:
    tokenizer = tiny_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=cross_dim,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=EMBED_DIM,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with seeded(seed):
        return CLIPTextModel(config).eval().requires_grad_(False)


def tiny_vae(seed: int = 4) -> AutoencoderTiny:
    """Factor 4, 4 latent channels."""
    with seeded(seed):
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
            latent_channels=4,
        )
    return vae.eval().requires_grad_(False)


def tiny_pipeline(unet: UNet2DConditionModel | None = None) -> StableDiffusionPipeline:
    """diffusers' own pipeline over the tiny parts: the oracle for whole images."""
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(),
        tokenizer=tiny_tokenizer(),
        unet=unet if unet is not None else tiny_unet(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=tiny_image_processor(),
        image_encoder=tiny_vision_encoder(),
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
