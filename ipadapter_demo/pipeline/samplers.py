"""Samplers by name: each a constructor of a diffusers scheduler, from a model's configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.schedule import SchedulerConfig, ends_at_zero_snr, saying

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


def _dpm_plus_plus(config: SchedulerConfig) -> SchedulerMixin:
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")


def _ddim(config: SchedulerConfig) -> SchedulerMixin:
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(config)


def _pndm(config: SchedulerConfig) -> SchedulerMixin:
    from diffusers import PNDMScheduler

    return PNDMScheduler.from_config(config, skip_prk_steps=True)


def _euler(config: SchedulerConfig) -> SchedulerMixin:
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler.from_config(config)


def _lcm(config: SchedulerConfig) -> SchedulerMixin:
    """For a model distilled to few steps (Latent Consistency Models, arXiv 2310.04378)."""
    from diffusers import LCMScheduler

    return LCMScheduler.from_config(config)


def _tcd(config: SchedulerConfig) -> SchedulerMixin:
    """Likewise (Trajectory Consistency Distillation, arXiv 2402.19159), with its γ of 0.3: the
    share of noise in every step."""
    from diffusers import TCDScheduler

    return TCDScheduler.from_config(config)


def _euler_ancestral(config: SchedulerConfig) -> SchedulerMixin:
    from diffusers import EulerAncestralDiscreteScheduler

    return EulerAncestralDiscreteScheduler.from_config(config)


def _unipc(config: SchedulerConfig) -> SchedulerMixin:
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler.from_config(config)


def _heun(config: SchedulerConfig) -> SchedulerMixin:
    from diffusers import HeunDiscreteScheduler

    return HeunDiscreteScheduler.from_config(config)


def _dpm_plus_plus_sde(config: SchedulerConfig) -> SchedulerMixin:
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler.from_config(config, algorithm_type="sde-dpmsolver++")


SAMPLERS: dict[str, Callable[[SchedulerConfig], SchedulerMixin]] = {
    "dpm++": _dpm_plus_plus,
    "ddim": _ddim,
    "pndm": _pndm,
    "euler": _euler,
    "lcm": _lcm,
    "tcd": _tcd,
    "euler_a": _euler_ancestral,
    "unipc": _unipc,
    "heun": _heun,
    "dpm++ sde": _dpm_plus_plus_sde,
}
# PNDM divides by the signal, and diffusers' Heun would silently begin from other noise levels.
NOT_FROM_ZERO_SNR = ("pndm", "heun")

_NO_SIGMAS = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
NOISE_SCHEDULES: dict[str, SchedulerConfig] = {
    "default": {},
    "karras": _NO_SIGMAS | {"use_karras_sigmas": True},
    "leading": _NO_SIGMAS | {"timestep_spacing": "leading"},
    "trailing": _NO_SIGMAS | {"timestep_spacing": "trailing"},
}


def new_scheduler(
    sampler: str, config: SchedulerConfig, noise_schedule: str = "default"
) -> SchedulerMixin:
    """A scheduler of its own for one request; schedulers carry state.

    Raises RequestError for a sampler that is unknown, and for a sampler or noise schedule that
    cannot draw with such a model.
    """
    if sampler not in SAMPLERS:
        raise RequestError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r:.80}")
    if ends_at_zero_snr(config):
        _check_begins_at_noise(sampler, noise_schedule)
    return SAMPLERS[sampler](saying(config, NOISE_SCHEDULES[noise_schedule]))


def _check_begins_at_noise(sampler: str, noise_schedule: str) -> None:
    if sampler in NOT_FROM_ZERO_SNR:
        others = ", ".join(name for name in SAMPLERS if name not in NOT_FROM_ZERO_SNR)
        raise RequestError(
            f"sampler must be one of {others} for a model with zero terminal SNR, got {sampler!r}"
        )
    if noise_schedule == "leading":
        raise RequestError(
            "noise_schedule must not be leading for a model with zero terminal SNR: its steps have "
            "to begin at pure noise"
        )
