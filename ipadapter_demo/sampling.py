"""The samplers by name, and the steps each of them can take."""

from __future__ import annotations

from typing import Literal, get_args

from ipadapter_demo.errors import RequestError

Sampler = Literal["dpm++", "ddim", "pndm", "euler", "lcm"]

SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
# For models distilled to few steps, at these many noise levels (arXiv 2310.04378, section 4.3).
FEW_STEP_SAMPLERS: tuple[Sampler, ...] = ("lcm",)
DISTILLED_LEVELS = 50


def check_steps(sampler: Sampler, steps: int) -> None:
    """Raises RequestError for more steps than a sampler has noise levels."""
    if sampler in FEW_STEP_SAMPLERS and steps > DISTILLED_LEVELS:
        raise RequestError(
            f"steps must be at most {DISTILLED_LEVELS} for the sampler {sampler}, got {steps}"
        )
