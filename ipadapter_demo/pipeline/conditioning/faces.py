"""Faces of references, as FaceID adapters read them."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.adapter import FacePlusProjection, ImageAdapter
from ipadapter_demo.embeds import FACE, ImageEmbeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.faces import Analyse, Face, chosen_face, find_faces
from ipadapter_demo.pipeline.conditioning.active import active_adapter
from ipadapter_demo.pipeline.conditioning.encoder_input import EncoderInput
from ipadapter_demo.pipeline.conditioning.given_embeds import tensor_of
from ipadapter_demo.request import GenerateRequest, Reference


class FaceReader:
    """Of one model. `analyse` finds the faces of a picture."""

    def __init__(
        self, model: BaseModel, encoder_input: EncoderInput, analyse: Analyse = find_faces
    ) -> None:
        self._model, self._input, self.analyse = model, encoder_input, analyse

    def embeds(self, reference: Reference, name: str, adapter: ImageAdapter) -> Tensor:
        """(faces, width) as the adapter of this name reads them: given, or of the face that is
        chosen in the picture. Raises RequestError."""
        if reference.fit == "tile":
            raise RequestError(
                f"reference.fit must be crop, pad or squash with the FaceID adapter {name}, got "
                "tile, which would cut a face"
            )
        plus = adapter.projection
        given = reference.embeds
        if not isinstance(plus, FacePlusProjection):
            if given is not None:
                return tensor_of(given, name, self._model)
            return self._tensor(self.saved(reference))
        if given is None:
            face = self._face(reference)
            return plus.joined(self._tensor(_embeds(face)), self._states(name, face.portrait))
        if not given.of_faces:
            return tensor_of(given, name, self._model)
        if reference.image is None or given.squares > 1:
            raise RequestError(
                "reference.embeds must be of one face, beside a picture of it, for the FaceID "
                f"Plus adapter {name}, got {given.squares} and "
                f"{'no' if reference.image is None else 'a'} picture"
            )
        [pixels] = self._input.pixels(reference)
        states = adapter.embeds_from_clip_pixels(pixels, self._model.encoder_of(name))
        return plus.joined(self._tensor(given), states)

    def saved(self, reference: Reference) -> ImageEmbeds:
        """The embeds of the face that is chosen in a picture, with what made them."""
        return _embeds(self._face(reference))

    def _face(self, reference: Reference) -> Face:
        if reference.noise:
            raise RequestError(
                "reference.noise must be 0 with a FaceID adapter, which reads a face as it is, got "
                f"{reference.noise:g}"
            )
        return chosen_face(self.analyse(reference.picture), reference.face)

    def _states(self, name: str, portrait: Image.Image) -> Tensor:
        pixels = self._input.clip_pixels(self._input.square(portrait, "crop"))
        adapter, encoder = self._model.adapters[name], self._model.encoder_of(name)
        return adapter.embeds_from_clip_pixels(pixels, encoder)

    def _tensor(self, embeds: ImageEmbeds) -> Tensor:
        return torch.from_numpy(embeds.values).to(self._model.device, self._model.dtype)


def _embeds(face: Face) -> ImageEmbeds:
    return ImageEmbeds.of(face.embedding[None], encoder=face.recogniser, adapter=FACE, fit="face")


def loras_brought(request: GenerateRequest, model: BaseModel) -> tuple[Lora, ...]:
    """The LoRAs of the adapters that read a request's references; none where none acts, so that
    the base model is then itself."""
    if request.image_scale == 0:
        return ()
    acting = [r for r in request.references if r.weight > 0]
    names = dict.fromkeys(active_adapter(model, request, r).name for r in acting)
    return model.loras.of_adapters(names)
