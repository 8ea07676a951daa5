"""A published model with its files at hand: the entry that is loaded."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from pathlib import Path

from ipadapter_demo.adapter import image_encoder_named, load_image_adapter
from ipadapter_demo.errors import ModelError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.hub_files import VIT_BIGG, VIT_H, encoder_of_repository
from ipadapter_demo.models.published import PUBLISHED, Published
from ipadapter_demo.models.sources import (
    Hub,
    Report,
    fetched,
    file_at,
    no_report,
    of_repository,
)
from ipadapter_demo.models.unpinned import CLIP_VIT_L


def base_path(
    model: Published,
    base: str | None,
    models_dir: Path | None,
    report: Report = no_report,
) -> tuple[Path, Path | None]:
    """The path of a published model's base, or of another `base` of its family; and a folder with
    configurations and tokenizers, where that is a checkpoint of weights alone."""
    path = Path(base) if base is not None and Path(base).exists() else None
    if base is None:
        path = fetched(model.base, models_dir, report)
    elif path is None:
        path = fetched(of_repository(base, model.base, models_dir), models_dir, report)
    if not path.is_file():
        return path, None
    return path, fetched(configs_of(model.base), models_dir, report)


def configs_of(base: Hub) -> Hub:
    """Its files without the weights: what a checkpoint of weights alone lacks."""
    light = tuple(f for f in base.files if not f.endswith(".safetensors"))
    return replace(base, files=light, megabytes=2)


def local_entry(model: Published, options: LoadOptions, report: Report = no_report) -> CatalogEntry:
    """The entry with everything that a first picture takes at hand, fetched if need be.

    A base, an adapter or an image encoder of `options` takes the place of the model's, which is
    then not fetched; an adapter brings the encoder that it reads. Raises ModelError or
    CheckpointError.
    """
    if options.base is not None and model.unet is not None:
        raise ModelError(
            f"base goes with a model that has its UNet, not with {model.name}: take sdxl, and a "
            "LoRA for few steps"
        )
    models_dir, own = options.models_dir, options.model_adapter
    own = None if own is None else own.absolute()
    encoder = _encoder_of(own, model) if own else model.image_encoder
    path, configs = base_path(model, options.base, models_dir, report)
    unet = None
    if model.unet is not None and options.unet is None:
        unet = str(fetched(model.unet, models_dir, report) / model.unet.files[0])
    adapter = own or adapter_file(model, models_dir, report)
    beside = _beside(model, options)
    if own:
        check_name(own, {other.name for other in beside}, "adapters")
    return CatalogEntry(
        name=model.name,
        folder=path,
        configs=configs,
        image_encoder=options.image_encoder or str(fetched(encoder, models_dir, report)),
        adapters={own.stem if own else "base": str(adapter)}
        | {other.name: str(adapter_file(other, models_dir, report)) for other in beside},
        encoders={
            other.name: str(fetched(other.image_encoder, models_dir, report))
            for other in beside
            if other.image_encoder != encoder
        },
        structures=model.structures,
        loras=dict(model.loras),
        unet=unet,
        recommended=model.recommended,
        note=model.note,
    )


def check_name(own: Path, taken: Container[str], whose: str) -> None:
    """Raises ModelError for an adapter of one's own that would be called as one of `whose`."""
    if own.stem in taken:
        raise ModelError(
            f"model_adapter: {own.name} would be called {own.stem}, which {whose} has already: "
            "give the file another name"
        )


def adapter_file(model: Published, models_dir: Path | None, report: Report) -> Path:
    """In whichever form of its weights is there."""
    folder, wanted = fetched(model.adapter, models_dir, report), model.adapter.files[0]
    return file_at(folder, wanted) or folder / wanted


def _beside(model: Published, options: LoadOptions) -> list[Published]:
    """The other models of the catalogue whose adapters are asked for. Raises ModelError for those
    of another family."""
    family = model.name.partition("-")[0]
    known = {name: other for name, other in PUBLISHED.items() if name.partition("-")[0] == family}
    for name in options.adapters:
        if name not in known:
            raise ModelError(
                f"adapters beside {model.name} must be of {', '.join(known)}, got {name!r:.80}"
            )
    return [known[name] for name in options.adapters]


def _encoder_of(own_adapter: Path, model: Published) -> Hub:
    """The image encoder that its folder names, or that its weights' width tells; else the model's.

    Raises CheckpointError for a file that cannot be read.
    """
    if named := image_encoder_named(own_adapter):
        return encoder_of_repository(named)
    adapter = load_image_adapter(own_adapter)
    if adapter.joins_text:
        return CLIP_VIT_L
    known = {(False, 1024): VIT_H, (False, 1280): VIT_BIGG, (True, 1280): VIT_H}
    return known.get((adapter.reads_patches, adapter.encoder_width), model.image_encoder)
