"""Bases, LoRAs and autoencoders that an operator puts into MODELS_DIR/bases, MODELS_DIR/loras and
MODELS_DIR/vaes: there as soon as somebody looks, without a restart.

Only what lies directly in these folders counts, and only under a plain name. Each file's header
is read first, once for as long as its size and date stay; one that is damaged or something else is
left out, and the log says so.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.local_entry import configs_of
from ipadapter_demo.models.published import PUBLISHED, Published
from ipadapter_demo.models.single_file import is_xl
from ipadapter_demo.models.sources import Hub
from ipadapter_demo.models.weights import shapes_of
from ipadapter_demo.own_files import PLAIN_NAME

ON = " on "  # sd15-plus on NAME
_NAME = re.compile(PLAIN_NAME)
# the first layer of an autoencoder's decoder
_READS_LATENTS = re.compile(r"^(first_stage_model\.|vae\.)?decoder\.conv_in\.weight$")
_KL = "AutoencoderKL"
SCALE_OF_KL = 0.18215  # where a configuration has none, as in diffusers
# the half of a LoRA's layer that reads what the text encoder wrote
_READS_TEXT = re.compile(r"attn2[._].*to_[kv].*(down|lora_A)\b.*weight$")

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoraFolder:
    """The LoRAs in MODELS_DIR/loras for a model whose text embeddings are `width` wide."""

    models_dir: Path | None
    width: int

    def files(self) -> dict[str, Path]:
        """By name, those of other families left out."""
        return {
            path.stem: path
            for path in _within(self.models_dir, "loras")
            if path.suffix.lower() == ".safetensors"
            and path.is_file()
            and _known(path, stamp_of(path), _text_width) in (0, self.width)
        }


@dataclass(frozen=True, slots=True)
class VaeFolder:
    """The autoencoders in MODELS_DIR/vaes for a model whose latents have `channels` and this scale.
    A single file does not tell the scale, and is read with the model's own."""

    models_dir: Path | None
    channels: int
    scale: float

    @classmethod
    def beside(cls, models_dir: Path | None, own: AutoencoderKL | AutoencoderTiny) -> VaeFolder:
        """A built-in model has a class of autoencoder of its own, and takes no other."""
        config = own.config
        takes = type(own).__name__ == _KL
        return cls(models_dir if takes else None, config.latent_channels, config.scaling_factor)

    def places(self) -> dict[str, Path]:
        """Files and folders by name, those of other families left out."""
        found = {}
        for path in _within(self.models_dir, "vaes"):
            if path.is_dir() or path.suffix.lower() == ".safetensors":
                kind = _known(path, stamp_of(path), _vae_kind)
                if kind in ((self.channels, None), (self.channels, self.scale)):
                    found[path.stem if path.is_file() else path.name] = path
        return found


def stamp_of(path: Path) -> tuple[tuple[int, int], ...]:
    """Size and date of a file, or of everything in the parts of a folder; a link to nothing has
    neither."""
    found = [path] if path.is_file() else sorted([*path.glob("*"), *path.glob("*/*")])
    there = [one.stat() if one.exists() else one.lstat() for one in found]
    return tuple((one.st_size, one.st_mtime_ns) for one in there)


def models_on_bases(models_dir: Path | None) -> dict[str, tuple[Published, Path]]:
    """The models of the catalogue on every base of their family in MODELS_DIR/bases, by names such
    as "sd15-plus on NAME". Those that bring their own UNet take no other base."""
    found = {}
    for path in _within(models_dir, "bases"):
        is_file = path.is_file()
        if is_file and path.suffix.lower() != ".safetensors":
            continue
        family = _known(path, stamp_of(path), _family_of_file if is_file else _family_of_folder)
        for name, model in PUBLISHED.items():
            if name.partition("-")[0] == family and model.unet is None:
                found[f"{name}{ON}{path.stem if is_file else path.name}"] = model, path
    return found


def needed_by(name: str, models_dir: Path | None) -> tuple[Hub, ...]:
    """The published files of a first picture; of a base of one's own, the configurations that a
    single file lacks. None for other models."""
    if name in PUBLISHED:
        return PUBLISHED[name].needed
    if name not in (there := models_on_bases(models_dir)):
        return ()
    model, path = there[name]
    configs = (configs_of(model.base),) if path.is_file() else ()
    return *configs, model.image_encoder, model.adapter


def _within(models_dir: Path | None, folder: str) -> Iterator[Path]:
    if models_dir is not None and (models_dir / folder).is_dir():
        yield from sorted((models_dir / folder).iterdir())


@lru_cache(maxsize=4096)
def _known(
    path: Path, _stamp: tuple[tuple[int, int], ...], read: Callable[[Path], object]
) -> object:
    """What `read` finds; None where that is an error, which is logged once."""
    try:
        if not _NAME.fullmatch(path.stem if path.is_file() else path.name):
            raise ModelError("its name must be letters, digits, spaces and _ . ( ) + -")
        return read(path)
    except ModelError as error:
        log.warning("%r is not offered: %s", str(path), error)
        return None


def _text_width(path: Path) -> int:
    """Of a LoRA; 0 where its header does not tell. Raises ModelError for another file."""
    shapes = shapes_of(path)
    if not any(re.search(r"lora|hada_|lokr_", key) for key in shapes):
        raise ModelError(f"it holds no LoRA, but keys as {sorted(shapes)[:2]}")
    return next((s[1] for key, s in shapes.items() if _READS_TEXT.search(key) and s[1:]), 0)


def _vae_kind(path: Path) -> tuple[int, float | None]:
    """The channels of an autoencoder's latents and their scale, which a file does not tell. Raises
    ModelError for something else."""
    config: dict[str, Any] = {}
    if path.is_dir():
        try:
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ModelError("it has no config.json of an autoencoder") from None
        if not isinstance(config, dict) or config.get("_class_name") != _KL:
            raise ModelError(f"its config.json names no {_KL}")
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    shapes = {key: shape for file in files for key, shape in shapes_of(file).items()}
    read = next((shape for key, shape in shapes.items() if _READS_LATENTS.search(key)), ())
    if len(read) != 4:
        raise ModelError(f"it holds no autoencoder, but keys as {sorted(shapes)[:2]}")
    return read[1], config.get("scaling_factor", SCALE_OF_KL) if path.is_dir() else None


def _family_of_file(path: Path) -> str:
    return "sdxl" if is_xl(shapes_of(path)) else "sd15"


def _family_of_folder(path: Path) -> str:
    """Raises ModelError for a folder in another layout than diffusers', or with damaged weights."""
    try:
        kind = json.loads((path / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError("it has no model_index.json that names a pipeline") from None
    names = {"sd15": "StableDiffusion{}Pipeline", "sdxl": "StableDiffusionXL{}Pipeline"}
    families = {
        name.format(task): family
        for family, name in names.items()
        for task in ("", "Img2Img", "Inpaint")
    }
    if kind not in families:
        raise ModelError(f"it holds a {kind!s:.80}, where one of {', '.join(families)} is needed")
    for weights in sorted(path.glob("*/*.safetensors")):
        shapes_of(weights)
    return families[kind]
