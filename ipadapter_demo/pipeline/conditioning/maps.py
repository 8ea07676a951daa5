"""Structure maps: drawn from pictures by annotators, and read by structure networks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from PIL import Image
from torch import Tensor

from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import (
    PAD_COLOUR,
    mask_from_image,
    pixels_from_images,
    resize_image,
)
from ipadapter_demo.models.annotators import annotate
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.structure import ControlCondition
from ipadapter_demo.own_thread import in_own_thread
from ipadapter_demo.pipeline.cache import ContentCache, digest
from ipadapter_demo.pipeline.conditions import ActiveControl
from ipadapter_demo.pipeline.inpainting.crop import PaddedPart
from ipadapter_demo.pipeline.inpainting.mask import pixels_around_hole
from ipadapter_demo.pipeline.sizes import Size, inner_box, padded, reshaped, same_shape, scaled
from ipadapter_demo.request import Inpaint, Structure
from ipadapter_demo.size_limits import SIZE_STEP

# kinds of structure to which black is a colour like another
OF_COLOURS = ("palette", "shuffle", "tile", "union-tile", "inpaint", "union-repaint")
OF_A_MASK = "inpaint"  # the kind that reads the mask of an inpainting, too


class MapReader:
    """Maps of one model's kinds, each drawn and read once."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model
        self._maps, self._features = ContentCache(16), ContentCache(8)

    def control(
        self, structure: Structure, drawn: Image.Image, inpaint: Inpaint | None = None
    ) -> ActiveControl:
        """The map of a structure, as its network reads it. Raises RequestError for one that reads
        the mask of an inpainting, where there is none."""
        hole = None
        if structure.kind == OF_A_MASK:
            if inpaint is None:
                raise RequestError(f"structure {OF_A_MASK} reads a mask, so it needs inpaint")
            hole = resize_image(inpaint.mask, drawn.size)

        net = self._model.structures[structure.kind]

        def read() -> tuple[Tensor, ...]:
            pixels = (pixels_from_images([drawn]) + 1) / 2
            if hole is not None:  # as its authors mark it
                pixels = pixels.masked_fill(mask_from_image(hole) >= 0.5, -1.0)
            return net.read(pixels).seen

        key = structure.kind, digest(drawn), None if hole is None else digest(hole)
        condition = ControlCondition(net, self._features.get(key, read))
        return ActiveControl(condition, structure.weight, structure.window)

    def inpaint_controls(self, given: Inpaint | None, size: Size) -> tuple[ActiveControl, ...]:
        """The picture around an inpainting mask, for a model that has a network to read it."""
        net = self._model.inpaint_adapter
        if given is None or net is None:
            return ()

        def read() -> tuple[Tensor, ...]:
            return net.read(pixels_around_hole(given, size)).seen

        key = ("inpaint", digest(given.image), digest(given.mask), size)
        condition = ControlCondition(net, self._features.get(key, read))
        return (ActiveControl(condition, 1.0, (0.0, 1.0)),)

    def structure_maps(
        self, structures: Iterable[Structure], size: Size
    ) -> tuple[Image.Image, ...]:
        return tuple(self.structure_map(structure, size) for structure in structures)

    def structure_map(self, structure: Structure, size: Size) -> Image.Image:
        """The map of a structure at the size of the output. Raises RequestError for a kind or an
        annotator that the model does not have."""
        known = self._model.entry.structures
        if structure.kind not in known:
            offered = ", ".join(known) or "none"
            raise RequestError(
                f"structure.kind must be one of those of {self._model.entry.name} ({offered}), "
                f"got {structure.kind!r:.80}"
            )
        annotators = known[structure.kind].annotators
        if structure.annotator not in annotators:
            raise RequestError(
                f"structure.annotator for {structure.kind} must be one of "
                f"{', '.join(annotators)}, got {structure.annotator!r:.80}"
            )
        inside = structure.inside if isinstance(structure, PaddedPart) else None
        image = digest(structure.image)
        key = (structure.annotator, structure.kind, image, structure.fit, inside, size)
        drawn = partial(self._drawn_map, structure, size)
        return self._maps.get(key, partial(in_own_thread, drawn))

    def _drawn_map(self, structure: Structure, size: Size) -> Image.Image:
        image, how, locate = structure.image, structure.resampling, self._model.locate
        if isinstance(structure, PaddedPart):
            box = scaled(structure.inside, image.size, size)
            image = image.crop(structure.inside)
        elif structure.fit == "pad" and not same_shape(image.size, size):
            box = inner_box(image.size, size)
        else:
            return annotate(structure.annotator, reshaped(image, size, structure.fit, how), locate)
        # padded afterwards: a detector would take the border for an edge
        colour = PAD_COLOUR if structure.kind in OF_COLOURS else (0, 0, 0)
        inner = box[2] - box[0], box[3] - box[1]
        if min(inner) < SIZE_STEP:  # less than a cell of latents, of which detectors make far more
            return Image.new("RGB", size, colour)
        drawn = annotate(structure.annotator, resize_image(image, inner, how), locate)
        return padded(drawn, size, colour, box[:2])
