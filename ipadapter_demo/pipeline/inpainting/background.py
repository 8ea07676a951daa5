"""The picture itself as the image prompt around a mask, while a reference acts inside: so the
reference brings its thing and not its background."""

from __future__ import annotations

from dataclasses import replace

from ipadapter_demo.pipeline.inpainting.mask import inside_and_around
from ipadapter_demo.request import GenerateRequest, Reference


def split_by_mask(
    request: GenerateRequest, has_inpaint_adapter: bool = False
) -> tuple[list[Reference], list[Reference]]:
    """The references that are to be followed, each with the region it acts in, and what stands for
    the rest of the picture. A region that the request gives stays. `has_inpaint_adapter`: the model
    has a network that reads what is left, and was trained with references that act inside the
    mask."""
    followed = [r for r in request.references if not r.negative and r.weight > 0]
    given = request.inpaint
    if given is None or not followed or not (has_inpaint_adapter or given.background_weight):
        return followed, []
    inner, outer = inside_and_around(given.mask)
    followed = [r if r.mask is not None else replace(r, mask=inner) for r in followed]
    if given.background_weight == 0 or outer.getbbox() is None:
        return followed, []
    own = Reference(image=given.image, weight=given.background_weight, fit="squash", mask=outer)
    return followed, [own]
