"""Image embeds to a file and from one: held against the model that is to read them."""

from __future__ import annotations

import torch
from torch import Tensor

from ipadapter_demo.adapter import ImageAdapter
from ipadapter_demo.embeds import ImageEmbeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.base_model import BaseModel


def embeds_from_tensor(
    values: Tensor, adapter: ImageAdapter, model: BaseModel, fit: str
) -> ImageEmbeds:
    """Embeds (squares, width) or (squares, states, width) that the model's encoder made for an
    adapter. A file has no bfloat16: they are float32 then."""
    values = values.detach().cpu()
    if values.dtype == torch.bfloat16:
        values = values.float()
    return ImageEmbeds.of(
        values.numpy(), encoder=model.encoder_sha256, adapter=adapter.variant, fit=fit
    )


def tensor_of(embeds: ImageEmbeds, name: str, adapter: ImageAdapter, model: BaseModel) -> Tensor:
    """The embeds for the adapter of this name. Raises RequestError for those of another encoder,
    or for another kind of adapter. Which network recognised a face cannot be checked."""
    shape = adapter.shape_read_from(model.image_encoder)
    if embeds.shape[1:] != shape:
        raise RequestError(
            f"reference.embeds must be {_said(shape)} for the {adapter.variant} adapter {name} of "
            f"{model.entry.name}, got {_said(embeds.shape[1:])}, made for {embeds.adapter}"
        )
    if not embeds.of_faces and embeds.encoder != model.encoder_sha256:
        raise RequestError(
            f"reference.embeds must be of the image encoder of {model.entry.name}, SHA-256 "
            f"{model.encoder_sha256:.12}..., got those of {embeds.encoder:.12}...: make them "
            "again with this model"
        )
    return torch.from_numpy(embeds.values).to(model.device, model.dtype)


def _said(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return f"one embedding of {shape[0]}"
    return f"{shape[0]} states of {shape[1]}"
