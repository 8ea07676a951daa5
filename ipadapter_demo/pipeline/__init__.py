"""The pipeline and how to get one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.base_model import load_base_model
from ipadapter_demo.models.catalog import CATALOG, CatalogEntry
from ipadapter_demo.models.extras import Extras
from ipadapter_demo.models.memory import best_dtype
from ipadapter_demo.models.own_parts import with_own_parts
from ipadapter_demo.models.published import PUBLISHED, local_entry
from ipadapter_demo.pipeline.effective import effective_request
from ipadapter_demo.pipeline.events import ModelInfo, Preview, Result
from ipadapter_demo.pipeline.pipeline import ImagePromptPipeline, can_batch
from ipadapter_demo.pipeline.previews import Previews
from ipadapter_demo.settings import DTYPES, Dtype, resolved_device

__all__ = [
    "ImagePromptPipeline",
    "ModelInfo",
    "Preview",
    "Previews",
    "Result",
    "can_batch",
    "effective_request",
    "load",
    "prepare",
]


def load(
    model: str | CatalogEntry = "tabletop",
    device: str | None = None,
    dtype: Dtype = "auto",
    base: str | None = None,
    models: str | Path | None = None,
    model_adapter: str | Path | None = None,
    **extras: Any,
) -> ImagePromptPipeline:
    """A pipeline on a model of the catalogue, or on an entry of your own.

    `base` puts a published model's adapter on another base of its family: a folder in diffusers'
    layout, a .safetensors checkpoint or a repository on the hub. `models` is a folder that mirrors
    the hub; `model_adapter` is the file of an adapter of your own, beside the built-in model's and
    in place of a published one; `extras`, such as a `vae` of your own, are the other fields of
    `models.extras.Extras`. `dtype` "auto" is half precision where the hardware
    has it and the model is not tiny.

    Raises ModelError or CheckpointError.
    """
    return prepare(model, device, dtype, base, models, model_adapter, **extras)()


def prepare(
    model: str | CatalogEntry,
    device: str | None = None,
    dtype: Dtype = "auto",
    base: str | None = None,
    models: str | Path | None = None,
    model_adapter: str | Path | None = None,
    **extras: Any,
) -> Callable[[], ImagePromptPipeline]:
    """`load` in two halves: this one fetches what is missing, what it returns reads it."""
    more = Extras(models=None if models is None else Path(models), **extras)
    own = None if model_adapter is None else Path(model_adapter).absolute()
    entry = model if isinstance(model, CatalogEntry) else _entry_named(model, base, own, more)
    if dtype not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    where = resolved_device(device)
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        raise ModelError(f"device {where} cannot be used here: {error}") from error
    precision = best_dtype(where, entry.small) if dtype == "auto" else getattr(torch, dtype)
    whole = with_own_parts(entry, more)
    return lambda: ImagePromptPipeline(load_base_model(whole, where, precision, more))


def _entry_named(name: str, base: str | None, adapter: Path | None, extras: Extras) -> CatalogEntry:
    if name in PUBLISHED:
        return local_entry(
            PUBLISHED[name], base, extras.models, extras.report, adapter, extras.image_encoder
        )
    if name not in CATALOG:
        known = ", ".join([*CATALOG, *PUBLISHED])
        raise ModelError(f"model must be one of {known}, got {name!r}")
    if base is not None:
        raise ModelError(
            f"base goes with a published model, not with {name}: its adapter fits no other base"
        )
    entry = CATALOG[name]
    if adapter is None:
        return entry
    if adapter.stem in entry.adapters:
        raise ModelError(
            f"model_adapter: {adapter.name} would be called {adapter.stem}, which "
            f"{name} has already: give the file another name"
        )
    return replace(entry, adapters={adapter.stem: str(adapter)} | entry.adapters)
