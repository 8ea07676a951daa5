"""Numbers of steps and model calls of a request, known before it runs."""

from __future__ import annotations

from ipadapter_demo.pipeline.conditions import is_active
from ipadapter_demo.pipeline.effective import effective_request
from ipadapter_demo.pipeline.schedule import kept_steps
from ipadapter_demo.request import GenerateRequest


def init_strength(request: GenerateRequest) -> float:
    """The share of the steps that is taken: less than 1 only where a picture is given."""
    if request.inpaint is not None:
        return request.inpaint.strength
    return 1.0 if request.init_image is None else request.strength


def steps_taken(request: GenerateRequest) -> int:
    """Number of steps that a request takes: fewer where it starts from a picture, and one more
    with PNDM, which takes one twice."""
    twice = effective_request(request).sampler == "pndm" and request.steps > 1
    return kept_steps(request.steps, init_strength(request)) + int(twice)


def unet_calls(request: GenerateRequest) -> int:
    """Number of UNet calls."""
    return sum(_calls_by_step(request))


def guided_calls(request: GenerateRequest) -> int:
    """Number of those that have an unconditional half: the calls of the steps inside
    `guidance_window`, and none at guidance 1."""
    calls = _calls_by_step(request) if request.guidance > 1.0 else []
    window, steps = request.guidance_window, len(calls)
    return sum(number for i, number in enumerate(calls) if is_active(window, i, steps))


def _calls_by_step(request: GenerateRequest) -> list[int]:
    """`repaint_passes` of them, or two with Heun's method, but one in the last step."""
    times = request.inpaint.repaint_passes if request.inpaint else 1
    if effective_request(request).sampler == "heun":
        times = 2
    return [times] * (steps_taken(request) - 1) + [1]
