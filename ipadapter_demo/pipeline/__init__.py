"""The pipeline and how to get one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.base_model import load_base_model
from ipadapter_demo.models.catalog import CATALOG, CatalogEntry
from ipadapter_demo.models.extras import Extras
from ipadapter_demo.models.published import PUBLISHED, local_entry
from ipadapter_demo.pipeline.events import ModelInfo, Preview, Result
from ipadapter_demo.pipeline.pipeline import ImagePromptPipeline
from ipadapter_demo.settings import DTYPES, Dtype, resolved_device

__all__ = ["ImagePromptPipeline", "ModelInfo", "Preview", "Result", "load"]


def load(model: str | CatalogEntry = "tabletop", device: str | None = None, dtype: Dtype = "auto",
         base: str | None = None, models: str | Path | None = None,
         **extras: Any) -> ImagePromptPipeline:
    """A pipeline on a model of the catalogue, or on an entry of your own.

    `base` puts a published model's adapter on another base of its family: a folder in diffusers'
    layout, a .safetensors checkpoint or a repository on the hub. `models` is a folder that mirrors
    the hub; `extras` are the other fields of `models.extras.Extras`. `dtype` "auto" is float16 on a
    GPU and float32 elsewhere. Raises ModelError or CheckpointError.
    """
    more = Extras(models=None if models is None else Path(models), **extras)
    entry = model if isinstance(model, CatalogEntry) else _entry_named(model, base, more)
    if dtype not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    where = resolved_device(device)
    if dtype == "auto":
        dtype = "float16" if where.startswith("cuda") else "float32"
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        raise ModelError(f"device {where} cannot be used here: {error}") from error
    return ImagePromptPipeline(load_base_model(entry, where, getattr(torch, dtype), more))


def _entry_named(name: str, base: str | None, extras: Extras) -> CatalogEntry:
    if name in PUBLISHED:
        return local_entry(PUBLISHED[name], base, extras.models, extras.report)
    if name not in CATALOG:
        known = ", ".join([*CATALOG, *PUBLISHED])
        raise ModelError(f"model must be one of {known}, got {name!r}")
    if base is not None:
        raise ModelError(f"base goes with a published model, not with {name}: its adapter fits no "
                         "other base")
    return CATALOG[name]
