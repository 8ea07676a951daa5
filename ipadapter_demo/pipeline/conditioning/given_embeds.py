"""Image embeds to a file and from one: held against the model that is to read them."""

from __future__ import annotations

import torch
from torch import Tensor

from ipadapter_demo.adapter import StyleProjection
from ipadapter_demo.embeds import ImageEmbeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.base_model import BaseModel


def embeds_from_tensor(values: Tensor, name: str, model: BaseModel, fit: str) -> ImageEmbeds:
    """Embeds (squares, width) or (squares, states, width) that an encoder of the model made for the
    adapter of this name. A file has no bfloat16: they are float32 then."""
    values = values.detach().cpu()
    if values.dtype == torch.bfloat16:
        values = values.float()
    return ImageEmbeds.of(
        values.numpy(),
        encoder=model.encoder_sha256(name),
        adapter=model.adapters[name].variant,
        fit=fit,
    )


def tensor_of(embeds: ImageEmbeds, name: str, model: BaseModel) -> Tensor:
    """The embeds for the adapter of this name. Raises RequestError for those of another encoder,
    or for another kind of adapter. Which network recognised a face cannot be checked."""
    adapter = model.adapters[name]
    shape = adapter.shape_read_from(model.encoder_of(name))
    other = adapter.joins_text != (embeds.adapter == StyleProjection.variant)
    if embeds.shape[1:] != shape or other:
        raise RequestError(
            f"reference.embeds must be {_said(shape)} for the {adapter.variant} adapter {name} of "
            f"{model.entry.name}, got {_said(embeds.shape[1:])}, made for {embeds.adapter}"
        )
    if not embeds.of_faces and embeds.encoder != (own := model.encoder_sha256(name)):
        raise RequestError(
            f"reference.embeds must be of the image encoder of {model.entry.name}, SHA-256 "
            f"{own:.12}..., got those of {embeds.encoder:.12}...: make them "
            "again with this model"
        )
    return torch.from_numpy(embeds.values).to(model.device, model.dtype)


def _said(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return f"one embedding of {shape[0]}"
    return f"{shape[0]} states of {shape[1]}"
