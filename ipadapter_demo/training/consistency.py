"""Latent consistency distillation (arXiv 2310.04378, algorithm 1).

The base with a LoRA learns to give, at every noise level of one trajectory, the same clean latents.
The base without it, with guidance, takes the step from one level to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline.sampler import Guidance
from ipadapter_demo.pipeline.schedule import CLEAN
from ipadapter_demo.training.config import FewStepConfig
from ipadapter_demo.training.data.batch_source import Batch
from ipadapter_demo.training.objective import Objective

if TYPE_CHECKING:
    from ipadapter_demo.training.few_step import FewStepTask

SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0  # of the boundary condition, as in diffusers' LCMScheduler
HUBER = 0.001


class ConsistencyObjective(Objective):
    """The distance of two guesses of the clean latents, from neighbouring levels of a trajectory of
    the base with guidance; the guess from the lower level is the target."""

    config: FewStepConfig
    task: FewStepTask

    def __init__(self, config: FewStepConfig, base: BaseModel, task: FewStepTask) -> None:
        super().__init__(config, base, task)
        self._guidance = Guidance(config.teacher_guidance)
        count = len(self.diffusion.alphas)
        levels = torch.arange(1, config.teacher_steps + 1, device=base.device)
        self._timesteps = (levels * (count / config.teacher_steps)).round().long() - 1

    def loss(self, batch: Batch) -> Tensor:
        config, task = self.config, self.task
        latents = self.latents(batch.examples)
        noise = batch.sample_noise.noise.to(latents)
        share = batch.sample_noise.time.to(latents.device)
        if config.timesteps == "cubic":
            share = 1 - share**3
        level = (share * config.teacher_steps).long().clamp(max=config.teacher_steps - 1)
        upper = self._timesteps[level]
        lower = torch.where(level > 0, self._timesteps[(level - 1).clamp(min=0)], 0)
        noisy = self.diffusion.noisy(latents, noise, upper)
        predict = self.denoiser(batch, task.conditions(batch))
        with torch.no_grad():
            with task.teacher():
                without = self.denoiser(batch, task.unconditional(batch))(noisy, upper).float()
                having = predict(noisy, upper).float()
            clean = self._clean(noisy, self._guidance.combined(without, having), upper)
            signal, sigma = self._level(upper)
            stepped = self.diffusion.noisy(clean, (noisy - signal * clean) / sigma, lower)  # DDIM
            target = self._consistent(predict, stepped, lower)
        return self._distance(self._consistent(predict, noisy, upper), target)

    def _distance(self, guess: Tensor, target: Tensor) -> Tensor:
        """Pseudo-Huber, as the authors' script."""
        return (((guess - target).square() + HUBER**2).sqrt() - HUBER).mean()

    def _consistent(
        self, predict: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, timesteps: Tensor
    ) -> Tensor:
        """The clean latents that a call points to; at timestep 0 the latents themselves (the
        boundary condition, arXiv 2310.04378, section 3)."""
        clean = self._clean(noisy, predict(noisy, timesteps).float(), timesteps)
        scaled = (timesteps * TIMESTEP_SCALING).view(-1, 1, 1, 1)
        total = scaled**2 + SIGMA_DATA**2
        return SIGMA_DATA**2 / total * noisy + scaled / total.sqrt() * clean

    def _clean(self, noisy: Tensor, output: Tensor, timesteps: Tensor) -> Tensor:
        return CLEAN[self.diffusion.prediction](noisy, output, *self._level(timesteps))

    def _level(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise, (B, 1, 1, 1) each."""
        alpha = self.diffusion.alphas[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()
