"""The denoising loop, as a generator: whoever iterates it sees every step and may stop at any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ipadapter_demo.adapter import ImagePrompt
from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.schedule import ends_at_zero_snr
from ipadapter_demo.models.structure import total
from ipadapter_demo.pipeline.conditioning import Conditions, active
from ipadapter_demo.pipeline.effective import effective_request
from ipadapter_demo.request import SAMPLERS, GenerateRequest, Sampler


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Where sampling begins and what it must keep.

    noise (B, C, h, w) is each image's own; `origin` (B or 1, C, h, w) the latents of given
    pictures, `mask` (B or 1, 1, h, w) is 1 where they are to be replaced. `seen` (B or 1, 5, h, w)
    is what a UNet trained for inpainting sees besides: the mask, and the latents of what is left.
    Every step is taken `passes` times, with noise from each image's own of `generators` in between.
    """

    noise: Tensor
    origin: Tensor | None = None
    strength: float = 1.0
    mask: Tensor | None = None
    seen: Tensor | None = None
    passes: int = 1
    generators: tuple[torch.Generator, ...] = ()


    @classmethod
    def together(cls, each: Sequence[Start]) -> Start:
        """Those of several requests in one batch, which have the same fields set."""
        if len(each) == 1:
            return each[0]

        def rows(name: str) -> Tensor | None:
            values = [getattr(own, name) for own in each]
            return None if values[0] is None else torch.cat([
                value.expand(len(own.noise), -1, -1, -1)
                for value, own in zip(values, each, strict=True)])

        return replace(
            each[0], noise=torch.cat([own.noise for own in each]), origin=rows("origin"),
            mask=rows("mask"), seen=rows("seen"),
            generators=tuple(generator for own in each for generator in own.generators))


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance of strength `scale`, its standard deviation drawn back towards the
    conditional prediction's by the share `rescale` (arXiv 2305.08891, section 3.4)."""

    scale: float
    rescale: float = 0.0

    @property
    def on(self) -> bool:
        return self.scale > 1.0

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


def new_scheduler(sampler: Sampler, config: dict[str, Any]) -> Any:
    """A diffusers scheduler of its own for one request; schedulers carry state.

    Raises RequestError for PNDM where the noise ends at zero SNR: it divides by the signal there,
    and diffusers' would silently begin from other noise levels.
    """
    from diffusers import (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        PNDMScheduler,
    )

    if sampler == "pndm" and ends_at_zero_snr(config):
        others = ", ".join(name for name in SAMPLERS if name != "pndm")
        raise RequestError(f"sampler must be one of {others} for a model with zero terminal SNR, "
                           "got 'pndm'")
    if sampler == "ddim":
        return DDIMScheduler.from_config(config)
    if sampler == "pndm":
        return PNDMScheduler.from_config(config, skip_prk_steps=True)
    if sampler == "euler":
        return EulerDiscreteScheduler.from_config(config)
    return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")


@torch.no_grad()
def denoise(unet: Any, scheduler: Any, steps: int, guidance: Guidance, start: Start,
            conditions: Conditions, lane: Lock) -> Iterator[Step]:
    """Classifier-free guidance over rows [unconditional..., conditional...].

    `lane` is held while a model runs and never while the caller looks at a step.
    """
    scheduler.set_timesteps(steps, device=start.noise.device)
    timesteps = _remaining_timesteps(scheduler, steps, start.strength)
    latents = _first_latents(scheduler, timesteps, start)
    for i, t in enumerate(timesteps):
        for again in reversed(range(start.passes if i + 1 < len(timesteps) else 1)):
            halves = torch.cat([latents] * 2) if guidance.on else latents
            noisy = scheduler.scale_model_input(halves, t)
            with lane:
                noise = _predict_noise(unet, noisy, start.seen, t, i, len(timesteps), conditions,
                                       unconditional=len(noisy) - len(latents))
            if guidance.on:
                noise = guidance.combined(*noise.chunk(2))
            stepped = scheduler.step(noise, t, latents)
            clean = _clean(scheduler, stepped, noise, t, latents)
            latents = _keep_origin(scheduler, timesteps, i, start, stepped.prev_sample)
            if again:
                latents = _stepped_back(scheduler, t, timesteps[i + 1], start, latents)
        yield Step(i + 1, len(timesteps), latents, clean)


