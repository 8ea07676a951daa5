"""The settings of a command, and its model: one pipeline, or all of the catalogue."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ipadapter_demo.cli.command import Arguments, Load, progress
from ipadapter_demo.errors import ModelError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.sources import Report, announced, no_report
from ipadapter_demo.settings import (
    Settings,
    load_options,
    settings_from,
    without_additions,
)

if TYPE_CHECKING:
    from ipadapter_demo.pipeline import ImagePromptPipeline
    from ipadapter_demo.serving import ModelManager

COMPILING = "compiling, which takes minutes the first time and seconds from then on"


def settings_of(arguments: Arguments, **recorded: object) -> Settings:
    """Flags, then what made a recorded picture, then the environment."""
    flags: dict[str, Any] = {n: value for n, value in recorded.items() if isinstance(value, str)}
    given = {f.name: getattr(arguments, f.name, None) for f in fields(Settings)}
    flags |= {name: value for name, value in given.items() if value is not None}
    try:
        return settings_from(flags)
    except ValueError as error:
        raise ModelError(str(error)) from error


def loaded(
    arguments: Arguments, load: Load, recorded: object = None, adapters: str | None = None
) -> ImagePromptPipeline:
    """The model asked for, or the one that made a recorded picture with other models' `adapters`,
    or the environment's."""
    settings = settings_of(arguments, model=recorded, adapters=adapters)
    if settings.compile:
        progress(f"{settings.model}: {COMPILING}")
    pipeline = load(settings.model, load_options(settings), announced(progress))
    if pipeline.schedule_note:
        progress(f"{settings.model}: {pipeline.schedule_note}")
    return pipeline


def manager_of(arguments: Arguments, load: Load, **recorded: object) -> ModelManager:
    """The same, and every other model of the catalogue as well."""
    from ipadapter_demo.models.listing import offers
    from ipadapter_demo.pipeline import prepare
    from ipadapter_demo.serving import ModelManager

    settings = settings_of(arguments, **recorded)
    others = without_additions(settings)
    return ModelManager(
        load(settings.model, load_options(settings), announced(progress)),
        lambda name, report: prepare(
            name, load_options(settings if name == settings.model else others), report
        ),
        offers(settings.models_dir),
    )


def precision_of(pipeline: ImagePromptPipeline) -> dict[str, Any]:
    """For a worker's pipeline that is to be the same: options that were left open are decided."""
    return {name: pipeline.provenance[name] for name in ("device", "dtype")}


def load_quietly(
    model: str, options: LoadOptions | None = None, report: Report = no_report, **fields: Any
) -> ImagePromptPipeline:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()

    from ipadapter_demo.pipeline import load

    return load(model, options, report, **fields)
