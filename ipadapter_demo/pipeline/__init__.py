"""The pipeline and how to get one."""

from __future__ import annotations

import torch

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.base_model import load_base_model
from ipadapter_demo.models.catalog import CatalogEntry, entry_named
from ipadapter_demo.pipeline.events import ModelInfo, Preview, Result
from ipadapter_demo.pipeline.pipeline import ImagePromptPipeline
from ipadapter_demo.settings import DTYPES, Dtype, resolved_device

__all__ = ["ImagePromptPipeline", "ModelInfo", "Preview", "Result", "load"]


def load(model: str | CatalogEntry = "tabletop", device: str | None = None,
         dtype: Dtype = "auto") -> ImagePromptPipeline:
    """A pipeline on a model of the catalogue, or on an entry of your own.

    `dtype` "auto" is float16 on a GPU and float32 elsewhere. Raises ModelError or CheckpointError.
    """
    entry = model if isinstance(model, CatalogEntry) else entry_named(model)
    if dtype not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    where = resolved_device(device)
    if dtype == "auto":
        dtype = "float16" if where.startswith("cuda") else "float32"
    try:
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        raise ModelError(f"device {where} cannot be used here: {error}") from error
    return ImagePromptPipeline(load_base_model(entry, where, getattr(torch, dtype)))
