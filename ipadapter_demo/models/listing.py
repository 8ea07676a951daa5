"""The catalogue as people see it: on the command line and in the list of the page."""

from __future__ import annotations

from pathlib import Path

from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.sources import Hub, local_folder, megabytes_of


def listing(models_dir: Path | None) -> list[dict[str, object]]:
    """The catalogue, a row for each published model: what it is, and what of it is at hand."""
    rows: list[dict[str, object]] = []
    for model in PUBLISHED.values():
        recommended = model.recommended
        missing = [hub for hub in model.needed if local_folder(hub, models_dir) is None]
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
                "structures": {
                    kind: local_folder(s.folder, models_dir) is not None
                    for kind, s in model.structures.items()
                    if isinstance(s.folder, Hub)
                },
            }
        )
    return rows


def labels(models_dir: str | None) -> dict[str, str]:
    """The names of all models as people choose one, with the size of the files to fetch."""
    found = {TABLETOP.name: f"{TABLETOP.name} (built in)"}
    for row in listing(None if models_dir is None else Path(models_dir)):
        missing = row["missing_megabytes"]
        assert isinstance(missing, int)
        to_fetch = f" (fetches {missing / 1000:.1f} GB)" if missing else ""
        found[str(row["name"])] = f"{row['name']}{to_fetch}"
    return found
