"""Light recipe: the Plus adapter learns from the base adapter what the side of the light changes.

That side is little of what patches say, and less of the loss: 2,000 steps leave it to chance. But
for the same noise the difference that another light makes to the base adapter's prediction has no
noise of its own, and Plus can be led to it. It forgets colours meanwhile, so that
`image-adapter-plus` goes on afterwards, a few hundred steps.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from ipadapter_demo.adapter import (
    ImageAdapter,
    ImagePrompt,
    attach,
    load_image_adapter,
    save_image_adapter,
)
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.tabletop.render import render
from ipadapter_demo.tabletop.scene import Scenes, seen_otherwise
from ipadapter_demo.training.base_models import frozen_base
from ipadapter_demo.training.config import ImageAdapterConfig
from ipadapter_demo.training.loop import fit
from ipadapter_demo.training.noise import Diffusion
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.encoders import clip_pixels
from ipadapter_demo.training.tabletop.pictures import SIZE, Pictures

WEIGHT = 1000.0  # of the difference: 3 % of the loss is its size
EARLIEST = 0.3  # share of the schedule: with less noise light is settled
MOST_WEIGHT = 20.0  # of 1/SNR


def in_other_light(scenes: Scenes) -> Scenes:
    """The same, lit from the other side."""
    return replace(scenes, light_side=1 - scenes.light_side, light_x=-scenes.light_x)


def train_light(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Go on with `out`'s Plus adapter, beside its base adapter, and write it."""
    torch.manual_seed(run.seed)
    config = ImageAdapterConfig(
        data=("rendered",), run=run.folder, out=out, base=str(out), size=SIZE
    )
    teacher, student = (frozen_base(config, run.device, "no") for _ in range(2))
    base, plus = (
        load_image_adapter(out / TABLETOP.adapters[name]).float().to(run.device)
        for name in ("base", "plus")
    )
    attach(teacher.unet, base.requires_grad_(False))
    attach(student.unet, plus.requires_grad_(True))
    diffusion = Diffusion(student.scheduler_config, run.device)
    text = student.text.encode_all([""], [False]).states.float()

    def seen(adapter: ImageAdapter, pixels: Tensor) -> Tensor:
        return adapter.embeds_from_clip_pixels(pixels, teacher.image_encoder).float()

    def predicted(
        model: BaseModel, adapter: ImageAdapter, noisy: Tensor, timesteps: Tensor, embeds: Tensor
    ) -> Tensor:
        tokens = adapter.tokens_from_embeds(embeds)
        prompt = ImagePrompt(rows=slice(None), tokens=tokens, scale=1.0)
        found: Tensor = model.unet(
            noisy,
            timesteps,
            encoder_hidden_states=text.expand(len(noisy), -1, -1),
            cross_attention_kwargs={"ip_hidden_states": (prompt,)},
        ).sample
        return found.float()

    def parts(shown: Pictures, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The loss of Plus, its distance from the difference that the base adapter makes of another
        light, and the size of that, each weighed by 1/SNR."""
        with torch.no_grad():
            scenes = shown.scenes[rows]
            seed = int(torch.randint(2**31, (1,), generator=generator))
            reference = seen_otherwise(scenes, seed)
            views = [
                clip_pixels(2 * render(each, SIZE).pixels.to(run.device) - 1)
                for each in (reference, in_other_light(reference))
            ]
            latents = teacher.vae.latents_from_pixels(shown.pixels(rows).to(run.device)).float()
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            time = EARLIEST + (1 - EARLIEST) * torch.rand(len(rows), generator=generator)
            timesteps = diffusion.timesteps(time, "uniform")
            noisy = diffusion.noisy(latents, noise, timesteps)
            twice = torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps])
            embeds = torch.cat([seen(base, view) for view in views])
            ours, others = predicted(teacher, base, *twice, embeds).chunk(2)
            wanted = ours - others
            embeds = torch.cat([seen(plus, view) for view in views])
            alpha = diffusion.alphas[timesteps].view(-1, 1, 1, 1)
            weight = ((1 - alpha) / alpha).clamp(1, MOST_WEIGHT)
        ours, others = predicted(student, plus, *twice, embeds).chunk(2)
        errors = (ours - noise, ours - others - wanted, wanted)
        return tuple((weight * error.square()).mean() for error in errors)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        rows = torch.randint(len(pictures), (batch,), generator=generator)
        own, apart, _ = parts(pictures, rows, generator)
        return own + WEIGHT * apart

    @torch.no_grad()
    def held_out_difference(path: Path | None = None) -> dict[str, float]:
        """How much of the difference is missing, of held-out scenes: 0 none, 1 all of it."""
        rows = torch.arange(min(32, len(held_out)))
        _, apart, size = parts(held_out, rows, torch.Generator().manual_seed(0))
        return {"light_missing": round(float(apart / size), 4)}

    outcome = fit(run, plus, loss_of, held_out_difference)
    save_image_adapter(plus, out / TABLETOP.adapters["plus"], dtype=torch.float16)
    return asdict(outcome) | held_out_difference()
