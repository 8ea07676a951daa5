"""The frozen parts, their latents of the training pictures, and samples of weights in training."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torchvision.utils import save_image
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from ipadapter_demo.files import whole_file
from ipadapter_demo.models.memory import has_bfloat16
from ipadapter_demo.tabletop.caption import CaptionStyle, caption
from ipadapter_demo.training.fingerprint import fingerprint
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.encoders import clip_pixels, tokens_of
from ipadapter_demo.training.tabletop.pictures import Pictures

# Stable Diffusion's schedule; "trailing" spacing starts sampling at the noisiest step, which few
# steps need (arXiv 2305.08891, section 3.3).
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}

UnetArguments = Callable[[Tensor, Tensor], dict[str, object]]


@dataclass(frozen=True, slots=True)
class Frozen:
    """The trained parts that later recipes stand on."""

    vae: AutoencoderTiny
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    image_encoder: CLIPVisionModelWithProjection | None = None

    @classmethod
    def load(
        cls, folder: Path, device: str, with_image_encoder: bool, before: Path | None = None
    ) -> Frozen:
        """Of `folder`; the text encoder of `before`, if it is given."""

        def ready(model: torch.nn.Module) -> torch.nn.Module:
            return model.float().to(device).eval().requires_grad_(False)

        return cls(
            ready(AutoencoderTiny.from_pretrained(folder / "vae")),
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            ready(CLIPTextModel.from_pretrained((before or folder) / "text_encoder")),
            ready(CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder"))
            if with_image_encoder
            else None,
        )

    @torch.no_grad()
    def text_states(self, texts: list[str], device: str) -> Tensor:
        return self.text_encoder(**tokens_of(self.tokenizer, texts, device))[0]

    @torch.no_grad()
    def pixels(self, latents: Tensor) -> Tensor:
        """(B, 4, h, w) scaled latents -> (B, 3, 4 h, 4 w) in [-1, 1]."""
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample.clamp(-1, 1)


def before(run: Run, out: Path, *parts: str) -> Path:
    """A folder with parts of `out` as they were when the run began. A recipe that goes on from what
    it writes finds its teacher there when it is given again."""
    folder = run.folder / "before"
    if not folder.exists():
        making = run.folder / "before.part"
        shutil.rmtree(making, ignore_errors=True)
        for part in parts:
            shutil.copytree(out / part, making / part)
        making.rename(folder)
    return folder


def frozen_unet(folder: Path, device: str) -> UNet2DConditionModel:
    """The finished base, for recipes that train something beside it."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").float().requires_grad_(False)
    unet.set_attn_processor(AttnProcessor())  # as in the base recipe
    return unet.to(device, memory_format=torch.channels_last)


@torch.no_grad()
def scaled_latents(
    vae: AutoencoderTiny, pictures: Pictures, cache: Path, shrink: int = 1
) -> Tensor:
    """(N, 4, h, w) half-precision latents of every picture, reduced `shrink` times first, by these
    weights."""
    path = cache / f"latents-{len(pictures)}-{shrink}-{fingerprint(vae)}.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    parts, device = [], vae.device.type
    for indices in torch.arange(len(pictures)).split(64):
        pixels = pictures.pixels(indices).to(vae.device)
        if shrink > 1:
            pixels = F.avg_pool2d(pixels, shrink)
        with torch.autocast(device, torch.bfloat16, enabled=has_bfloat16(device)):
            latents = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latents
        parts.append((latents.float() * vae.config.scaling_factor).half().cpu())
    latents = torch.cat(parts)
    with whole_file(path) as temporary:  # one that was cut short would be read by every run
        torch.save(latents, temporary)
    return latents


@torch.no_grad()
def image_embeds(encoder: CLIPVisionModelWithProjection, pictures: Pictures) -> Tensor:
    """(N, embed_dim) embedding of every picture."""
    return torch.cat(
        [
            encoder(clip_pixels(pictures.pixels(indices)).to(encoder.device))
            .image_embeds.float()
            .cpu()
            for indices in torch.arange(len(pictures)).split(64)
        ]
    )


def captions(
    pictures: Pictures, indices: Tensor, style: CaptionStyle, generator: torch.Generator
) -> list[str]:
    rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    return [caption(pictures.scenes, i, style, rng) for i in indices.tolist()]


@torch.no_grad()
def sample_latents(
    unet: UNet2DConditionModel,
    noise: Tensor,
    arguments: UnetArguments,
    guidance: float = 4.0,
    steps: int = 20,
) -> Tensor:
    """Guided DDIM samples (B, C, h, w) from noise of that shape, straight from weights in training.

    `arguments(noisy, t)` gives all that the UNet wants beside them, for 2 B rows: unconditional,
    then conditional, as in the pipeline.
    """
    device = noise.device.type
    scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    sample = noise
    for t in scheduler.timesteps:
        noisy = torch.cat([sample, sample])
        with torch.autocast(device, torch.bfloat16, enabled=has_bfloat16(device)):
            predicted = unet(noisy, t, **arguments(noisy, t)).sample.float()
        unconditional, conditional = predicted.chunk(2)
        predicted = unconditional + guidance * (conditional - unconditional)
        sample = scheduler.step(predicted, t, sample).prev_sample
    return sample


@torch.no_grad()
def save_samples(
    unet: UNet2DConditionModel, frozen: Frozen, texts: list[str], path: Path, side: int
) -> None:
    """A quick sheet of captions, which are written down beside it."""
    device = str(frozen.text_encoder.device)
    states = frozen.text_states([""] * len(texts) + texts, device)
    noise = torch.randn(len(texts), 4, side, side, generator=torch.Generator().manual_seed(0))
    pixels = frozen.pixels(
        sample_latents(unet, noise.to(device), lambda noisy, t: {"encoder_hidden_states": states})
    )
    save_image(pixels, path, nrow=8, normalize=True, value_range=(-1, 1))
    path.with_suffix(".txt").write_text("\n".join(texts))
