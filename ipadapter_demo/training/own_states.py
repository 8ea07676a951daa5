"""A second part of distilling into few steps: at the states that the LoRA's own sampler reaches.

Latent consistency distillation teaches at noisy pictures of the data. In use a step reads what the
steps before it made, their mistakes included. Here the LoRA takes its first steps as LCM's sampler
takes them, and learns where the base, with guidance, would arrive from there (backward
distillation, arXiv 2405.05224). No pictures are needed, only captions and image embeds.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.training.config import FewStepConfig
from ipadapter_demo.training.consistency import ConsistencyObjective
from ipadapter_demo.training.data.batch_source import Batch

if TYPE_CHECKING:
    from ipadapter_demo.training.few_step import FewStepTask


STARTS = ((4, 0), (4, 1), (4, 1), (4, 2), (4, 3), (2, 1))  # (steps, which of them)
LEVELS, LEARNED = 8, 4  # steps of the base, and those of them at whose levels the LoRA learns


class OwnStatesObjective(ConsistencyObjective):
    """The distance of the LoRA's clean latents from those that the base arrives at by DPM-Solver++
    with guidance, from a state of the LoRA's own, and from the lower levels on that way. A batch
    takes one kind of state."""

    def __init__(self, config: FewStepConfig, base: BaseModel, task: FewStepTask) -> None:
        from diffusers import LCMScheduler

        super().__init__(config, base, task)
        self._levels: dict[int, Tensor] = {}
        for steps in (2, LEARNED, LEVELS):
            scheduler = LCMScheduler.from_config(base.scheduler_config)
            scheduler.set_timesteps(steps, device=base.device)
            self._levels[steps] = scheduler.timesteps

    def loss(self, batch: Batch) -> Tensor:
        steps, step = STARTS[int(batch.sample_noise.time[0] * len(STARTS))]
        levels, task = self._levels[steps][: step + 1], self.task
        predict = self.denoiser(batch, task.conditions(batch))
        with torch.no_grad():
            state = self._reached(predict, batch, levels)
            with task.teacher():
                without = self.denoiser(batch, task.unconditional(batch))
                way, target = self._solved(without, predict, state, int(levels[-1]))
        learned = set(self._levels[LEARNED].tolist()) & way.keys()
        losses = []
        for timestep in learned:
            row = torch.full((len(state),), timestep, device=state.device)
            losses.append(self._distance(self._consistent(predict, way[timestep], row), target))
        return torch.stack(losses).mean()

    def _reached(
        self, predict: Callable[[Tensor, Tensor], Tensor], batch: Batch, levels: Tensor
    ) -> Tensor:
        """The latents at the last of `levels`, from noise by LCM's sampler."""
        noise = batch.sample_noise.noise.to(self.base.device)
        generators = [
            torch.Generator().manual_seed(int(share * 2**24)) for share in batch.sample_noise.extra
        ]
        state = noise
        for before, after in pairwise(levels):
            clean = self._consistent(predict, state, before.expand(len(noise)))
            fresh = torch.stack([torch.randn(noise.shape[1:], generator=own) for own in generators])
            state = self.diffusion.noisy(clean, fresh.to(noise), after.expand(len(noise)))
        return state

    def _solved(
        self,
        without: Callable[[Tensor, Tensor], Tensor],
        having: Callable[[Tensor, Tensor], Tensor],
        state: Tensor,
        first: int,
    ) -> tuple[dict[int, Tensor], Tensor]:
        """The states on the base's trajectory from the timestep `first` on, and its clean end."""
        from diffusers import DPMSolverMultistepScheduler

        scheduler = DPMSolverMultistepScheduler.from_config(self.base.scheduler_config)
        left = [t for t in self._levels[LEVELS].tolist() if t <= first]
        scheduler.set_timesteps(timesteps=left, device=self.base.device)
        way = {}
        for t in scheduler.timesteps:
            way[int(t)] = state
            row = t.expand(len(state))
            plain, given = without(state, row).float(), having(state, row).float()
            guided = self._guidance.combined(plain, given)
            state = scheduler.step(guided, t, state).prev_sample
        return way, state
