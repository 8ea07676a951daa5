"""How the demo runs: model, device, address, limits. Flag before environment before default.

Every flag `--max-file-size` has a variable `IPADAPTER_MAX_FILE_SIZE`. On Hugging Face Spaces
(SPACE_ID is set) the page listens on all interfaces, since the Space's proxy is another machine.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

PREFIX = "IPADAPTER_"

_SWITCH = {"1": True, "true": True, "yes": True, "on": True}
_SWITCH |= {"0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator decides; whatever belongs to one picture is in the request.

    `model` is a name from the catalogue, `base` puts its adapter on another base model, and
    `model_adapter` is the file of an adapter of your own for it.
    `models_dir` is a local folder that mirrors the hub. `device` None takes "cuda" where there is
    one, else "mps", else "cpu"; `dtype` "auto" is half precision where the hardware has it, and
    float32 for a tiny model. `lora` and `embedding` are files, a LoRA's with its weight behind a
    colon; `controlnet` and `t2i_adapter` are NAME=PLACE: several of any stand on a line each, or
    behind commas. `image_encoder` and `vae` replace the model's own. `prediction_type` and
    `zero_snr` (zero terminal SNR) are for a model whose files do not say it. `offload` keeps on a
    GPU only what is at work, `tiling` decodes in parts.
    """

    model: str = "tabletop"
    base: str | None = None
    model_adapter: str | None = None
    models_dir: str | None = None
    image_encoder: str | None = None
    vae: str | None = None
    controlnet: str = ""
    t2i_adapter: str = ""
    lora: str = ""
    embedding: str = ""
    prediction_type: str | None = None
    zero_snr: bool = False
    offload: bool = False
    tiling: bool = False
    device: str | None = None
    dtype: Dtype = "auto"
    host: str = "127.0.0.1"
    port: int = 7860
    max_file_size: str = "20mb"
    queue_size: int = 32
    share: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError that names the setting, what it takes and its value."""
        _check(bool(self.model.strip()), "model", "a name", self.model)
        loras(self.lora)
        embeddings(self.embedding)
        for name in ("controlnet", "t2i_adapter"):
            places(name, getattr(self, name))
        kinds = (None, "epsilon", "v_prediction")
        _check(
            self.prediction_type in kinds,
            "prediction_type",
            "epsilon or v_prediction",
            self.prediction_type,
        )
        known = self.device is None or re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", self.device)
        _check(bool(known), "device", "cpu, mps, cuda, cuda:1, ... or nothing", self.device)
        _check(self.dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}", self.dtype)
        _check(bool(self.host.strip()), "host", "an address", self.host)
        _check(0 < self.port < 65536, "port", "from 1 to 65535", self.port)
        size = re.fullmatch(r"[1-9]\d*(kb|mb|gb)", self.max_file_size)
        _check(bool(size), "max_file_size", 'a size such as "20mb"', self.max_file_size)
        _check(1 <= self.queue_size <= 1000, "queue_size", "from 1 to 1000", self.queue_size)


def without_additions(settings: Settings) -> Settings:
    """The same for any other model: what an operator adds belongs to the one named."""
    return replace(
        settings,
        base=None,
        model_adapter=None,
        image_encoder=None,
        vae=None,
        controlnet="",
        t2i_adapter="",
        lora="",
        embedding="",
        prediction_type=None,
        zero_snr=False,
    )


def load_options(settings: Settings) -> dict[str, Any]:
    """What `ipadapter_demo.load` takes, for a program that has settings."""
    return {
        "device": settings.device,
        "dtype": settings.dtype,
        "base": settings.base,
        "model_adapter": settings.model_adapter,
        "models": settings.models_dir,
        "loras": loras(settings.lora),
        "embeddings": embeddings(settings.embedding),
        "image_encoder": settings.image_encoder,
        "vae": None if settings.vae is None else Path(settings.vae),
        "controlnets": places("controlnet", settings.controlnet),
        "t2i_adapters": places("t2i_adapter", settings.t2i_adapter),
        "prediction_type": settings.prediction_type,
        "zero_snr": settings.zero_snr,
        "offload": settings.offload,
        "tiling": settings.tiling,
    }


def loras(text: str) -> tuple[tuple[Path, float], ...]:
    """Files and weights of "style.safetensors:0.8, other.safetensors". Raises ValueError."""
    found = []
    for item in _listed(text, _LORA):
        match = _LORA.fullmatch(item)
        number = "1" if match is None or match[2] is None else match[2]
        valid = match and _NUMBER.fullmatch(number) and math.isfinite(float(number))
        _check(bool(valid), "lora", "FILE.safetensors or FILE.safetensors:WEIGHT", item)
        assert match is not None
        found.append((Path(match[1]), float(number)))
    return tuple(found)


def embeddings(text: str) -> tuple[Path, ...]:
    """The files of "cat.safetensors, dog.pt". Raises ValueError."""
    found = _listed(text, _EMBEDDING)
    for item in found:
        _check(
            bool(_EMBEDDING.fullmatch(item)),
            "embedding",
            "a file .safetensors, .pt, .pth or .bin",
            item,
        )
    return tuple(Path(item) for item in found)


def places(name: str, text: str) -> tuple[tuple[str, Path], ...]:
    """Names and places of "edges=runs/edges, depth=depth.pth", each name once, for the setting
    `name`. Raises ValueError."""
    found: dict[str, Path] = {}
    for item in _listed(text, _PLACE, begins=True):
        match = _PLACE.fullmatch(item)
        _check(
            match is not None and match[1] not in found,
            name,
            "NAME=FOLDER or NAME=FILE, each NAME once, of letters, digits, - and _",
            item,
        )
        assert match is not None
        found[match[1]] = Path(match[2])
    return tuple(found.items())


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_LORA = re.compile(r"(.+\.(?i:safetensors))(?::([^:/\\]*))?")
_EMBEDDING = re.compile(r".+\.(?i:safetensors|pt|pth|bin)")
_PLACE = re.compile(r"([\w-]+)=(.+)")


def _listed(text: str, item: re.Pattern[str], begins: bool = False) -> list[str]:
    """The items of a text, one a line. Within a line they may stand behind commas; as names of
    files may hold commas too, one parts items only where what is before it is a whole `item`, or,
    where every item `begins` with its name, what is behind it is one."""
    found: list[str] = []
    for line in text.splitlines():
        open_ = ""
        for piece in line.split(","):
            whole = item.fullmatch(piece.strip() if begins else open_.strip())
            if open_ and whole:
                found.append(open_.strip())
                open_ = piece
            else:
                open_ = f"{open_},{piece}" if open_ else piece
        found.append(open_.strip())
    return [each for each in found if each]


def is_repository(name: str) -> bool:
    """Whether the hub could have a repository of this name."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def resolved_device(device: str | None) -> str:
    """`device`, or the best there is. Imports torch only where nothing was asked for."""
    if device is not None:
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def settings_from_args(
    argv: Sequence[str] | None = None, env: Mapping[str, str] = os.environ
) -> Settings:
    """Settings from the command line (None: this process's) and `env`.

    A bad flag or variable ends the program with a usage message that names it (SystemExit 2).
    """
    parser = settings_parser()
    flags = {
        name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None
    }
    try:
        return Settings(**_from_env(env) | flags)
    except ValueError as error:
        parser.error(str(error))


