"""Views of a request before it is drawn, without the weights that draw it."""

from __future__ import annotations

from PIL import Image

from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline.conditioning import Conditioner
from ipadapter_demo.pipeline.inpainting.plan import plan_for
from ipadapter_demo.pipeline.price import Price, price_of
from ipadapter_demo.pipeline.sizes import Size
from ipadapter_demo.request import GenerateRequest, Reference, Structure


class Previews:
    """Of one model; `BaseModel.without_weights` will do."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model
        self._conditioner = Conditioner(model)

    def encoder_view(self, reference: Reference) -> Image.Image:
        """Exactly what the image encoder sees of a reference; of several squares all, side by
        side. Raises RequestError for embeds."""
        return self._conditioner.references.input.view(reference)

    def structure_map(self, structure: Structure, size: Size | None = None) -> Image.Image:
        """The map a structure stands for, by default as drawn for an output of native size."""
        native = self._model.native_size
        return self._conditioner.maps.structure_map(structure, size or (native, native))

    def structure_maps(self, request: GenerateRequest) -> list[Image.Image]:
        """The maps of a request, as its structure networks read them."""
        *_, last = plan_for(request, self._model.native_size).passes
        return [self.structure_map(structure, last.size) for structure in last.drawn.structures]

    def working_size(self, request: GenerateRequest) -> Size:
        """(width, height) the model works at: see `sizes.working_size`."""
        return plan_for(request, self._model.native_size).size

    def price(self, request: GenerateRequest, preview_every: int = 0) -> Price:
        """What drawing a request costs, with previews after every `preview_every` steps."""
        plan, model = plan_for(request, self._model.native_size), self._model
        known = model.entry.structures
        return price_of(plan.drawn, plan.size, model.native_size, known, preview_every)
