"""The request that is drawn, where it cannot be the one that was asked for.

It is found before anything runs, and it is the one that is recorded.
"""

from __future__ import annotations

from dataclasses import replace

from ipadapter_demo.request import GenerateRequest


def effective_request(asked: GenerateRequest) -> GenerateRequest:
    """With repaint_passes above 1 the sampler is DDIM: it alone takes a step a second time as if it
    were the first, the others remember."""
    if asked.inpaint is not None and asked.inpaint.repaint_passes > 1:
        return replace(asked, sampler="ddim")
    return asked


def changed_warnings(asked: GenerateRequest, drawn: GenerateRequest) -> tuple[str, ...]:
    """A warning where the request that was drawn is not the one that was asked for."""
    if drawn.sampler == asked.sampler:
        return ()
    return (
        f"The sampler was {drawn.sampler}, not {asked.sampler}: inpainting with repaint_passes "
        "above 1 takes every step again, which only DDIM can.",
    )
