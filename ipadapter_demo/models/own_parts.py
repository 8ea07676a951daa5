"""Parts of one's own in place of a model's: where they lie, and the entry that has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ipadapter_demo.errors import ModelError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.annotators import DRAWN
from ipadapter_demo.models.catalog import CatalogEntry, StructureEntry
from ipadapter_demo.models.sources import Hub, Report, fetched
from ipadapter_demo.settings import is_repository

_ENCODER_FILES = ("config.json", "model.safetensors")


def with_own_parts(entry: CatalogEntry, options: LoadOptions, report: Report) -> CatalogEntry:
    """The entry with the image encoder and the structure networks of `options`.

    Raises ModelError that names the part and where it was looked for.
    """
    if options.image_encoder is not None:
        encoder = encoder_folder(options.image_encoder, options.models_dir, report)
        entry = replace(entry, image_encoder=str(encoder))
    structures = dict(entry.structures)
    for kind, path in options.controlnets:
        structures[kind] = StructureEntry(
            folder=_existing("controlnet", kind, path),
            network="controlnet",
            annotators=_suited(entry, kind),
        )
    for kind, path in options.t2i_adapters:
        if kind in dict(options.controlnets):
            raise ModelError(f"t2i_adapter {kind}: a ControlNet has this name already")
        structures[kind] = StructureEntry(
            folder=_existing("t2i_adapter", kind, path),
            network="t2i-adapter",
            annotators=_suited(entry, kind),
        )
    return replace(entry, structures=structures)


def encoder_folder(path: str, models_dir: Path | None, report: Report) -> Path:
    """The folder of an image encoder: a local one, or owner/name or owner/name/folder on the hub.
    Raises ModelError."""
    if Path(path).is_dir():
        return Path(path).absolute()
    if Path(path).is_file():
        raise ModelError(
            f"image_encoder must be a folder with config.json and weights, and {path} is a file"
        )
    owner, _, rest = path.partition("/")
    name, _, folder = rest.partition("/")
    if not rest or not is_repository(f"{owner}/{name}"):
        raise ModelError(
            "image_encoder must be a folder, or owner/name or owner/name/folder on "
            f"the hub, got {path!r}"
        )
    return fetched(
        Hub(repo=f"{owner}/{name}", folder=folder, files=_ENCODER_FILES), models_dir, report
    )


def _existing(part: str, kind: str, path: Path) -> str:
    if not path.exists():
        raise ModelError(f"{part} {kind}: no file or folder {path}")
    return str(path.absolute())


def _suited(entry: CatalogEntry, kind: str) -> tuple[str, ...]:
    """The detectors of the model's own network of this name, the detector of this name, or, for a
    kind of map that is new, ready maps first and whatever draws one."""
    if kind in entry.structures:
        return entry.structures[kind].annotators
    return (kind, "none") if kind in DRAWN else ("none", *DRAWN)
