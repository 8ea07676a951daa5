"""The ε and v objectives: the random numbers of a sample, and the target of the UNet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.models.schedule import SchedulerConfig


@dataclass(frozen=True, slots=True, eq=False)
class SampleNoise:
    """The random numbers of a batch of B: made of each sample's position in the run alone."""

    noise: Tensor  # (B, C, h, w)
    time: Tensor  # (B,) uniform in [0, 1)
    drop: Tensor  # (B,) likewise: which conditions a sample loses
    offset: Tensor  # (B, C, 1, 1)
    extra: Tensor  # (B,) uniform in [0, 1), for whatever else a task draws

    @classmethod
    def at(cls, seed: int, positions: Sequence[int], shape: Sequence[int]) -> SampleNoise:
        """For the samples at `positions`, of latents (C, h, w)."""
        noise, rest, extra = [], [], []
        for position in positions:
            # hashed, because a generator takes no more than 32 bits of its seed
            key = hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=4).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(key))
            rest.append(torch.rand(2, generator=generator))
            noise.append(torch.randn(*shape, generator=generator))
            noise.append(torch.randn(shape[0], 1, 1, generator=generator))
            extra.append(torch.rand((), generator=generator))
        time, drop = torch.stack(rest).unbind(1)
        return cls(
            torch.stack(noise[::2]), time, drop, torch.stack(noise[1::2]), torch.stack(extra)
        )


class Diffusion:
    """The forward process of a base model's own schedule, and its objective."""

    def __init__(self, scheduler_config: SchedulerConfig, device: torch.device | str) -> None:
        """Raises TrainingError for a base that predicts something else."""
        from diffusers import DDPMScheduler

        self.prediction = scheduler_config.get("prediction_type", "epsilon")
        if self.prediction not in ("epsilon", "v_prediction"):
            raise TrainingError(
                f"base must predict epsilon or v_prediction, its scheduler says {self.prediction!r}"
            )
        betas = {
            name: scheduler_config[name]
            for name in (
                "beta_start",
                "beta_end",
                "beta_schedule",
                "trained_betas",
                "num_train_timesteps",
                "rescale_betas_zero_snr",
            )
            if scheduler_config.get(name) is not None
        }
        self.alphas = DDPMScheduler(**betas).alphas_cumprod.to(device)

    def timesteps(self, time: Tensor, kind: str) -> Tensor:
        """(B,) from uniform numbers; cubic leans towards noise (arXiv 2302.08453, section 3.4)."""
        share = 1 - time**3 if kind == "cubic" else time
        count = len(self.alphas)
        return (share * count).long().clamp(max=count - 1).to(self.alphas.device)

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """ε, or v = √ᾱ ε - √(1-ᾱ) x₀ (arXiv 2202.00512, section 4)."""
        if self.prediction == "epsilon":
            return noise
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents

    def loss(
        self,
        predicted: Tensor,
        target: Tensor,
        timesteps: Tensor,
        gamma: float = 0.0,
        most: float = 0.0,
    ) -> Tensor:
        """Mean squared error. γ > 0: under min-SNR weights (arXiv 2303.09556, section 3.4).
        `most` > 0: under max(1, 1/SNR) on ε (truncated SNR, arXiv 2202.00512, section 4) but no
        more than that, divided by their mean over all time steps. What a picture shows at large,
        its hues and its light, is settled where noise is strongest, and there the error of ε tells
        least about it."""
        error = (predicted.float() - target.float()).square().mean(dim=(1, 2, 3))
        signal = self.alphas / (1 - self.alphas)  # SNR, of every time step
        in_v = signal + 1 if self.prediction == "v_prediction" else signal
        if gamma:
            error = error * (signal.clamp(max=gamma) / in_v)[timesteps]
        if most:
            weights = signal * (1 / signal).clamp(min=1, max=most) / in_v
            error = error * (weights / weights.mean())[timesteps]
        return error.mean()
