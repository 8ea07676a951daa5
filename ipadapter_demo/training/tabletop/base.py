"""Base recipe: the text-to-image UNet of the tabletop world, SDXL's topology in small.

Two stages on one network: first pictures of half the size, which cost a quarter and teach what the
words mean, then full size. The ε objective is weighted: less where noise is weak (min-SNR), more
where it is strong, because there hues, light and shapes are settled. Captions are rich.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from ipadapter_demo.tabletop.caption import FULL, RICH
from ipadapter_demo.training.loop import fit
from ipadapter_demo.training.noise import Diffusion
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.latents import (
    SCHEDULE,
    Frozen,
    captions,
    save_samples,
    scaled_latents,
)
from ipadapter_demo.training.tabletop.pictures import Pictures

MIN_SNR_GAMMA = 5.0  # arXiv 2303.09556
MOST_WEIGHT = 10.0  # of truncated SNR: arXiv 2202.00512, section 4
TEXT_DROP = 0.1  # empty captions, for classifier-free guidance


def new_unet(cross_dim: int) -> UNet2DConditionModel:
    """Cross-attention at 16 x 16 and 8 x 8 cells; none at 32 x 32, where it costs most."""
    return UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(48, 96, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross_dim,
        attention_head_dim=(1, 2, 4),  # the number of heads, by diffusers' historic misnomer
        norm_num_groups=16,
    )


def train_base(
    run: Run,
    pictures: Pictures,
    held_out: Pictures,
    out: Path,
    small: bool = False,
    start: Path | None = None,
) -> dict:
    """Train and write `out/unet` and `out/scheduler`. `small` is the stage at half the size;
    `start` a folder with the UNet to go on from."""
    torch.manual_seed(run.seed)
    frozen = Frozen.load(out, run.device, with_image_encoder=False)
    unet = (
        new_unet(frozen.text_encoder.config.hidden_size)
        if start is None
        else UNet2DConditionModel.from_pretrained(start).float()
    )
    unet = unet.to(run.device, memory_format=torch.channels_last)
    unet.set_attn_processor(AttnProcessor())  # faster on CPU than the fused kernel at this size
    latents = scaled_latents(frozen.vae, pictures, run.folder.parent / "cache", 2 if small else 1)
    diffusion = Diffusion(SCHEDULE, run.device)
    # Fusing is a fourth faster on CPU and takes minutes: it pays for the long stage at full size.
    fuse = not small and run.steps >= 500 and shutil.which("g++") is not None
    fused = torch.compile(unet, dynamic=False) if fuse else unet

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        indices = torch.randint(len(latents), (batch,), generator=generator)
        texts = captions(pictures, indices, RICH, generator)
        empty = torch.rand(batch, generator=generator) < TEXT_DROP
        texts = ["" if drop else text for text, drop in zip(texts, empty.tolist(), strict=True)]
        clean = latents[indices].float().to(run.device)
        noise = torch.randn(clean.shape, generator=generator).to(run.device)
        timesteps = diffusion.timesteps(torch.rand(batch, generator=generator), "uniform")
        noisy = diffusion.noisy(clean, noise, timesteps).to(memory_format=torch.channels_last)
        predicted = fused(noisy, timesteps, frozen.text_states(texts, run.device)).sample
        return diffusion.loss(predicted, noise, timesteps, gamma=MIN_SNR_GAMMA, most=MOST_WEIGHT)

    def preview(path: Path) -> None:
        rows = torch.arange(len(held_out))[:16]
        texts = captions(held_out, rows, FULL, torch.Generator().manual_seed(0))
        save_samples(unet, frozen, texts, path, latents.shape[-1])

    outcome = fit(run, unet, loss_of, preview)
    unet.half().save_pretrained(out / "unet")
    DDIMScheduler(
        **SCHEDULE,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    ).save_pretrained(out / "scheduler")
    return asdict(outcome)
