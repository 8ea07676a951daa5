"""Weights from a file of any layout, and a network made of them: strictly, by key."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ipadapter_demo.errors import ModelError, some_of
from ipadapter_demo.models.sources import served_by, weights_at

Network = TypeVar("Network", bound=nn.Module)

_SCALES = (".scale_weight", ".weight_scale", "scaled_fp8")  # of ComfyUI
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_ADVICE = re.compile(
    r"\s*(If you want|Please|For more info|You should|Make sure|Pass `|You set)", re.IGNORECASE
)


def weights_from_file(path: Path) -> Mapping[str, object]:
    """The content of a `.safetensors` file or a pickle, by key, on the CPU. A pickle is read as
    numbers only, and refused if it holds anything that would run. Raises ModelError, for numbers
    whose scale lies beside them, too: what reads them by their names would pass over it."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    found = _content(path)
    if scales := [key for key in found if key.endswith(_SCALES)]:
        raise ModelError(
            f"{path.name}: holds fp8 weights with scales apart ({some_of(scales)}), which are "
            "not read: take a file in fp16"
        )
    return found


def _content(path: Path) -> Mapping[str, object]:
    from safetensors.torch import load_file

    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        if path.suffix.lower() not in PICKLES:
            raise ModelError(
                f"{path.name}: the name must end in .safetensors, {', '.join(PICKLES)}"
            )
        with torch.serialization.safe_globals([nn.ParameterDict]):  # of old embeddings
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path.name}: holds code or objects that are not tensors, which is refused"
        ) from error
    except ModelError:
        raise
    except Exception as error:  # a damaged file can fail in any way at all
        raise ModelError(f"{path.name} cannot be read: {reason(error)}") from error
    if isinstance(found, Tensor):
        return {path.stem: found}
    if not isinstance(found, dict):
        raise ModelError(f"{path.name}: holds a {type(found).__name__}, not weights by name")
    inner = found.get("state_dict", found)
    if not isinstance(inner, dict):
        raise ModelError(
            f"{path.name}: its state_dict is a {type(inner).__name__}, not weights by name"
        )
    return {str(key): value for key, value in inner.items()}


def header_of(path: Path) -> dict[str, str]:
    """The header of a `.safetensors` file, without its tensors. Raises ModelError."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # a damaged file can fail in any way at all
        raise ModelError(f"{path.name} cannot be read: {reason(error)}") from error


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of its tensors, by key, from the header. Raises ModelError."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no dictionary
    except Exception as error:  # a damaged file can fail in any way at all
        raise ModelError(f"{path.name} cannot be read: {reason(error)}") from error


def tensors_from_file(path: Path) -> dict[str, Tensor]:
    """The tensors of such a file; counters beside them are left out. Raises ModelError."""
    return {
        key: value for key, value in weights_from_file(path).items() if isinstance(value, Tensor)
    }


def weight_files(place: Path) -> list[Path]:
    """The files that are read of the folder of one of diffusers' networks; or the one that it
    is."""
    if place.is_file():
        return [place]
    names = served_by("diffusion_pytorch_model.safetensors")
    return next((found for name in names if (found := weights_at(place, name))), [])


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever is raised inside becomes a ModelError that names the file as what does not fit."""
    try:
        yield
    except Exception as error:  # of libraries, whatever they like
        said = str(error) if isinstance(error, ModelError) else reason(error)
        raise ModelError(f"{path.name} does not fit this model: {said}") from error


def network_from_weights(
    make: Callable[[], Network], tensors: Mapping[str, Tensor], dtype: torch.dtype, name: str
) -> Network:
    """The network that `make` builds, with `tensors` under its own keys, in evaluation. What it
    does not know is left out. Raises ModelError, beginning with `name`, that says which weights
    are missing or of another shape."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        network = make()
    own = network.state_dict()
    if missing := [key for key in own if key not in tensors]:
        raise ModelError(f"{name} lack {some_of(missing)}")
    for key, tensor in own.items():
        if tensors[key].shape != tensor.shape:
            raise ModelError(
                f"{name} hold {key} of shape {tuple(tensors[key].shape)}, where "
                f"{tuple(tensor.shape)} is needed"
            )
    network.load_state_dict({key: tensors[key].to(dtype).contiguous() for key in own}, assign=True)
    return network.eval()


def reason(error: BaseException) -> str:
    """The reason in a library's error, without its advice to programmers."""
    text = " ".join(str(error).split())
    return _ADVICE.split(text, maxsplit=1)[0][:300].strip() or type(error).__name__
