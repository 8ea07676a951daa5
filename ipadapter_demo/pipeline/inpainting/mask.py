"""An inpainting mask as tensors: the one place where it becomes pixels and latent cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image, ImageChops
from torch import Tensor

from ipadapter_demo.imaging import inner_mask, mask_from_image, pixels_from_images, resize_image
from ipadapter_demo.models.structure import around_hole
from ipadapter_demo.pipeline.latents import LatentEncoder
from ipadapter_demo.pipeline.sizes import Size
from ipadapter_demo.request import Inpaint

RIM = 0.05  # of the longer side: so far inside the mask the picture itself still is the prompt


def latent_mask(mask: Image.Image, shape: tuple[int, int]) -> Tensor:
    """(1, 1, h, w), 1 where a cell is replaced. One that the mask touches is replaced as a whole:
    thin strokes must not vanish."""
    return F.adaptive_max_pool2d(mask_from_image(mask), shape)


def pixels_around_hole(given: Inpaint, size: Size) -> Tensor:
    """(1, 4, H, W) at the working size: what the network that reads the picture around a mask is
    given. A pixel that the mask touches is part of the hole."""
    pixels = (pixels_from_images([resize_image(given.image, size)]) + 1) / 2
    hole = F.adaptive_max_pool2d(mask_from_image(given.mask), (size[1], size[0]))
    return around_hole(pixels, hole)


def mask_conditioning(given: Inpaint | None, size: Size, latents: LatentEncoder) -> Tensor:
    """(1, 5, h, w) for a UNet trained for inpainting: the mask, and the latents of what is left,
    with grey in the hole. Without an inpainting everything is to be replaced."""
    _, *shape = latents.shape(size)
    if given is None:
        grey = latents.encode(torch.zeros(1, 3, size[1], size[0]))
        return torch.cat([torch.ones_like(grey[:, :1]), grey], dim=1)
    pixels = pixels_from_images([resize_image(given.image, size)])
    hole = mask_from_image(resize_image(given.mask, size)) >= 0.5
    left = latents.encode(pixels.masked_fill(hole, 0.0))
    return torch.cat([latent_mask(given.mask, (shape[0], shape[1])).to(left), left], dim=1)


def inside_and_around(mask: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The regions in which references act, and the picture itself."""
    inside = inner_mask(mask, round(RIM * max(mask.size)))
    return inside, ImageChops.invert(inside)
