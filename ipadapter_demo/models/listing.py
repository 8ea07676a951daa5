"""The catalogue as people see it: on the command line and in the list of the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.at_hand import cost_of, missing_of
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.shelf import models_on_bases, needed_by
from ipadapter_demo.models.sources import Hub, local_folder, megabytes_of


def listing(models_dir: Path | None) -> list[dict[str, object]]:
    """The catalogue, a row for each published model: what it is, and what of it is at hand."""
    rows: list[dict[str, object]] = []
    for model in PUBLISHED.values():
        recommended = model.recommended
        missing = missing_of(model.needed, models_dir)
        rows.append(
            {
                "name": model.name,
                "note": model.note,
                "licence": model.licence,
                "base": model.base.repo,
                "adapter": f"{model.adapter.repo}/{model.adapter.paths[0]}",
                "image_encoder": f"{model.image_encoder.repo}/{model.image_encoder.folder}",
                "megabytes": megabytes_of(model.needed),
                "missing_megabytes": megabytes_of(missing),
                "present": not missing,
                "image_scale": recommended.image_scale,
                "text_image_scale": recommended.text_image_scale,
                "guidance": recommended.guidance,
                "steps": recommended.steps,
                "text_steps": recommended.steps_for(True),
                "structures": {
                    kind: local_folder(s.folder, models_dir) is not None
                    for kind, s in model.structures.items()
                    if isinstance(s.folder, Hub)
                },
            }
        )
    return rows


def labels(
    models_dir: str | None, offered: Sequence[str] = (), fetches: bool = True
) -> dict[str, str]:
    """The names of models as people choose one: of those `offered`, or of all, with the size of
    what is missing. `fetches`: whether it comes from the hub when somebody chooses it.

    Raises ModelError for a name that is none of them.
    """
    known = [TABLETOP.name, *PUBLISHED]
    for name in offered:
        if name not in known:
            raise ModelError(f"models must be names of {', '.join(known)}, got {name!r}")
    return {name: f"{name}{_missing(name, models_dir, fetches)}" for name in offered or known}


def offers(
    models_dir: str | None, offered: Sequence[str] = (), fetches: bool = True
) -> Callable[[], dict[str, str]]:
    """A function for those on offer just now: `labels` as they are at first, and each of these
    models on the bases in MODELS_DIR/bases. Raises ModelError likewise."""
    catalogued = labels(models_dir, offered, fetches)
    missing = cache(lambda name: _missing(name, models_dir, fetches))

    def now() -> dict[str, str]:
        there = models_on_bases(None if models_dir is None else Path(models_dir))
        beside = [name for name, (model, _) in there.items() if model.name in catalogued]
        return catalogued | {name: f"{name}{missing(name)}" for name in beside}

    return now


def _missing(name: str, models_dir: str | None, fetches: bool) -> str:
    """Of a model, in words behind its name."""
    if name == TABLETOP.name:
        return " (built in)"
    folder = None if models_dir is None else Path(models_dir)
    return cost_of(missing_of(needed_by(name, folder), folder), fetches)
