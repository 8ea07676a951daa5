"""References as the image encoder reads them: squares, normalised as it was trained."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.fit import Fit, square_boxes
from ipadapter_demo.imaging import (
    PAD_COLOUR,
    centre_crop,
    fit_square,
    mask_from_image,
    resize_image,
)
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline.cache import digest
from ipadapter_demo.reference import Reference


class EncoderInput:
    """Of one model's image encoder, without its weights."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model

    def view(self, reference: Reference) -> Image.Image:
        """The squares beside each other, in the order of the picture, as one picture."""
        squares = self.squares(reference)
        hidden = Image.new("RGB", squares[0].size, PAD_COLOUR)
        masks = self._masks(reference)
        squares = [
            square if mask is None else Image.composite(square, hidden, mask)
            for square, mask in zip(squares, masks, strict=True)
        ]
        if len(squares) == 1:
            return squares[0]
        side, wide = squares[0].width, reference.picture.width >= reference.picture.height
        count = len(squares)
        whole = Image.new("RGB", (count * side, side) if wide else (side, count * side))
        for number, square in enumerate(squares):
            whole.paste(square, (number * side, 0) if wide else (0, number * side))
        return whole

    def pixels(self, reference: Reference) -> list[Tensor]:
        """(1, 3, S, S) of each square. What `clip_mask` hides is 0 there, the mean colour."""
        found = map(self.clip_pixels, self.squares(reference))
        return [
            pixels if mask is None else pixels * mask_from_image(mask).to(pixels)
            for pixels, mask in zip(found, self._masks(reference), strict=True)
        ]

    def squares(self, reference: Reference) -> list[Image.Image]:
        """Of the picture, with its noise, before normalisation."""
        squares = self._squares(reference.picture, reference)
        if reference.noise == 0:
            return squares
        return [noisy(square, reference.noise, number) for number, square in enumerate(squares)]

    def square(self, image: Image.Image, fit: Fit) -> Image.Image:
        """The fit "crop" is what the model's image processor does, which may leave out a border."""
        size, processor = self._model.image_encoder.config.image_size, self._model.image_processor
        if fit != "crop":
            return fit_square(image, size, fit)
        shortest = processor.size.shortest_edge or size
        return centre_crop(image, shortest, size, processor.resample)

    def clip_pixels(self, square: Image.Image) -> Tensor:
        """(1, 3, S, S), normalised as the encoder was trained, with CLIPImageProcessor's own
        rounding: double precision up to the factor, single from there on."""
        processor = self._model.image_processor
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )
        levels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].double()
        pixels = ((levels * processor.rescale_factor).float() - mean) / std
        return pixels.to(self._model.device, self._model.dtype)

    def _squares(self, image: Image.Image, reference: Reference) -> list[Image.Image]:
        if reference.fit == "tile":
            return [self.square(image.crop(box), "crop") for box in square_boxes(image.size)]
        return [self.square(image, reference.fit)]

    def _masks(self, reference: Reference) -> list[Image.Image | None]:
        """White where the encoder sees, one for each square. A padded border has its colour."""
        if reference.clip_mask is None:
            return [None] * reference.squares
        seen = resize_image(reference.clip_mask, reference.picture.size)
        return [
            square.convert("L").point(lambda level: 255 if level >= 128 else 0)
            for square in self._squares(seen.convert("RGB"), reference)
        ]


def noisy(square: Image.Image, share: float, number: int = 0) -> Image.Image:
    """A picture that fades into uniform noise: at a `share` of 1 nothing of it is left. The noise
    of a square is the same every time. ("fade" of ComfyUI_IPAdapter_plus.)"""
    generator = torch.Generator().manual_seed(number)
    noise = torch.rand(square.height, square.width, 3, generator=generator) * 255
    mixed = torch.from_numpy(np.array(square)).float() * (1 - share) + noise * share
    return Image.fromarray(mixed.round().byte().numpy())


def content_of(reference: Reference) -> Hashable:
    """Equal for references of which the encoder reads the same."""
    given = None if reference.embeds is None else reference.embeds.sha256
    if reference.image is None:
        return given
    hidden = None if reference.clip_mask is None else digest(reference.clip_mask)
    seen = digest(reference.image), reference.fit, hidden, reference.noise
    return *seen, reference.face, given
