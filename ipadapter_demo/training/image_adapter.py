"""Image adapter recipe (arXiv 2308.06721, section 4.1): frozen base, ε loss, AdamW.

Only the projection and one K', V' per cross-attention layer are trained, K' and V' starting as the
layer's own K and V. The image is dropped 5 %, the text 5 %, both 5 % of the time; a dropped image
is a zero embedding, for a Plus adapter the encoder's view of a blank picture.

Where the tabletop run differs from the paper: lr 1e-3 instead of 1e-4, for thousands of steps and
not a million; and captions are poor. Tabletop captions name nearly everything, so beside them image
tokens would have nothing left to say; web captions leave most of a picture unsaid.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from ipadapter_demo.adapter import (
    ImageAdapter,
    ImagePrompt,
    LinearProjection,
    Resampler,
    Variant,
    attach,
    load_image_adapter,
    save_image_adapter,
)
from ipadapter_demo.tabletop.caption import POOR
from ipadapter_demo.training.data import Pictures
from ipadapter_demo.training.latents import (
    Frozen,
    Noiser,
    captions,
    frozen_unet,
    image_embeds,
    save_samples,
    scaled_latents,
)
from ipadapter_demo.training.loop import Run, fit

DROP = 0.05  # image alone, text alone, both: each
FILES: dict[Variant, str] = {"base": "ip-adapter.safetensors",
                             "plus": "ip-adapter-plus.safetensors"}


def train_image_adapter(run: Run, pictures: Pictures, held_out: Pictures, out: Path,
                        variant: Variant = "base", small: bool = False,
                        start: Path | None = None) -> dict:
    """Train on `out/unet` and write `out/FILES[variant]` in the published layout.

    `small` is the stage on pictures of half the size, beside the base's own; `start` an adapter
    to go on from.
    """
    torch.manual_seed(run.seed)
    frozen = Frozen.load(out, run.device, with_image_encoder=True)
    assert frozen.image_encoder is not None
    unet = frozen_unet(out, run.device)
    encoder = frozen.image_encoder
    adapter = (ImageAdapter.for_unet(unet, new_projection(variant, unet, encoder))
               if start is None else load_image_adapter(start).float()).to(run.device)
    attach(unet, adapter)
    latents = scaled_latents(frozen.vae, pictures, run.folder.parent / "cache", 2 if small else 1)
    embeds = image_embeds(encoder, pictures, adapter)
    held_out_embeds = image_embeds(encoder, held_out[:16], adapter).to(run.device).float()
    empty = adapter.empty_embeds(1, encoder)
    noiser = Noiser(run.device)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        indices = torch.randint(len(latents), (batch,), generator=generator)
        draw = torch.rand(batch, generator=generator)
        no_image = (draw < DROP) | (draw > 1 - DROP)
        no_text = (draw >= DROP) & (draw < 2 * DROP) | (draw > 1 - DROP)
        texts = captions(pictures, indices, POOR, generator)
        texts = ["" if drop else text for text, drop in zip(texts, no_text.tolist(), strict=True)]
        images = embeds[indices].to(run.device).float()
        images[no_image.to(run.device)] = empty
        prompt = ImagePrompt(rows=slice(None), tokens=adapter.tokens_from_embeds(images), scale=1.0)
        noisy, noise, timesteps = noiser.noised(latents[indices], generator)
        predicted = unet(noisy, timesteps, frozen.text_states(texts, run.device),
                         cross_attention_kwargs={"ip_hidden_states": (prompt,)}).sample
        return (predicted.float() - noise).square().mean()

    def preview(path: Path) -> None:
        both = torch.cat([held_out_embeds, empty.expand_as(held_out_embeds)])
        tokens = adapter.tokens_from_embeds(both)
        prompt = ImagePrompt(rows=slice(None), tokens=tokens, scale=1.0)
        save_samples(unet, frozen, [""] * 16, path, latents.shape[-1], above=held_out[:16],
                     cross_attention_kwargs={"ip_hidden_states": (prompt,)})

    outcome = fit(run, adapter, loss_of, preview)
    save_image_adapter(adapter, out / FILES[variant], dtype=torch.float16)
    return asdict(outcome) | {"parameters": sum(p.numel() for p in adapter.parameters())}


def new_projection(variant: Variant, unet: UNet2DConditionModel,
                   encoder: CLIPVisionModelWithProjection) -> LinearProjection | Resampler:
    """Base: 4 tokens from the embedding. Plus: 16 from the patches, 4 blocks deep as the published
    ones are, with their heads of 64."""
    cross_dim = unet.config.cross_attention_dim
    if variant == "base":
        return LinearProjection(encoder.config.projection_dim, cross_dim)
    width = encoder.config.hidden_size
    return Resampler(width, cross_dim, width=width, heads=width // 64)