def _predict_noise(unet: Any, noisy: Tensor, seen: Tensor | None, t: Tensor, i: int, steps: int,
                   conditions: Conditions, unconditional: int) -> Tensor:
    text = conditions.text_states
    residuals = total(
        structure.guide(noisy, t, text, structure.weight, conditions.added, unconditional)
        for structure in conditions.structures
        if structure.weight > 0 and active(structure.window, i, steps)
    )
    prompts: tuple[ImagePrompt, ...] = ()
    if active(conditions.image_window, i, steps):
        prompts = tuple(timed.prompt for timed in conditions.image_prompts
                        if active(timed.window, i, steps))
    if seen is not None:  # the UNet's alone: a ControlNet reads the noisy latents
        noisy = torch.cat([noisy, seen.repeat(len(noisy) // len(seen), 1, 1, 1)], dim=1)
    return unet(noisy, t, encoder_hidden_states=text, added_cond_kwargs=conditions.added,
                cross_attention_kwargs={"ip_hidden_states": prompts} if prompts else None,
                **residuals.unet_arguments()).sample


def steps_taken(request: GenerateRequest) -> int:
    """How many of the steps of a request are taken: fewer where it starts from a picture, and one
    more with PNDM, which takes one twice."""
    given = request.inpaint
    strength = given.strength if given else request.strength if request.init_image else 1.0
    twice = effective_request(request).sampler == "pndm" and request.steps > 1
    return _kept(request.steps, strength) + int(twice)


def unet_calls(request: GenerateRequest) -> int:
    """How often the UNet runs: `passes` times a step, but once in the last."""
    passes = request.inpaint.passes if request.inpaint else 1
    return (steps_taken(request) - 1) * passes + 1


def _kept(steps: int, strength: float) -> int:
    return max(1, min(int(steps * strength), steps))


def _remaining_timesteps(scheduler: Any, steps: int, strength: float) -> Tensor:
    """All of them, or the last `strength` of them, as diffusers' image-to-image counts."""
    skipped = steps - _kept(steps, strength)
    if skipped and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped * scheduler.order)
    return scheduler.timesteps[skipped * scheduler.order :]


def _first_latents(scheduler: Any, timesteps: Tensor, start: Start) -> Tensor:
    if start.origin is None or start.strength >= 1.0:
        return start.noise * scheduler.init_noise_sigma
    return _noised(scheduler, start, timesteps[0])


def _keep_origin(scheduler: Any, timesteps: Tensor, i: int, start: Start,
                 latents: Tensor) -> Tensor:
    """Outside the mask, put the origin back at the noise level of the step to come."""
    if start.mask is None:
        return latents
    assert start.origin is not None
    origin = start.origin
    if i + 1 < len(timesteps):
        origin = _noised(scheduler, start, timesteps[i + 1])
    return (1 - start.mask) * origin + start.mask * latents


def _stepped_back(scheduler: Any, t: Tensor, after: Tensor, start: Start,
                  latents: Tensor) -> Tensor:
    """From the noise level of the timestep `after` up to that of t, by the forward process
    (RePaint, arXiv 2201.09865, equation 1)."""
    ratio = scheduler.alphas_cumprod[int(t)] / scheduler.alphas_cumprod[int(after)]
    noise = torch.stack([torch.randn(latents.shape[1:], generator=own)
                         for own in start.generators]).to(latents)
    ratio = ratio.to(latents)
    return ratio.sqrt() * latents + (1 - ratio).sqrt() * noise


def _noised(scheduler: Any, start: Start, t: Tensor) -> Tensor:
    assert start.origin is not None
    origin = start.origin.expand_as(start.noise)
    return scheduler.add_noise(origin, start.noise, t.expand(len(start.noise)))


def _clean(scheduler: Any, stepped: Any, noise: Tensor, t: Tensor, latents: Tensor) -> Tensor:
    """The prediction of x_0, for previews. Euler works in another scale and gives its own."""
    if getattr(stepped, "pred_original_sample", None) is not None:
        return stepped.pred_original_sample
    alpha = scheduler.alphas_cumprod[int(t)].to(latents)
    if scheduler.config.prediction_type == "v_prediction":
        return alpha.sqrt() * latents - (1 - alpha).sqrt() * noise
    if scheduler.config.prediction_type == "sample":
        return noise
    return (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
