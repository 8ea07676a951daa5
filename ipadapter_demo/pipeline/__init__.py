"""The pipeline and how to get one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ipadapter_demo.errors import ModelError
from ipadapter_demo.load_options import DTYPES, LoadOptions
from ipadapter_demo.models.base_model import load_base_model
from ipadapter_demo.models.catalog import CATALOG, CatalogEntry
from ipadapter_demo.models.local_entry import check_name, local_entry
from ipadapter_demo.models.memory import best_dtype
from ipadapter_demo.models.own_parts import with_own_parts
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.shelf import models_on_bases
from ipadapter_demo.models.sources import Report, no_report
from ipadapter_demo.models.weight_hashes import check_hashes
from ipadapter_demo.own_thread import in_own_thread
from ipadapter_demo.pipeline.effective import effective_request
from ipadapter_demo.pipeline.events import ModelInfo, Preview, Result
from ipadapter_demo.pipeline.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline.previews import Previews
from ipadapter_demo.settings import resolved_device

__all__ = [
    "ImagePromptPipeline",
    "LoadOptions",
    "ModelInfo",
    "Preview",
    "Previews",
    "Result",
    "effective_request",
    "load",
    "prepare",
]


# Requests of one call. On a CPU, in float32, they gain little.
SHARE_ON_CUDA = 8


def load(
    model: str | CatalogEntry = "tabletop",
    options: LoadOptions | None = None,
    report: Report = no_report,
    **fields: Any,
) -> ImagePromptPipeline:
    """A pipeline on a model of the catalogue, or on an entry of your own.

    `fields` are those of LoadOptions, and take precedence: `load("tabletop", device="cpu")`.
    `report` is called while files are fetched. Raises ModelError or CheckpointError.
    """
    return prepare(model, replace(options or LoadOptions(), **fields), report)()


def prepare(
    model: str | CatalogEntry, options: LoadOptions | None = None, report: Report = no_report
) -> Callable[[], ImagePromptPipeline]:
    """`load` in two halves: this one fetches what is missing, what it returns reads it."""
    options = options or LoadOptions()
    entry = model if isinstance(model, CatalogEntry) else _entry_named(model, options, report)
    if options.dtype not in DTYPES:
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got {options.dtype!r}")
    device = resolved_device(options.device)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        said = re.split(r"\.\s", str(error), maxsplit=1)[0]  # torch's advice follows
        raise ModelError(f"device {device} cannot be used here: {said:.300}") from error
    auto = options.dtype == "auto"
    dtype = best_dtype(device, entry.small) if auto else getattr(torch, options.dtype)
    share = options.share_steps or (SHARE_ON_CUDA if device.startswith("cuda") else 1)
    whole = with_own_parts(entry, options, report)

    def read() -> ImagePromptPipeline:
        return ImagePromptPipeline(load_base_model(whole, device, dtype, options, report), share)

    # On a GPU, CPUs are not what is waited for; and ZeroGPU stands for one in this thread alone.
    return partial(in_own_thread, read) if device == "cpu" else read


def _entry_named(name: str, options: LoadOptions, report: Report) -> CatalogEntry:
    if name in PUBLISHED:
        return local_entry(PUBLISHED[name], options, report)
    if name in (there := models_on_bases(options.models_dir)):
        if options.base is not None:
            raise ModelError(f"base goes with a published model, and {name} has its own")
        published, path = there[name]
        return replace(local_entry(published, replace(options, base=str(path)), report), name=name)
    if name not in CATALOG:
        known = ", ".join([*CATALOG, *PUBLISHED, *there])
        raise ModelError(f"model must be one of {known}, got {name!r:.80}")
    if options.adapters:
        raise ModelError(f"adapters go with a published model, and {name} has its own")
    if options.base is not None:
        raise ModelError(
            f"base goes with a published model, not with {name}: its adapter fits no other base"
        )
    entry = CATALOG[name]
    check_hashes(entry.folder)
    if options.model_adapter is None:
        return entry
    adapter = options.model_adapter.absolute()
    check_name(adapter, entry.adapters, name)
    return replace(entry, adapters={adapter.stem: str(adapter)} | entry.adapters)
