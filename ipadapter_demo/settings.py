"""Settings of the demo: model, device, address, limits. Flag before environment before default.

Every flag `--max-file-size` has a variable `IPADAPTER_MAX_FILE_SIZE`. On Hugging Face Spaces
(SPACE_ID is set) the page listens on all interfaces, since the Space's proxy is another machine.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from typing import Any

from ipadapter_demo.load_options import DTYPES, PREDICTION_TYPES, Dtype, LoadOptions
from ipadapter_demo.logins import logins
from ipadapter_demo.model_flags import add_model_options
from ipadapter_demo.own_files import check, embeddings, loras, places
from ipadapter_demo.server_flags import add_server_options

PREFIX = "IPADAPTER_"

_SIZE = re.compile(r"([1-9]\d{0,8})(kb|mb|gb)")
_SWITCH = {"1": True, "true": True, "yes": True, "on": True}
_SWITCH |= {"0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The choices of an operator; all that belongs to one picture is in the request.

    `model` is a name from the catalogue, `base` puts its adapter on another base model, and
    `model_adapter` is the file of an adapter of your own for it. `adapters` are names of published
    models, with commas, whose adapters are loaded beside it.
    `models_dir` is a local folder that mirrors the hub. `device` None takes "cuda" where there is
    one, else "mps", else "cpu"; `dtype` "auto" is half precision where the hardware has it, and
    float32 for a tiny model. `lora` and `embedding` are files, a LoRA's with its weight behind a
    colon; `controlnet` and `t2i_adapter` are NAME=PLACE: several of any stand on a line each, or
    behind commas. `image_encoder`, `unet` and `vae` replace the model's own. `prediction_type` and
    `zero_snr` (zero terminal SNR) are for a model whose files do not say it. `offload` keeps on a
    GPU only what is at work, `tiling` decodes in parts, `compile` compiles the networks.
    `share_steps` requests at most share a call of the model; None is 8 on CUDA, else 1.

    `upload_quota` is what a visitor may upload within an hour, `upload_quota_total` what all may.
    `trusted_hosts` are names of this server beside its own, behind commas: one that begins with a
    dot stands for all below it, * for any.

    Of what visitors may ask for, 0 being no limit: `max_cost` in calls of the model for one picture
    at its own size, `time_limit` in seconds of drawing, both of one request; `visitor_requests` of
    one visitor at once. `models` are the names that they may choose, with commas, nothing all of
    the catalogue; `model` is always one of them. With `visitor_downloads` they may also choose one
    whose files are then fetched.

    `ray` draws with `replicas` of every model on Ray Serve, a number or a range such as "1-4";
    nothing is from one to as many as there are GPUs. `metrics_port` is where Prometheus reads, and
    `log_json` writes the log as lines of JSON.

    `root_path` is where a proxy shows the page, "/demo" or a whole address; `auth` is user:password
    of those who may see it, or a file of such lines; `mcp` serves the endpoints as tools as well.
    """

    model: str = "tabletop"
    base: str | None = None
    model_adapter: str | None = None
    adapters: str = ""
    models_dir: str | None = None
    image_encoder: str | None = None
    unet: str | None = None
    vae: str | None = None
    controlnet: str = ""
    t2i_adapter: str = ""
    lora: str = ""
    embedding: str = ""
    prediction_type: str | None = None
    zero_snr: bool = False
    offload: bool = False
    tiling: bool = False
    share_steps: int | None = None
    compile: bool = False
    device: str | None = None
    dtype: Dtype = "auto"
    host: str = "127.0.0.1"
    port: int = 7860
    max_file_size: str = "20mb"
    upload_quota: str = "1gb"
    upload_quota_total: str = "10gb"
    trusted_hosts: str = ""
    queue_size: int = 32
    max_cost: int = 20_000
    time_limit: int = 1800
    visitor_requests: int = 4
    models: str = ""
    visitor_downloads: bool = False
    share: bool = False
    ray: bool = False
    replicas: str = ""
    metrics_port: int | None = None
    log_json: bool = False
    root_path: str = ""
    auth: str = field(default="", repr=False)
    mcp: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError that names the setting, what it takes and its value."""
        check(bool(self.model.strip()), "model", "a name", self.model)
        loras(self.lora)
        embeddings(self.embedding)
        for name in ("controlnet", "t2i_adapter"):
            places(name, getattr(self, name))
        check(
            self.prediction_type in (None, *PREDICTION_TYPES),
            "prediction_type",
            " or ".join(PREDICTION_TYPES),
            self.prediction_type,
        )
        shared = self.share_steps is None or 1 <= self.share_steps <= 64
        check(shared, "share_steps", "from 1 to 64", self.share_steps)
        known = self.device is None or re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", self.device)
        check(bool(known), "device", "cpu, mps, cuda, cuda:1, ... or nothing", self.device)
        check(self.dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}", self.dtype)
        check(bool(self.host.strip()), "host", "an address", self.host)
        check(0 < self.port < 65536, "port", "from 1 to 65535", self.port)
        for name in ("max_file_size", "upload_quota", "upload_quota_total"):
            size = getattr(self, name)
            check(bool(_SIZE.fullmatch(size)), name, 'a size such as "20mb"', size)
        for host in listed_hosts(self.trusted_hosts):
            known = re.fullmatch(r"\*|[a-z0-9_.-]+|[0-9a-f:]+", host)
            check(bool(known), "trusted_hosts", "names without scheme and port", host)
        check(1 <= self.queue_size <= 1000, "queue_size", "from 1 to 1000", self.queue_size)
        for name in ("max_cost", "time_limit", "visitor_requests"):
            limit = getattr(self, name)
            check(limit >= 0, name, "a whole number, or 0 for no limit", limit)
        least, most = replica_range(self.replicas)
        check(least <= most, "replicas", 'a number or a range such as "1-4"', self.replicas)
        numbered = self.device is not None and ":" in self.device
        check(not (self.ray and numbered), "device", "cpu or cuda with ray", self.device)
        free = self.metrics_port is None or 0 < self.metrics_port < 65536
        check(free, "metrics_port", "from 1 to 65535", self.metrics_port)
        other = self.metrics_port is None or self.metrics_port != self.port
        check(other, "metrics_port", "another than the page's port", self.metrics_port)
        path = re.fullmatch(r"((https?:/)?/[^\s?#]+)?", self.root_path)
        check(bool(path), "root_path", "a path such as /demo, or an address", self.root_path)
        if logins(self.auth) and self.mcp:
            raise ValueError("mcp and auth exclude each other: tools are served without a login")
        if self.mcp and find_spec("mcp") is None:
            raise ValueError('mcp needs a package: pip install "mcp>=1.30,<2"')


def replica_range(text: str) -> tuple[int, int]:
    """The least and the most replicas of "2" or "1-4"; (1, 1) for nothing, (1, 0) for no range."""
    found = re.fullmatch(r"([1-9]\d{0,2})(?:-([1-9]\d{0,2}))?", text or "1")
    return (int(found[1]), int(found[2] or found[1])) if found else (1, 0)


def bytes_of(size: str) -> int:
    """Of a size such as "20mb", in steps of 1024."""
    match = _SIZE.fullmatch(size)
    assert match is not None  # of settings, which are checked
    return int(match[1]) * 1024 ** (1 + ("kb", "mb", "gb").index(match[2]))


def listed_hosts(text: str) -> list[str]:
    return [host.strip().lower() for host in text.split(",") if host.strip()]


def without_additions(settings: Settings) -> Settings:
    """The same for any other model: what an operator adds belongs to the one named."""
    return replace(
        settings,
        base=None,
        model_adapter=None,
        adapters="",
        image_encoder=None,
        unet=None,
        vae=None,
        controlnet="",
        t2i_adapter="",
        lora="",
        embedding="",
        prediction_type=None,
        zero_snr=False,
    )


def load_options(settings: Settings) -> LoadOptions:
    """The settings that belong to a model; fields of one name are handed on as they are."""
    own = {f.name for f in fields(Settings)}
    same = {f.name: getattr(settings, f.name) for f in fields(LoadOptions) if f.name in own}
    return LoadOptions(
        **same | {"adapters": names_in(settings.adapters)},
        loras=loras(settings.lora),
        embeddings=embeddings(settings.embedding),
        controlnets=places("controlnet", settings.controlnet),
        t2i_adapters=places("t2i_adapter", settings.t2i_adapter),
    )


def offered(settings: Settings) -> tuple[str, ...]:
    """The names of `models`, each once; none where all are offered."""
    return names_in(settings.models)


def names_in(text: str) -> tuple[str, ...]:
    """Of "one, other", each once."""
    names = (name.strip() for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def is_repository(name: str) -> bool:
    """True if the hub could have a repository of this name."""
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
        return settings_from(flags, env)
    except ValueError as error:
        parser.error(str(error))


def settings_from(flags: Mapping[str, Any], env: Mapping[str, str] = os.environ) -> Settings:
    """Settings from flags by their names, and `env`. Raises ValueError that names a bad one."""
    return Settings(**_from_env(env) | dict(flags))


def settings_parser() -> argparse.ArgumentParser:
    """The flags of `app.py`, all optional; a flag that is not given is None."""
    parser = argparse.ArgumentParser(
        description="Generate images from a reference picture, in the browser.",
        epilog="Every flag can be set as a variable too: --queue-size as IPADAPTER_QUEUE_SIZE.",
    )
    add_settings(parser.add_argument)
    return parser


def add_settings(add: Callable[..., argparse.Action]) -> None:
    """The flags of all settings; `add` is a parser's `add_argument`."""
    add_model_options(add)
    default = Settings()
    add_server_options(add, default)


def _from_env(env: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {"host": "0.0.0.0"} if env.get("SPACE_ID") else {}
    for setting in fields(Settings):
        variable = PREFIX + setting.name.upper()
        text = env.get(variable, "").strip()
        if not text:  # set to nothing is how a shell or a Space says "not set"
            continue
        if isinstance(setting.default, bool):
            if text.lower() not in _SWITCH:
                raise ValueError(f"{variable} must be one of {', '.join(_SWITCH)}, got {text!r}")
            values[setting.name] = _SWITCH[text.lower()]
        elif str(setting.type).startswith("int"):
            if not re.fullmatch(r"\d{1,9}", text):
                raise ValueError(f"{variable} must be a whole number, got {text!r}")
            values[setting.name] = int(text)
        else:
            values[setting.name] = text
    return values
