"""What can be shown of a request before it is drawn, and without the weights that draw it."""

from __future__ import annotations

import math
from threading import Lock

from PIL import Image

from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline.close_up import close_up
from ipadapter_demo.pipeline.conditioning import Conditioner, Size
from ipadapter_demo.request import (
    MAX_SIZE,
    MIN_SIZE,
    SIZE_STEP,
    GenerateRequest,
    Reference,
    Structure,
)


class Previews:
    """Of one model; `BaseModel.without_weights` will do."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model
        self._lane = Lock()
        self._conditioner = Conditioner(model, self._lane)

    def encoder_view(self, reference: Reference) -> Image.Image:
        """Exactly what the image encoder sees of a reference."""
        return self._conditioner.encoder_view(reference)

    def structure_map(self, structure: Structure, size: Size | None = None) -> Image.Image:
        """The map a structure stands for, by default as drawn for an output of native size."""
        native = self._model.native_size
        return self._conditioner.structure_map(structure, size or (native, native))

    def structure_maps(self, request: GenerateRequest) -> list[Image.Image]:
        """The maps of a request, as its structure networks read them."""
        near = close_up(request)
        size = self.working_size(near)
        return [self.structure_map(structure, size) for structure in near.structures]

    def working_size(self, request: GenerateRequest) -> Size:
        """(width, height) the model works at. Sides that the request leaves open are the model's
        own, or follow the proportions of the picture that is being changed."""
        inpaint = close_up(request).inpaint
        given = inpaint.image if inpaint else request.init_image
        native = self._model.native_size
        width, height = native, native
        if given is not None:
            scale = native / math.sqrt(given.width * given.height)
            width, height = _side(given.width * scale), _side(given.height * scale)
        return request.width or width, request.height or height


def _side(length: float) -> int:
    return min(MAX_SIZE, max(MIN_SIZE, round(length / SIZE_STEP) * SIZE_STEP))
