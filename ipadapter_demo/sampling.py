"""The samplers by name, and the steps and noise schedules each of them can take."""

from __future__ import annotations

from typing import Literal, get_args

from ipadapter_demo import checks
from ipadapter_demo.errors import RequestError

Sampler = Literal[
    "dpm++", "ddim", "pndm", "euler", "lcm", "tcd", "euler_a", "unipc", "heun", "dpm++ sde"
]
# The noise levels that steps are taken at: "default" is the model's own; "karras" those of
# arXiv 2206.00364, equation 5; "leading" and "trailing" the spacings of arXiv 2305.08891, table 2.
NoiseSchedule = Literal["default", "karras", "leading", "trailing"]

SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
NOISE_SCHEDULES: tuple[NoiseSchedule, ...] = get_args(NoiseSchedule)

KARRAS_SAMPLERS: tuple[Sampler, ...] = ("dpm++", "euler", "unipc", "heun", "dpm++ sde")
# For models distilled to few steps, at these many noise levels (arXiv 2310.04378, section 4.3;
# arXiv 2402.19159). They take no noise levels but those.
FEW_STEP_SAMPLERS: tuple[Sampler, ...] = ("lcm", "tcd")
DISTILLED_LEVELS = 50


def noise_schedules_of(sampler: Sampler) -> tuple[NoiseSchedule, ...]:
    """Those that change what a sampler draws, and "default"."""
    if sampler in FEW_STEP_SAMPLERS:
        return ("default",)
    if sampler not in KARRAS_SAMPLERS:
        return tuple(name for name in NOISE_SCHEDULES if name != "karras")
    return NOISE_SCHEDULES


def schedule_for(sampler: Sampler, noise_schedule: NoiseSchedule) -> NoiseSchedule:
    """The noise schedule, where the sampler takes it; else the model's own."""
    return noise_schedule if noise_schedule in noise_schedules_of(sampler) else "default"


def check_sampling(sampler: Sampler, noise_schedule: NoiseSchedule, steps: int) -> None:
    """Raises RequestError for a noise schedule that is unknown or that a sampler does not take, and
    for more steps than it has noise levels."""
    checks.one_of("noise_schedule", noise_schedule, NOISE_SCHEDULES)
    able = noise_schedules_of(sampler)
    if noise_schedule not in able:
        which = f"one of {', '.join(able)}" if len(able) > 1 else able[0]
        raise RequestError(
            f"noise_schedule must be {which} for the sampler {sampler}, got {noise_schedule!r:.80}"
        )
    if sampler in FEW_STEP_SAMPLERS and steps > DISTILLED_LEVELS:
        raise RequestError(
            f"steps must be at most {DISTILLED_LEVELS} for the sampler {sampler}, got {steps}"
        )
