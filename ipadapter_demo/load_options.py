"""Options of loading a model: device, precision, and files of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ipadapter_demo.errors import ModelError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """`device` None takes "cuda" where there is one, else "mps", else "cpu"; `dtype` "auto" is half
    precision where the hardware has it and the model is not tiny. `models_dir` is a local folder
    that mirrors the hub.

    `base` puts a published model's adapter on another base of its family: a folder in diffusers'
    layout, a .safetensors checkpoint or a repository on the hub. `model_adapter` is the file of an
    adapter of your own, beside the built-in model's and in place of a published one. `adapters` are
    names of published models, whose adapters are loaded beside it under these names. In place of
    the model's own parts: `image_encoder` a folder, or owner/name/folder on the hub; `unet` a
    .safetensors file in diffusers' layout; `vae` a folder or a file; `controlnets` and
    `t2i_adapters` folders or files by the kind that a request names.

    `loras` are files with their weights; `embeddings` files of textual inversions, each called by
    the name of its file. `prediction_type` and `zero_snr` (zero terminal SNR) are for models whose
    files do not say it. `offload` keeps on the device only what is at work; `tiling` decodes large
    pictures in parts. `compile` lets torch compile the networks for the model's own size.
    `share_steps` requests at most share a call of the model; None is 8 on CUDA, else 1: each by
    itself. `fetch_later` False: a LoRA, a structure network or a detector that a request asks for
    is not fetched where it is not at hand.
    """

    device: str | None = None
    dtype: Dtype = "auto"
    models_dir: Path | None = None
    base: str | None = None
    model_adapter: Path | None = None
    adapters: tuple[str, ...] = ()
    image_encoder: str | None = None
    unet: Path | None = None
    vae: Path | None = None
    controlnets: tuple[tuple[str, Path], ...] = ()
    t2i_adapters: tuple[tuple[str, Path], ...] = ()
    loras: tuple[tuple[Path, float], ...] = ()
    embeddings: tuple[Path, ...] = ()
    prediction_type: str | None = None
    zero_snr: bool = False
    offload: bool = False
    tiling: bool = False
    share_steps: int | None = None
    compile: bool = False
    fetch_later: bool = True

    def __post_init__(self) -> None:
        """Paths may be given as text. Raises ModelError for what has another form than is asked
        for."""
        for name in ("models_dir", "model_adapter", "unet", "vae"):
            path = getattr(self, name)
            self._set(name, None if path is None else Path(path))
        if self.models_dir is not None and self.models_dir.is_file():
            raise ModelError(f"models_dir must be a folder, got the file {self.models_dir}")
        if self.device is not None:  # torch's own, too
            self._set("device", str(self.device))
        self._set("adapters", self._all("adapters", "names", _name))
        self._set("embeddings", self._all("embeddings", "files", Path))
        self._set("loras", self._all("loras", "(file, weight)", _lora))
        for name in ("controlnets", "t2i_adapters"):
            self._set(name, self._all(name, "(kind, place)", _network))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _all(self, name: str, what: str, read: Callable[[Any], object]) -> tuple[object, ...]:
        given = getattr(self, name)
        try:
            if isinstance(given, str):  # which has items, too: its letters
                raise TypeError
            return tuple(map(read, given.items() if isinstance(given, Mapping) else given))
        except (TypeError, ValueError):
            raise ModelError(f"{name} must be a tuple of {what}, got {given!r:.80}") from None


def _name(one: object) -> str:
    if not isinstance(one, str):
        raise TypeError
    return one


def _lora(one: Sequence[Any]) -> tuple[Path, float]:
    file, weight = one
    return Path(file), float(weight)


def _network(one: Sequence[Any]) -> tuple[str, Path]:
    kind, place = one
    return _name(kind), Path(place)
