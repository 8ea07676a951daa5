"""VAE recipe: a tiny autoencoder, pixels <-> 4-channel latents at a quarter of the resolution.

Loss: L1 and L2 on pixels, L1 on their gradients. The decoder sees slightly noisy latents, as it
will when the latents come from a denoiser. At the end the scaling factor makes scaled latents unit
variance.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torchvision.utils import save_image

from ipadapter_demo.training.loop import fit
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.pictures import Pictures

CROP = 64
LATENT_NOISE = 0.05
LATENT_PENALTY = 1e-3
SQUARED_WEIGHT = 5.0  # what is left after a while are few large errors, at edges


def new_vae(width: int = 48) -> AutoencoderTiny:
    """4x smaller latents with 4 channels, the count diffusers' inpainting pipelines accept."""
    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 3,
        decoder_block_out_channels=(width,) * 3,
        num_encoder_blocks=(1, 2, 3),
        num_decoder_blocks=(3, 2, 1),
        latent_channels=4,
    )


def train_vae(
    run: Run, pictures: Pictures, held_out: Pictures, out: Path, start: Path | None = None
) -> dict:
    """Train and write `out/vae`, from the one in `start` if given; returns provenance for the
    provenance file."""
    torch.manual_seed(run.seed)
    vae = new_vae() if start is None else AutoencoderTiny.from_pretrained(start).float()
    vae = vae.requires_grad_(True).to(run.device, memory_format=torch.channels_last)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        pixels = _crops(pictures, batch, generator).to(run.device)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        latents = vae.encode(pixels).latents
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        decoded = vae.decode(latents + LATENT_NOISE * noise).sample.float()
        return reconstruction(decoded, pixels) + LATENT_PENALTY * latents.float().square().mean()

    def preview(path: Path) -> None:
        pixels = held_out.pixels(torch.arange(len(held_out))[:8]).to(run.device)
        decoded = vae.decode(vae.encode(pixels).latents).sample
        save_image(
            torch.cat([pixels, decoded]).clamp(-1, 1),
            path,
            nrow=8,
            normalize=True,
            value_range=(-1, 1),
        )

    outcome = fit(run, vae, loss_of, preview)
    vae.requires_grad_(False)
    vae.register_to_config(scaling_factor=round(1 / _latent_std(vae, pictures), 4))
    save_vae(vae, out)
    return asdict(outcome) | {"psnr_db": round(psnr(vae.float(), held_out), 2)}


def reconstruction(decoded: Tensor, pixels: Tensor) -> Tensor:
    """The loss of pictures (B, 3, H, W) that have to come back."""
    return (
        (decoded - pixels).abs().mean()
        + SQUARED_WEIGHT * (decoded - pixels).square().mean()
        + (_gradients(decoded) - _gradients(pixels)).abs().mean()
    )


def save_vae(vae: AutoencoderTiny, out: Path) -> None:
    """In half precision, as `out/vae`. The class writes a key into its config that it warns of when
    it reads it again."""
    vae.half().save_pretrained(out / "vae")
    path = out / "vae" / "config.json"
    config = json.loads(path.read_text())
    config.pop("block_out_channels", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def psnr(vae: AutoencoderTiny, held_out: Pictures, count: int = 256) -> float:
    """Mean over pictures of 10·log10(2² / MSE), pixels in [-1, 1]."""
    scores = []
    with torch.no_grad():
        for indices in torch.arange(min(count, len(held_out))).split(32):
            pixels = held_out.pixels(indices).to(vae.device)
            decoded = vae.decode(vae.encode(pixels).latents).sample.clamp(-1, 1)
            scores.append(10 * torch.log10(4 / (decoded - pixels).square().mean(dim=(1, 2, 3))))
    return torch.cat(scores).mean().item()


def _crops(pictures: Pictures, batch: int, generator: torch.Generator) -> Tensor:
    pixels = pictures.pixels(torch.randint(len(pictures), (batch,), generator=generator))
    room = pixels.shape[-1] - CROP
    corners = torch.randint(room + 1, (batch, 2), generator=generator).tolist()
    return torch.stack(
        [p[:, y : y + CROP, x : x + CROP] for p, (y, x) in zip(pixels, corners, strict=True)]
    )


def _gradients(pixels: Tensor) -> Tensor:
    return torch.cat([pixels.diff(dim=-1).flatten(1), pixels.diff(dim=-2).flatten(1)], dim=1)


@torch.no_grad()
def _latent_std(vae: AutoencoderTiny, pictures: Pictures) -> float:
    pixels = pictures.pixels(torch.arange(min(256, len(pictures)))).to(vae.device)
    return torch.cat([vae.encode(p).latents for p in pixels.split(32)]).float().std().item()
