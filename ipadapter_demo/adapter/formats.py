"""Files of image adapters: every layout as the flat names of the published files.

| Layout | Projection under | Layers under |
|---|---|---|
| published, `.safetensors` (flat) or `.bin` (nested) | `image_proj` | `ip_adapter` |
| the same as `.pth`, as Stable Diffusion web UIs name it | `image_proj` | `ip_adapter` |
| written for ComfyUI | `image_proj` | `adapter_modules` |
| the first trainer's own state, flat, the UNet beside it | `image_proj_model` | `adapter_modules` |
| a folder `checkpoint-N` of accelerate's with that state | the same | |
| InvokeAI: a folder, `ip_adapter.bin` with `image_encoder.txt` | the published ones | |
| T2I-Adapter's style adapter, its keys as they are or below `adapter` | the file | none |

Each of them may lie under `state_dict`, and its keys may begin with `module.`, as parallel training
leaves them.
Other content of a file, a step count or a frozen UNet, is no part of an adapter and is left out.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ipadapter_demo.adapter.unsupported import what_it_is
from ipadapter_demo.errors import CheckpointError
from ipadapter_demo.settings import is_repository

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
# A section of the published layout, and the names it goes by.
SECTIONS = {
    "image_proj": ("image_proj", "image_proj_model"),
    "ip_adapter": ("ip_adapter", "adapter_modules"),
}
# as InvokeAI names them, then accelerate
_IN_A_FOLDER = (
    "ip_adapter.safetensors",
    "ip_adapter.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
_WRAPPERS = re.compile(r"^(state_dict\.)?(module\.)*")


def adapter_file(path: Path) -> Path:
    """The file with the weights: `path` itself, or the one in InvokeAI's or accelerate's folder.

    Raises CheckpointError where there is none, or its name ends in another way.
    """
    if path.is_dir():
        found = [path / name for name in _IN_A_FOLDER if (path / name).is_file()]
        if not found:
            raise CheckpointError(
                f"{path.name}: this folder holds no {' or '.join(_IN_A_FOLDER)}; name the file "
                "of an adapter, or a folder as InvokeAI or a trainer makes one"
            )
        return found[0]
    if not path.is_file():
        raise CheckpointError(f"{path.name}: no such file in {path.absolute().parent}")
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"{path.name}: the name must end in {', '.join(SUFFIXES)}")
    return path


def image_encoder_named(path: Path) -> str | None:
    """The repository of the image encoder that a folder of InvokeAI's names, `owner/name`."""
    note = path / "image_encoder.txt"
    if not note.is_file():
        return None
    named = note.read_text(encoding="utf-8-sig", errors="replace").strip()
    if named.count("/") != 1 or not is_repository(named):
        raise CheckpointError(
            f"{path.name}/{note.name} must name a repository, owner/name, got {named[:80]!r}"
        )
    return named


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Both sections of an adapter's file under their published names, `image_proj.<key>` and
    `ip_adapter.<n>.<key>`.

    Raises CheckpointError for a file that cannot be read or lacks a section, and says what else it
    is where that is known.
    """
    flat = path.suffix.lower() == ".safetensors"
    read: Mapping[str, object] = _read_flat(path) if flat else _read_pickle(path)
    content = {_WRAPPERS.sub("", key): value for key, value in read.items()}
    sections = {section: _section(content, section) for section in SECTIONS}
    style = {key.removeprefix("adapter."): value for key, value in content.items()}
    is_style = "style_embedding" in style
    if is_style:
        sections = {"image_proj": {f"image_proj.{key}": value for key, value in style.items()}}
    found = {key: value for part in sections.values() for key, value in part.items()}
    tensors: dict[str, Tensor] = {}
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path.name}: {name} is a {type(value).__name__}, not a tensor")
        tensors[name] = value
    lacking = [section for section, part in sections.items() if not part]
    if kind := what_it_is(_shapes(content if lacking else found)):
        raise CheckpointError(f"{path.name}: this is {kind}")
    if lacking:
        raise CheckpointError(
            f"{path.name}: not an IP-Adapter, lacks the section {lacking[0]!r}; "
            f"it holds {sorted(content)[:3]}"
        )
    return tensors


def _section(content: Mapping[str, object], section: str) -> dict[str, object]:
    """A section of a flat file, under its published name whatever it is called there."""
    for called in SECTIONS[section]:
        prefix = f"{called}."
        found = {
            f"{section}.{key.removeprefix(prefix)}": value
            for key, value in content.items()
            if key.startswith(prefix)
        }
        if called in content:  # not even a dictionary
            found[section] = content[called]
        if found:
            return found
    return {}


def _shapes(content: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in content.items() if isinstance(value, Tensor)}


def _read_flat(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name}: not a safetensors file, or cut short ({error})"
        ) from error


def _read_pickle(path: Path) -> dict[str, object]:
    """A torch file, flat or nested, as flat names. Nothing in it is ever run."""
    try:
        nested = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name}: holds code or objects that are not tensors, which is refused"
        ) from error
    except Exception as error:  # a damaged pickle can fail in any way at all
        raise CheckpointError(
            f"{path.name}: not a torch file, or cut short ({error!r:.200})"
        ) from error
    if not isinstance(nested, dict):
        raise CheckpointError(f"{path.name}: holds a {type(nested).__name__}, not a dictionary")
    return _flattened(nested)


def _flattened(nested: Mapping[object, object]) -> dict[str, object]:
    content: dict[str, object] = {}
    for section, part in nested.items():
        if isinstance(part, dict):
            content |= {f"{section}.{key}": value for key, value in _flattened(part).items()}
        else:
            content[str(section)] = part
    return content
