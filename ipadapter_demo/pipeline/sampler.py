"""The denoising loop, as a generator: whoever iterates it sees every step and may stop at any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ipadapter_demo.adapter import ImagePrompt, fill_kv_cache
from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.schedule import ends_at_zero_snr
from ipadapter_demo.models.structure import total
from ipadapter_demo.pipeline.conditioning import Conditions, is_active
from ipadapter_demo.pipeline.effective import effective_request
from ipadapter_demo.request import SAMPLERS, GenerateRequest, Sampler


@dataclass(frozen=True, slots=True, eq=False)
class LatentInit:
    """Where sampling begins and what it must keep.

    noise (B, C, h, w) is each image's own; `init_latents` (B or 1, C, h, w) the latents of given
    pictures, `mask` (B or 1, 1, h, w) is 1 where they are to be replaced. `mask_conditioning` (B or
    1, 5, h, w) is what a UNet trained for inpainting sees besides: the mask, and the latents of
    what is left. Every step is taken `repaint_passes` times, with noise from each image's own of
    `generators` in between."""

    noise: Tensor
    init_latents: Tensor | None = None
    strength: float = 1.0
    mask: Tensor | None = None
    mask_conditioning: Tensor | None = None
    repaint_passes: int = 1
    generators: tuple[torch.Generator, ...] = ()

    @classmethod
    def collate(cls, each: Sequence[LatentInit]) -> LatentInit:
        """Those of several requests in one batch, which have the same fields set."""
        if len(each) == 1:
            return each[0]

        def rows(name: str) -> Tensor | None:
            values = [getattr(own, name) for own in each]
            return (
                None
                if values[0] is None
                else torch.cat(
                    [
                        value.expand(len(own.noise), -1, -1, -1)
                        for value, own in zip(values, each, strict=True)
                    ]
                )
            )

        return replace(
            each[0],
            noise=torch.cat([own.noise for own in each]),
            init_latents=rows("init_latents"),
            mask=rows("mask"),
            mask_conditioning=rows("mask_conditioning"),
            generators=tuple(generator for own in each for generator in own.generators),
        )


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
        raise RequestError(
            f"sampler must be one of {others} for a model with zero terminal SNR, got 'pndm'"
        )
    if sampler == "ddim":
        return DDIMScheduler.from_config(config)
    if sampler == "pndm":
        return PNDMScheduler.from_config(config, skip_prk_steps=True)
    if sampler == "euler":
        return EulerDiscreteScheduler.from_config(config)
    return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")


@torch.no_grad()
def denoise(
    unet: Any,
    scheduler: Any,
    steps: int,
    guidance: Guidance,
    init: LatentInit,
    conditions: Conditions,
    model_lock: Lock,
) -> Iterator[Step]:
    """Classifier-free guidance over rows [unconditional..., conditional...].

    `model_lock` is held while a model runs and never while the caller looks at a step.
    """
    with model_lock:
        fill_kv_cache(unet, [timed.prompt for timed in conditions.image_prompts])
    scheduler.set_timesteps(steps, device=init.noise.device)
    timesteps = _remaining_timesteps(scheduler, steps, init.strength)
    latents = _first_latents(scheduler, timesteps, init)
    for i, t in enumerate(timesteps):
        for again in reversed(range(init.repaint_passes if i + 1 < len(timesteps) else 1)):
            halves = torch.cat([latents] * 2) if guidance.on else latents
            noisy = scheduler.scale_model_input(halves, t)
            with model_lock:
                noise = _predict_noise(
                    unet,
                    noisy,
                    init.mask_conditioning,
                    t,
                    i,
                    len(timesteps),
                    conditions,
                    unconditional=len(noisy) - len(latents),
                )
            if guidance.on:
                noise = guidance.combined(*noise.chunk(2))
            stepped = scheduler.step(noise, t, latents)
            clean = _clean(scheduler, stepped, noise, t, latents)
            latents = _keep_outside(scheduler, timesteps, i, init, stepped.prev_sample)
            if again:
                latents = _renoise(scheduler, t, timesteps[i + 1], init, latents)
        yield Step(i + 1, len(timesteps), latents, clean)


def _predict_noise(
    unet: Any,
    noisy: Tensor,
    mask_conditioning: Tensor | None,
    t: Tensor,
    i: int,
    steps: int,
    conditions: Conditions,
    unconditional: int,
) -> Tensor:
    text = conditions.text_states
    residuals = total(
        structure.condition(noisy, t, text, structure.weight, conditions.added, unconditional)
        for structure in conditions.structures
        if structure.weight > 0 and is_active(structure.window, i, steps)
    )
    prompts: tuple[ImagePrompt, ...] = ()
    if is_active(conditions.image_window, i, steps):
        prompts = tuple(
            timed.prompt for timed in conditions.image_prompts if is_active(timed.window, i, steps)
        )
    if mask_conditioning is not None:  # the UNet's alone: a ControlNet reads the noisy latents
        noisy = torch.cat(
            [noisy, mask_conditioning.repeat(len(noisy) // len(mask_conditioning), 1, 1, 1)], dim=1
        )
    return unet(
        noisy,
        t,
        encoder_hidden_states=text,
        added_cond_kwargs=conditions.added,
        cross_attention_kwargs={"ip_hidden_states": prompts} if prompts else None,
        **residuals.unet_arguments(),
    ).sample


def steps_taken(request: GenerateRequest) -> int:
    """How many of the steps of a request are taken: fewer where it starts from a picture, and one
    more with PNDM, which takes one twice."""
    given = request.inpaint
    strength = given.strength if given else request.strength if request.init_image else 1.0
    twice = effective_request(request).sampler == "pndm" and request.steps > 1
    return _kept(request.steps, strength) + int(twice)


def unet_calls(request: GenerateRequest) -> int:
    """How often the UNet runs: `repaint_passes` times a step, but once in the last."""
    repaint_passes = request.inpaint.repaint_passes if request.inpaint else 1
    return (steps_taken(request) - 1) * repaint_passes + 1


def _kept(steps: int, strength: float) -> int:
    return max(1, min(int(steps * strength), steps))


def _remaining_timesteps(scheduler: Any, steps: int, strength: float) -> Tensor:
    """All of them, or the last `strength` of them, as diffusers' image-to-image counts."""
    skipped = steps - _kept(steps, strength)
    if skipped and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped * scheduler.order)
    return scheduler.timesteps[skipped * scheduler.order :]


