"""The request that is drawn, where it cannot be the one that was asked for.

It is found before anything runs, and it is the one that is recorded.
"""

from __future__ import annotations

from dataclasses import replace

from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.sampling import schedule_for


def effective_request(asked: GenerateRequest) -> GenerateRequest:
    """With repaint_passes above 1 the sampler is DDIM: it alone takes a step a second time as if it
    were the first, the others remember. A noise schedule that it does not take is the model's."""
    if asked.inpaint is None or asked.inpaint.repaint_passes == 1:
        return asked
    schedule = schedule_for("ddim", asked.noise_schedule)
    return replace(asked, sampler="ddim", noise_schedule=schedule)


def changed_warnings(asked: GenerateRequest, drawn: GenerateRequest) -> tuple[str, ...]:
    """A warning where the request that was drawn is not the one that was asked for."""
    said = []
    if drawn.sampler != asked.sampler:
        said.append(
            f"The sampler was {drawn.sampler}, not {asked.sampler}: inpainting with repaint_passes "
            "above 1 takes every step again, which only DDIM can."
        )
    if drawn.noise_schedule != asked.noise_schedule:
        said.append(
            f"The noise schedule was the model's own, not {asked.noise_schedule}, which "
            f"{drawn.sampler} does not have."
        )
    return tuple(said)
