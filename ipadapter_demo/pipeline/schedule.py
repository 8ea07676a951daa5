"""The noise levels of one request and the steps between them, by a diffusers scheduler of its own.

At every level a denoiser reads signal · x0 + noise · ε, whatever scale a scheduler works in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ipadapter_demo.pipeline.latents import LatentInit

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass(frozen=True, slots=True, eq=False)
class NoiseLevel:
    """The shares of the picture and of noise in the latents at a timestep."""

    timestep: Tensor
    signal: Tensor
    noise: Tensor

    @property
    def sigma(self) -> Tensor:
        """Noise for each part of signal, as in arXiv 2206.00364."""
        return self.noise / self.signal


# The clean latents x0 that a model's output points to, by what it predicts: of (latents, output,
# signal, noise).
CLEAN: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda latents, output, signal, noise: (latents - noise * output) / signal,
    "v_prediction": lambda latents, output, signal, noise: signal * latents - noise * output,
    "sample": lambda latents, output, signal, noise: output,
    "flow_prediction": lambda latents, output, signal, noise: latents - noise * output,
}


class Schedule:
    """All of the `steps`, or the last `strength` of them, as diffusers' image-to-image counts.

    i is the number of a model call, and of its timestep: a step takes one, or with Heun's method
    two, the last one aside.
    """

    def __init__(
        self,
        scheduler: SchedulerMixin,
        steps: int,
        strength: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        scheduler.set_timesteps(steps, device=device)
        _drop_surplus(scheduler)
        skipped = (steps - kept_steps(steps, strength)) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):  # a timestep may be there twice
            scheduler.set_begin_index(skipped)
        self._scheduler, self._first = scheduler, skipped
        self._from_noise = strength >= 1.0
        self._takes_generators = "generator" in signature(scheduler.step).parameters
        self.timesteps: Tensor = scheduler.timesteps[skipped:]
        self.prediction: str = scheduler.config.prediction_type

    def __len__(self) -> int:
        """Number of steps that are taken."""
        return -(-len(self.timesteps) // self._scheduler.order)

    def calls(self, step: int) -> range:
        """The model calls of a step."""
        order = self._scheduler.order
        return range(step * order, min((step + 1) * order, len(self.timesteps)))

    def level(self, i: int) -> NoiseLevel:
        """The noise level of the latents that call i reads."""
        scheduler, t = self._scheduler, self.timesteps[i]
        if not hasattr(scheduler, "sigmas"):
            alpha = scheduler.alphas_cumprod[int(t)]
            return NoiseLevel(t, alpha.sqrt(), (1 - alpha).sqrt())
        sigma = scheduler.sigmas[self._first + i]  # of which a timestep may be the rounding
        if getattr(scheduler.config, "use_flow_sigmas", False):
            return NoiseLevel(t, 1 - sigma, sigma)
        signal = (sigma**2 + 1).rsqrt()
        return NoiseLevel(t, signal, sigma * signal)

    def first_latents(self, init: LatentInit) -> Tensor:
        if init.init_latents is None or self._from_noise:
            return init.noise * self._scheduler.init_noise_sigma
        return self.noised(init, 0)

    def scaled(self, latents: Tensor, i: int) -> Tensor:
        """Latents as the denoiser reads them."""
        return self._scheduler.scale_model_input(latents, self.timesteps[i])

    def step(
        self, output: Tensor, latents: Tensor, i: int, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """The latents after call i, and the clean ones that the model's output points to. Noise
        that a step adds is drawn from `generators`, one for each image."""
        drawn = {"generator": list(generators)} if self._takes_generators else {}
        stepped = self._scheduler.step(output, self.timesteps[i], latents, **drawn)
        clean = getattr(stepped, "pred_original_sample", None)
        if clean is None:
            level = self.level(i)
            signal, noise = level.signal.to(latents), level.noise.to(latents)
            clean = CLEAN[self.prediction](latents, output, signal, noise)
        return stepped.prev_sample, clean

    def noised(self, init: LatentInit, i: int) -> Tensor:
        """The latents of the given pictures at the level of call i; clean after the last."""
        assert init.init_latents is not None
        if i == len(self.timesteps):
            return init.init_latents
        latents = init.init_latents.expand_as(init.noise)
        t = self.timesteps[i].expand(len(init.noise))
        return self._scheduler.add_noise(latents, init.noise, t)

    def renoised(self, latents: Tensor, noise: Tensor, i: int) -> Tensor:
        """From the level after call i up to that before it."""
        return renoise(self._scheduler, self.timesteps[i], self.timesteps[i + 1], latents, noise)


def _drop_surplus(scheduler: SchedulerMixin) -> None:
    """diffusers counts trailing steps by adding fractions, and at 61, 103, 121 and 122 of them
    arrives at one too many, of timestep -1."""
    if scheduler.timesteps[-1] >= 0:
        return
    scheduler.timesteps = scheduler.timesteps[: -scheduler.order]
    if hasattr(scheduler, "sigmas"):  # the last is the end
        sigmas = scheduler.sigmas
        scheduler.sigmas = torch.cat([sigmas[: -scheduler.order - 1], sigmas[-1:]])


def renoise(
    scheduler: SchedulerMixin, t: Tensor, after: Tensor, latents: Tensor, noise: Tensor
) -> Tensor:
    """From the noise level of the timestep `after` up to that of t, by the forward process
    (RePaint, arXiv 2201.09865, equation 1)."""
    ratio = scheduler.alphas_cumprod[int(t)] / scheduler.alphas_cumprod[int(after)]
    ratio = ratio.to(latents)
    return ratio.sqrt() * latents + (1 - ratio).sqrt() * noise


def kept_steps(steps: int, strength: float) -> int:
    """Number of the steps that are taken from a picture that is started from."""
    return max(1, min(int(steps * strength), steps))