def _first_latents(scheduler: Any, timesteps: Tensor, init: LatentInit) -> Tensor:
    if init.init_latents is None or init.strength >= 1.0:
        return init.noise * scheduler.init_noise_sigma
    return _noised(scheduler, init, timesteps[0])


def _keep_outside(
    scheduler: Any, timesteps: Tensor, i: int, init: LatentInit, latents: Tensor
) -> Tensor:
    """Outside the mask, put the init_latents back at the noise level of the step to come."""
    if init.mask is None:
        return latents
    assert init.init_latents is not None
    init_latents = init.init_latents
    if i + 1 < len(timesteps):
        init_latents = _noised(scheduler, init, timesteps[i + 1])
    return (1 - init.mask) * init_latents + init.mask * latents


def _renoise(scheduler: Any, t: Tensor, after: Tensor, init: LatentInit, latents: Tensor) -> Tensor:
    """From the noise level of the timestep `after` up to that of t, by the forward process
    (RePaint, arXiv 2201.09865, equation 1)."""
    ratio = scheduler.alphas_cumprod[int(t)] / scheduler.alphas_cumprod[int(after)]
    noise = torch.stack(
        [torch.randn(latents.shape[1:], generator=own) for own in init.generators]
    ).to(latents)
    ratio = ratio.to(latents)
    return ratio.sqrt() * latents + (1 - ratio).sqrt() * noise


def _noised(scheduler: Any, init: LatentInit, t: Tensor) -> Tensor:
    assert init.init_latents is not None
    init_latents = init.init_latents.expand_as(init.noise)
    return scheduler.add_noise(init_latents, init.noise, t.expand(len(init.noise)))


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