def settings_parser() -> argparse.ArgumentParser:
    """The flags of `app.py`, all optional; a flag that is not given is None."""
    parser = argparse.ArgumentParser(
        description="Pictures as prompts, in the browser.",
        epilog="Every flag can be set as a variable too: --queue-size as IPADAPTER_QUEUE_SIZE.",
    )
    default = Settings()
    parser.add_argument("--model", help=f"name from the catalogue [{default.model}]")
    parser.add_argument(
        "--base",
        metavar="FOLDER_OR_ID",
        help="another base model for a published adapter: a folder in diffusers' "
        "layout, a .safetensors checkpoint, or a repository on the hub",
    )
    parser.add_argument(
        "--model-adapter",
        metavar="FILE",
        help="an image adapter of your own for the model: a .safetensors, .bin or "
        ".pth file, or a folder as InvokeAI makes one",
    )
    parser.add_argument(
        "--models-dir", metavar="DIR", help="folder that mirrors the hub, DIR/owner/repository/file"
    )
    add_own_parts(parser.add_argument)
    parser.add_argument(
        "--prediction-type",
        choices=("epsilon", "v_prediction"),
        help="of a checkpoint that does not say its own",
    )
    parser.add_argument(
        "--zero-snr",
        action=argparse.BooleanOptionalAction,
        help="the model was trained to zero terminal SNR and does not say so [no]",
    )
    parser.add_argument(
        "--offload",
        action=argparse.BooleanOptionalAction,
        help="for small GPUs: keep there only what is at work [no]",
    )
    parser.add_argument(
        "--tiling",
        action=argparse.BooleanOptionalAction,
        help="decode large pictures in parts [no]",
    )
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1, mps [cuda if there is one, else mps, else cpu]"
    )
    parser.add_argument("--dtype", choices=DTYPES, help=f"of the weights [{default.dtype}]")
    parser.add_argument("--host", help=f"address to listen on [{default.host}]")
    parser.add_argument("--port", type=int, help=f"[{default.port}]")
    parser.add_argument("--max-file-size", help=f"of an upload [{default.max_file_size}]")
    parser.add_argument("--queue-size", type=int, help=f"waiting users [{default.queue_size}]")
    parser.add_argument(
        "--share", action=argparse.BooleanOptionalAction, help="open a public link [no]"
    )
    return parser


