"""The adapter that reads a reference, and where it acts: its own, or else the request's."""

from __future__ import annotations

from dataclasses import dataclass

from ipadapter_demo.adapter import ImageAdapter
from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.layers import layer_factors
from ipadapter_demo.request import GenerateRequest, Reference


@dataclass(frozen=True, slots=True, eq=False)
class ActiveAdapter:
    """An adapter, and its scale in each layer: in the half that a reference is for, and in the
    other, where some presets put it."""

    name: str
    adapter: ImageAdapter
    adapter_index: int  # among the attached adapters
    layer_scales: tuple[float, ...] | None
    opposite_scales: tuple[float, ...] | None = None


def active_adapter(
    model: BaseModel, request: GenerateRequest, reference: Reference | None = None
) -> ActiveAdapter:
    """Of one reference of a request. Raises RequestError for an adapter or layers that the model
    does not have."""
    name, field, layers, of = request.adapter, "adapter", request.image_layers, "image_layers"
    if reference is not None and reference.adapter is not None:
        name, field = reference.adapter, "reference.adapter"
    if reference is not None and reference.layers is not None:
        layers, of = reference.layers, "reference.layers"
    if name is None:
        name = next(iter(model.adapters), "none")
    if name not in model.adapters:
        raise RequestError(
            f"{field} must be one of those of {model.entry.name} "
            f"({', '.join(model.adapters)}), got {name!r:.80}"
        )
    adapter, index = model.adapters[name], list(model.adapters).index(name)
    factors = layer_factors(layers, model.unet, model.entry.name, of)
    if factors is None or min(factors) >= 0:
        return ActiveAdapter(name, adapter, index, factors)
    own, opposite = (tuple(max(0.0, sign * f) for f in factors) for sign in (1, -1))
    return ActiveAdapter(name, adapter, index, own, opposite)
