"""Numbers of steps and model calls of a request, of both passes where it is upscaled, known before
it runs."""

from __future__ import annotations

from ipadapter_demo.pipeline.conditions import is_active
from ipadapter_demo.pipeline.effective import effective_request
from ipadapter_demo.pipeline.passes import passes_of
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
    return sum(len(calls) for calls in _calls(request))


def unet_calls(request: GenerateRequest) -> int:
    """Number of UNet calls."""
    return sum(sum(calls) for calls in _calls(request))


def guided_calls(request: GenerateRequest) -> int:
    """Number of those that have an unconditional half: the calls of the steps inside
    `guidance_window`, and none at guidance 1."""
    if request.guidance == 1.0:
        return 0
    window = request.guidance_window
    return sum(
        number
        for calls in _calls(request)
        for i, number in enumerate(calls)
        if is_active(window, i, len(calls))
    )


def _calls(request: GenerateRequest) -> list[list[int]]:
    """Of each pass the calls by step: `repaint_passes` of them, or two with Heun's method, but one
    in the last step."""
    times = request.inpaint.repaint_passes if request.inpaint else 1
    sampler = effective_request(request).sampler
    if sampler == "heun":
        times = 2
    twice = int(sampler == "pndm" and request.steps > 1)
    steps = (kept_steps(one.steps, init_strength(one)) + twice for one in passes_of(request))
    return [[times] * (number - 1) + [1] for number in steps]
