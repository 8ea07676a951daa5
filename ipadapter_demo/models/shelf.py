"""Bases and LoRAs that an operator puts into MODELS_DIR/bases and MODELS_DIR/loras: there as soon
as somebody looks, without a restart.

Only what lies directly in these two folders counts, and only under a plain name. Each file's header
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

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.local_entry import configs_of
from ipadapter_demo.models.published import PUBLISHED, Published
from ipadapter_demo.models.single_file import is_xl
from ipadapter_demo.models.sources import Hub
from ipadapter_demo.models.weights import shapes_of

ON = " on "  # sd15-plus on NAME
_NAME = re.compile(r"\w[\w .()+-]{0,99}")
# the half of a LoRA's layer that reads what the text encoder wrote
_READS_TEXT = re.compile(r"attn2[._].*to_[kv].*(down|lora_A)\b.*weight$")

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


def stamp_of(path: Path) -> tuple[tuple[int, int], ...]:
    """Size and date of a file, or of everything in the parts of a folder."""
    found = [path] if path.is_file() else sorted([*path.glob("*"), *path.glob("*/*")])
    return tuple((one.stat().st_size, one.stat().st_mtime_ns) for one in found)


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
        if not _NAME.fullmatch(path.stem):
            raise ModelError("its name must be letters, digits, spaces and . ( ) + -")
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


def _family_of_file(path: Path) -> str:
    return "sdxl" if is_xl(shapes_of(path)) else "sd15"


def _family_of_folder(path: Path) -> str:
    """Raises ModelError for a folder in another layout than diffusers', or with damaged weights."""
    try:
        kind = json.loads((path / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError("it has no model_index.json that names a pipeline") from None
    families = {"StableDiffusionPipeline": "sd15", "StableDiffusionXLPipeline": "sdxl"}
    if kind not in families:
        raise ModelError(f"it holds a {kind!s:.80}, where one of {', '.join(families)} is needed")
    for weights in sorted(path.glob("*/*.safetensors")):
        shapes_of(weights)
    return families[kind]
