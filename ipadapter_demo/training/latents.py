"""What the frozen parts make of the training pictures, and the noise recipes put on it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torchvision.utils import save_image
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from ipadapter_demo.adapter import ImageAdapter
from ipadapter_demo.tabletop.caption import CaptionStyle, caption
from ipadapter_demo.training.data import Pictures
from ipadapter_demo.training.encoders import clip_pixels, tokens_of

# Stable Diffusion's schedule; "trailing" spacing starts sampling at the noisiest step, which few
# steps need (arXiv 2305.08891, section 3.3).
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000}
MIN_SNR_GAMMA = 5.0  # arXiv 2303.09556

UnetArguments = Callable[[Tensor, Tensor], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Frozen:
    """The trained parts that later recipes stand on."""

    vae: AutoencoderTiny
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    image_encoder: CLIPVisionModelWithProjection | None = None

    @classmethod
    def load(cls, folder: Path, device: str, with_image_encoder: bool) -> Frozen:
        def ready(model: torch.nn.Module) -> torch.nn.Module:
            return model.float().to(device).eval().requires_grad_(False)

        return cls(
            ready(AutoencoderTiny.from_pretrained(folder / "vae")),
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            ready(CLIPTextModel.from_pretrained(folder / "text_encoder")),
            ready(CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder"))
            if with_image_encoder else None,
        )

    @torch.no_grad()
    def text_states(self, texts: list[str], device: str) -> Tensor:
        return self.text_encoder(**tokens_of(self.tokenizer, texts, device))[0]

    @torch.no_grad()
    def pixels(self, latents: Tensor) -> Tensor:
        """(B, 4, h, w) scaled latents -> (B, 3, 4 h, 4 w) in [-1, 1]."""
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample.clamp(-1, 1)


def frozen_unet(folder: Path, device: str) -> UNet2DConditionModel:
    """The finished base, for recipes that train something beside it."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").float().requires_grad_(False)
    unet.set_attn_processor(AttnProcessor())  # as in the base recipe
    return unet.to(device, memory_format=torch.channels_last)


@torch.no_grad()
def scaled_latents(vae: AutoencoderTiny, pictures: Pictures, cache: Path,
                   shrink: int = 1) -> Tensor:
    """(N, 4, h, w) half-precision latents of every picture, reduced `shrink` times first."""
    path = cache / f"latents-{len(pictures)}-{shrink}.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    parts = []
    for indices in torch.arange(len(pictures)).split(64):
        pixels = pictures.pixels(indices).to(vae.device)
        if shrink > 1:
            pixels = F.avg_pool2d(pixels, shrink)
        with torch.autocast(vae.device.type, torch.bfloat16):
            latents = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latents
        parts.append((latents.float() * vae.config.scaling_factor).half().cpu())
    latents = torch.cat(parts)
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(latents, path)
    return latents


@torch.no_grad()
def image_embeds(encoder: CLIPVisionModelWithProjection, pictures: Pictures,
                 adapter: ImageAdapter | None = None) -> Tensor:
    """(N, embed_dim) embedding of every picture; or, in half precision since it is large, what
    `adapter` reads of it."""
    parts = []
    for indices in torch.arange(len(pictures)).split(64):
        pixels = clip_pixels(pictures.pixels(indices)).to(encoder.device)
        parts.append(encoder(pixels).image_embeds.float().cpu() if adapter is None
                     else adapter.embeds_from_clip_pixels(pixels, encoder).half().cpu())
    return torch.cat(parts)


def captions(pictures: Pictures, indices: Tensor, style: CaptionStyle,
             generator: torch.Generator) -> list[str]:
    rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    return [caption(pictures.scenes, i, style, rng) for i in indices.tolist()]


class Noiser:
    """x_t and the weight of its loss for the ε objective."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod.to(device)

    def noised(self, latents: Tensor, generator: torch.Generator,
               timesteps: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(noisy latents, noise, timesteps (B,)) on the device, channels last."""
        batch = len(latents)
        if timesteps is None:
            timesteps = torch.randint(len(self.alphas), (batch,), generator=generator)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        timesteps = timesteps.to(self.device)
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents.float().to(self.device) + (1 - alpha).sqrt() * noise
        return noisy.contiguous(memory_format=torch.channels_last), noise, timesteps

    def min_snr_weights(self, timesteps: Tensor) -> Tensor:
        snr = self.alphas[timesteps] / (1 - self.alphas[timesteps])
        return (snr.clamp(max=MIN_SNR_GAMMA) / snr).view(-1, 1, 1, 1)


@torch.no_grad()
def sample_latents(unet: UNet2DConditionModel, noise: Tensor, arguments: UnetArguments,
                   guidance: float = 4.0, steps: int = 20) -> Tensor:
    """Guided DDIM samples (B, C, h, w) from noise of that shape, straight from weights in training.

    `arguments(noisy, t)` gives all that the UNet wants beside them, for 2 B rows: conditional,
    then unconditional.
    """
    device = noise.device.type
    scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    sample = noise
    for t in scheduler.timesteps:
        noisy = torch.cat([sample, sample])
        with torch.autocast(device, torch.bfloat16):
            predicted = unet(noisy, t, **arguments(noisy, t)).sample.float()
        with_condition, without = predicted.chunk(2)
        predicted = without + guidance * (with_condition - without)
        sample = scheduler.step(predicted, t, sample).prev_sample
    return sample


@torch.no_grad()
def save_samples(unet: UNet2DConditionModel, frozen: Frozen, texts: list[str], path: Path,
                 side: int, above: Pictures | None = None,
                 residuals: Callable[..., dict] | None = None, **extra: Any) -> None:
    """A quick sheet; the pictures `above` go over the samples made from them. `residuals` and
    `extra` are for rows [conditional..., unconditional...]."""
    device = str(frozen.text_encoder.device)
    states = frozen.text_states(texts + [""] * len(texts), device)
    shape = (len(texts), 4, side, side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)

    def arguments(noisy: Tensor, t: Tensor) -> dict[str, Any]:
        more = residuals(noisy, t, states) if residuals else {}
        return {"encoder_hidden_states": states} | more | extra

    pixels = frozen.pixels(sample_latents(unet, noise, arguments))
    if above is not None:
        given = above.pixels(torch.arange(len(texts))).to(device)
        given = F.interpolate(given, size=pixels.shape[-2:], mode="area")
        pixels = torch.cat([row for pair in zip(given.split(8), pixels.split(8), strict=True)
                            for row in pair])
    save_image(pixels, path, nrow=8, normalize=True, value_range=(-1, 1))
    path.with_suffix(".txt").write_text("\n".join(texts))
