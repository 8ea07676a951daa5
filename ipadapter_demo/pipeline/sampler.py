"""The denoising loop, as a generator: it says what it wants predicted, and yields every step.

It knows neither UNets nor masks: whoever iterates it answers its calls, alone or several requests'
in one, a schedule takes the step, and what is to happen between steps is given as hooks.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from ipadapter_demo.pipeline.latents import LatentInit
from ipadapter_demo.pipeline.schedule import NoiseLevel, Schedule


class StepConditions(Protocol):
    @property
    def guided(self) -> bool:
        """True if they are of rows [unconditional..., conditional...]."""
        ...

    def at(self, step: int, steps: int) -> Self:
        """The conditions that act in one step."""
        ...


C = TypeVar("C", bound=StepConditions)


@dataclass(slots=True, eq=False)
class Call(Generic[C]):
    """A prediction that is wanted, for latents (rows, C, h, w) of signal · x0 + noise · ε.

    Whoever is handed it puts the model's output, as large, into `output`, and goes on. What is
    predicted (ε, v, flow) is said by the schedule.
    """

    latents: Tensor
    level: NoiseLevel
    conditions: C
    output: Tensor | None = None


class LoopHooks:
    """Changes to the latents between model calls, of which a step takes one or two; here none."""

    passes: int = 1  # how often every step but the last is taken

    def after_call(self, latents: Tensor, schedule: Schedule, i: int) -> Tensor:
        return latents

    def before_repeat(self, latents: Tensor, schedule: Schedule, i: int) -> Tensor:
        return latents


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance of strength `scale`, its standard deviation drawn back towards the
    conditional prediction's by the share `rescale` (arXiv 2305.08891, section 3.4)."""

    scale: float
    rescale: float = 0.0

    def combined(self, without: Tensor, having: Tensor) -> Tensor:
        guided = without + self.scale * (having - without)
        if self.rescale == 0.0:
            return guided
        axes = list(range(1, guided.ndim))
        matched = guided * (having.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
        return self.rescale * matched + (1 - self.rescale) * guided


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """After step `number` of `steps`: the latents, and the clean latents they point to."""

    number: int
    steps: int
    latents: Tensor
    clean: Tensor


@torch.no_grad()
def denoise(
    schedule: Schedule,
    guidance: Guidance,
    init: LatentInit,
    conditions: C,
    hooks: LoopHooks,
) -> Generator[Call[C] | Step, None, None]:
    """Classifier-free guidance over rows [unconditional..., conditional...], in the steps whose
    conditions are guided."""
    latents, steps = schedule.first_latents(init), len(schedule)
    for step in range(steps):
        active, passes = conditions.at(step, steps), hooks.passes if step + 1 < steps else 1
        for i in schedule.calls(step):
            for again in reversed(range(passes)):
                rows = schedule.scaled(torch.cat([latents] * 2) if active.guided else latents, i)
                call = Call(rows, schedule.level(i), active)
                yield call
                assert call.output is not None
                output = call.output
                if active.guided:
                    output = guidance.combined(*output.chunk(2))
                latents, clean = schedule.step(output, latents, i, init.generators)
                latents = hooks.after_call(latents, schedule, i)
                if again:
                    latents = hooks.before_repeat(latents, schedule, i)
        yield Step(step + 1, steps, latents, clean)
