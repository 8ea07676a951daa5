"""Samplers by name: each a constructor of a diffusers scheduler, from a model's configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.schedule import ends_at_zero_snr

Config = dict[str, Any]


def _dpm_plus_plus(config: Config) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler.from_config(config, algorithm_type="dpmsolver++")


def _ddim(config: Config) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(config)


def _pndm(config: Config) -> Any:
    """Refused where the noise ends at zero SNR: it divides by the signal there, and diffusers'
    would silently begin from other noise levels."""
    from diffusers import PNDMScheduler

    if ends_at_zero_snr(config):
        others = ", ".join(name for name in SAMPLERS if name != "pndm")
        raise RequestError(
            f"sampler must be one of {others} for a model with zero terminal SNR, got 'pndm'"
        )
    return PNDMScheduler.from_config(config, skip_prk_steps=True)


def _euler(config: Config) -> Any:
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler.from_config(config)


def _lcm(config: Config) -> Any:
    """For a model distilled to few steps (Latent Consistency Models, arXiv 2310.04378)."""
    from diffusers import LCMScheduler

    return LCMScheduler.from_config(config)


SAMPLERS: dict[str, Callable[[Config], Any]] = {
    "dpm++": _dpm_plus_plus,
    "ddim": _ddim,
    "pndm": _pndm,
    "euler": _euler,
    "lcm": _lcm,
}


def new_scheduler(sampler: str, config: Config) -> Any:
    """A scheduler of its own for one request; schedulers carry state.

    Raises RequestError for a sampler that is unknown, or cannot draw with such a model.
    """
    if sampler not in SAMPLERS:
        raise RequestError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
    return SAMPLERS[sampler](config)