class _Repeated(argparse.Action):
    """A flag that may be given several times: its values become the lines of one text."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, f"{before}\n{values}" if before else values)


def add_own_parts(add: Callable[..., Any]) -> None:
    """The flags for files of one's own, which `app.py` and the commands share; `add` is a
    parser's `add_argument`."""
    add(
        "--image-encoder",
        metavar="PLACE",
        help="another image encoder for --model-adapter: a folder, or owner/name/folder on the hub "
        "[$IPADAPTER_IMAGE_ENCODER]",
    )
    add("--vae", metavar="PLACE", help="another autoencoder: a folder or a file [$IPADAPTER_VAE]")
    add(
        "--controlnet",
        metavar="NAME=PLACE",
        action=_Repeated,
        help="a ControlNet for maps that --structure NAME=... names: a folder in diffusers' "
        "layout, or a file .safetensors or .pth; repeatable [$IPADAPTER_CONTROLNET]",
    )
    add(
        "--t2i-adapter",
        metavar="NAME=PLACE",
        action=_Repeated,
        help="a T2I-Adapter, likewise [$IPADAPTER_T2I_ADAPTER]",
    )
    add(
        "--lora",
        metavar="FILE[:WEIGHT]",
        action=_Repeated,
        help="a LoRA, LoCon, LoHa or LoKr to merge; repeatable, or with commas [$IPADAPTER_LORA]",
    )
    add(
        "--embedding",
        metavar="FILE",
        action=_Repeated,
        help="a textual inversion, called in prompts by the name of its file; repeatable, or with "
        "commas [$IPADAPTER_EMBEDDING]",
    )


def _from_env(env: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {"host": "0.0.0.0"} if env.get("SPACE_ID") else {}
    for field in fields(Settings):
        variable = PREFIX + field.name.upper()
        text = env.get(variable, "").strip()
        if not text:  # set to nothing is how a shell or a Space says "not set"
            continue
        if isinstance(field.default, bool):
            if text.lower() not in _SWITCH:
                raise ValueError(f"{variable} must be one of {', '.join(_SWITCH)}, got {text!r}")
            values[field.name] = _SWITCH[text.lower()]
        elif isinstance(field.default, int):
            if not re.fullmatch(r"\d{1,9}", text):
                raise ValueError(f"{variable} must be a whole number, got {text!r}")
            values[field.name] = int(text)
        else:
            values[field.name] = text
    return values


def _check(valid: bool, name: str, expected: str, value: object) -> None:
    if not valid:
        raise ValueError(f"{name} must be {expected}, got {value!r}")
