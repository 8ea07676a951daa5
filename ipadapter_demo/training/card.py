"""A model card: what the hub shows of a model, and what a person wants to know of a run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import NotRequired, TypedDict

import ipadapter_demo

ADAPTER = "ip-adapter.safetensors"
LORA = "pytorch_lora_weights.safetensors"


class Provenance(TypedDict):
    """All that made the weights of a run; also `training.json`, beside them."""

    steps: int
    samples: int
    hours: float
    loss: float
    parameters: int
    processes: int
    precision: str
    device: str
    config: dict[str, object]
    model_options: list[str]
    broken_rows: NotRequired[int]  # on the main process, where files are written
    files: NotRequired[list[str]]


def write_card(path: Path, provenance: Provenance) -> Path:
    """Written beside the weights, as README.md; `provenance` is that of `finetune.train`."""
    config = provenance["config"]
    kind, tags = _kind(config)
    lines = [
        "---",
        f"base_model: {json.dumps(config['base'])}",
        "library_name: diffusers",
        f"tags: [{tags}, text-to-image]",
        "---",
        "",
        f"# {kind} for {config['base']}",
        "",
        f"{provenance['parameters']:,} parameters, trained on {provenance['samples']:,} samples in "
        f"{provenance['steps']:,} steps: {provenance['hours']:.2f} hours on "
        f"{provenance['processes']} {provenance['device']} "
        f"process{'es' * (provenance['processes'] > 1)}, precision "
        f"{provenance['precision']}. Last loss, smoothed: {provenance['loss']:.4f}.",
        "",
        *_use(path.parent, provenance),
        "",
        "| Setting | Value |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in config.items()),
        "",
        f"Made with ipadapter-demo {ipadapter_demo.__version__}.",
        "",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _kind(config: dict[str, object]) -> tuple[str, str]:
    """What was trained, and the hub's tags for it."""
    if "rank" in config:
        return "LCM LoRA", "lora, latent-consistency"
    if "variant" in config:
        return f"image adapter, {config['variant']}", "ip-adapter"
    return str(config["network"]), str(config["network"])


def _use(folder: Path, provenance: Provenance) -> list[str]:
    """Commands as they are given where the training was started: paths may be relative to it."""
    config = provenance["config"]
    if "rank" in config:
        own = ["--lora", str(folder / LORA)]
        asked = "--reference PICTURE --sampler lcm --steps 4 --guidance 1"
        elsewhere = [
            "on a pipeline of the base with an LCMScheduler, 4 steps, guidance_scale 1:",
            "",
            f'    pipe.load_lora_weights("FOLDER", weight_name="{LORA}")',
        ]
    elif "variant" in config:
        own, asked = ["--model-adapter", str(folder / ADAPTER)], "--reference PICTURE"
        elsewhere = [
            "on a pipeline of the base with its image encoder:",
            "",
            f'    pipe.load_ip_adapter("FOLDER", subfolder="", weight_name="{ADAPTER}")',
        ]
    else:
        kind = config["annotator"]
        own, asked = [f"--{config['network']}", f"{kind}={folder}"], f"--structure {kind}=PICTURE"
        elsewhere = ["the folder loads with `from_pretrained`."]
    options = shlex.join([*provenance["model_options"], *own])
    return [
        "In the demo, from the folder where the training was started:",
        "",
        f"    python app.py {options}",
        f"    python -m ipadapter_demo generate {asked} {options}",
        "",
        f"In diffusers, {elsewhere[0]}",
        *elsewhere[1:],
    ]


def _cell(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text}`".replace("|", "\\|")
