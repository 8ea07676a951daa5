"""The loss of a training beside a frozen base: the base's own objective, with a task's conditions.

A `Task` is what differs from one such training to another: what learns, what conditions the UNet
and what is written at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.text import TextStates
from ipadapter_demo.training.card import Provenance
from ipadapter_demo.training.config import TrainingConfig
from ipadapter_demo.training.data.batch_source import Batch
from ipadapter_demo.training.data.cache import without_pictures
from ipadapter_demo.training.data.examples import Example, Preparer
from ipadapter_demo.training.noise import Diffusion


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """The conditions of a batch, and how much each error counts."""

    texts: Sequence[str]
    unconditional: Sequence[bool]  # samples that lost everything, as the half without guidance
    # (noisy latents, time steps, text states, what SDXL wants besides) -> what the UNet takes
    # besides the first two and the last
    arguments: Callable[[Tensor, Tensor, Tensor, dict[str, Tensor] | None], dict[str, object]]
    weight: Tensor | None = None  # (B, 1, h, w): of the error at each place, before it is squared


class Task(Protocol):
    """A training beside a frozen base."""

    @property
    def trained(self) -> nn.Module:
        """Everything that learns."""
        ...

    @property
    def preparer(self) -> Preparer: ...

    @property
    def drawing(self) -> BaseModel:
        """The base with `trained` in its place."""
        ...

    @property
    def reads(self) -> str | None:
        """The variant of image adapter whose embeddings `embeds` returns: a cache keeps those of
        different variants apart."""
        ...

    def embeds(self, examples: Sequence[Example]) -> Tensor | None:
        """Their image embeddings, if the task reads any."""
        ...

    def conditions(self, batch: Batch) -> Conditions: ...

    def save(self, folder: Path, card: Provenance) -> list[Path]:
        """Write the weights, with their provenance beside them."""
        ...


class Objective:
    """The loss of a batch: the base's own objective, under the conditions of the task."""

    def __init__(self, config: TrainingConfig, base: BaseModel, task: Task) -> None:
        self.config, self.base, self.task = config, base, task
        self.diffusion = Diffusion(base.scheduler_config, base.device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.config.size // self.base.vae.factor
        return self.base.vae.channels, side, side

    def loss(self, batch: Batch) -> Tensor:
        config = self.config
        latents = self.latents(batch.examples)
        noise = batch.sample_noise.noise.to(latents)
        if config.noise_offset:
            noise = noise + config.noise_offset * batch.sample_noise.offset.to(latents)
        timesteps = self.diffusion.timesteps(batch.sample_noise.time, config.timesteps)
        noisy = self.diffusion.noisy(latents, noise, timesteps)
        conditions = self.task.conditions(batch)
        predicted = self.denoiser(batch, conditions)(noisy, timesteps)
        target = self.diffusion.target(latents, noise, timesteps)
        if conditions.weight is not None:
            predicted, target = predicted * conditions.weight, target * conditions.weight
        return self.diffusion.loss(
            predicted,
            target,
            timesteps,
            config.min_snr,
            config.truncated_snr,
        )

    def denoiser(self, batch: Batch, conditions: Conditions) -> Callable[[Tensor, Tensor], Tensor]:
        """The UNet under conditions: noisy latents (B, C, h, w) and timesteps (B,) to its output.
        Prompts are encoded once."""
        base = self.base
        text = base.text.encode_all(conditions.texts, conditions.unconditional)
        added = _sizes(batch.examples, text, self.config.size)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            arguments = conditions.arguments(noisy, timesteps, text.states, added)
            noisy = noisy.to(base.dtype, memory_format=torch.channels_last)
            unet = self.task.drawing.unet
            return unet(noisy, timesteps, added_cond_kwargs=added, **arguments).sample

        return predict

    @torch.no_grad()
    def latents(self, examples: Sequence[Example]) -> Tensor:
        """(B, C, h, w) in float32, encoded unless they were."""
        if examples[0].latents is not None:
            # in float32 before they are stacked: autocast on a CPU refuses to see halves
            latents = [e.latents.float() for e in examples if e.latents is not None]
            return torch.stack(latents).to(self.base.device)
        pixels = torch.stack([e.pixels for e in examples if e.pixels is not None]) / 127.5 - 1
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        kind = self.base.device.type
        half = torch.get_autocast_dtype(kind)  # never fp16, in which SDXL's overflows
        with torch.autocast(
            kind, half, enabled=torch.is_autocast_enabled(kind) and half != torch.float16
        ):
            return self.base.vae.latents_from_pixels(pixels).float()

    def encoded(self, examples: Sequence[Example]) -> list[Example]:
        """The examples as a cache holds them."""
        embeds = self.task.embeds(examples)
        return [
            without_pictures(example, latents, None if embeds is None else embeds[i])
            for i, (example, latents) in enumerate(
                zip(examples, self.latents(examples), strict=True)
            )
        ]


def _sizes(examples: Sequence[Example], text: TextStates, size: int) -> dict[str, Tensor] | None:
    """SDXL's size conditioning (arXiv 2307.01952, section 2.2): original size, crop, target."""
    if text.pooled is None:
        return None
    times = torch.tensor([[*e.original, *e.crop, size, size] for e in examples])
    return {"text_embeds": text.pooled, "time_ids": times.to(text.pooled)}
