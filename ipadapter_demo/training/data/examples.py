"""The parts of a training example: target, input of the image encoder, a map, the caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.imaging import fit_square
from ipadapter_demo.models.annotators import annotate
from ipadapter_demo.models.sources import Locate, fetched
from ipadapter_demo.training.data.types import Pair

if TYPE_CHECKING:
    from transformers import CLIPImageProcessor


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One picture with its caption, ready to be put into a batch. Either the pictures are there or
    what the frozen encoders made of them; a map and what the image encoder sees where the training
    wants them."""

    caption: str
    original: tuple[int, int]  # height and width of the file's picture
    crop: tuple[int, int]  # top and left of the centre crop, in the reduced picture
    pixels: Tensor | None = None  # uint8 (3, S, S)
    latents: Tensor | None = None  # scaled, half precision (C, h, w)
    clip_pixels: Tensor | None = None  # (3, E, E), normalised for the encoder
    embeds: Tensor | None = None  # what the adapter reads of them, half precision
    map: Tensor | None = None  # uint8 (3, S, S)
    hole: Tensor | None = None  # (1, S, S), 1 inside: what is to be painted anew


@dataclass(frozen=True, slots=True, eq=False)
class Preparer:
    """From a row of a shard to an Example; runs in the processes that read."""

    size: int
    image_processor: CLIPImageProcessor | None = None  # where there is an encoder to see
    annotator: str | None = None  # where there is a map to draw
    own_pictures: bool = False  # for the encoder, even if there is a reference
    locate: Locate = fetched  # of the detector that draws it

    def __call__(self, row: Pair | Example) -> Example:
        if isinstance(row, Example):  # encoded beforehand
            return row
        image = row.image
        cropped = fit_square(image, self.size, "crop")
        shorter = min(image.size)
        top, left = (
            (int(self.size * side / shorter) - self.size) // 2
            for side in (image.height, image.width)
        )
        seen = None
        if self.image_processor is not None:
            shown = image if self.own_pictures else row.reference or image
            seen = self.image_processor(shown, return_tensors="pt").pixel_values[0]
        drawn = None
        if self.annotator is not None:
            drawn = _bytes(annotate(self.annotator, cropped, self.locate))
        return Example(
            row.caption,
            (image.height, image.width),
            (top, left),
            _bytes(cropped),
            clip_pixels=seen,
            map=drawn,
        )


def _bytes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
