"""A model card: what the hub shows of a model, and what a person wants to know of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ipadapter_demo


def write_card(path: Path, facts: dict[str, Any]) -> Path:
    """`facts` are those of `frozen.train`. Written beside the weights, as README.md."""
    config = facts["config"]
    kind = config.get("network", f"image adapter, {config.get('variant')}")
    lines = [
        "---",
        f"base_model: {json.dumps(config['base'])}",
        "library_name: diffusers",
        "tags: [ip-adapter, text-to-image]" if "variant" in config else
        f"tags: [{kind}, text-to-image]",
        "---",
        "",
        f"# {kind} for {config['base']}",
        "",
        f"{facts['parameters']:,} parameters, trained on {facts['samples']:,} samples in "
        f"{facts['steps']:,} steps: {facts['hours']:.2f} hours on {facts['processes']} "
        f"{facts['device']} process{'es' * (facts['processes'] > 1)}, precision "
        f"{facts['precision']}. Last loss, smoothed: {facts['loss']:.4f}.",
        "",
        *_use(config),
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


def _use(config: dict[str, Any]) -> list[str]:
    if "variant" not in config:
        return ["The folder loads with diffusers' `from_pretrained`, and in this demo as a "
                "structure network of a model of your own."]
    return [
        "In the demo:",
        "",
        f"    python app.py --base {config['base']} --model-adapter ip-adapter.safetensors",
        "",
        "In diffusers, on a pipeline of the base with its image encoder:",
        "",
        '    pipe.load_ip_adapter("FOLDER", subfolder="", weight_name="ip-adapter.safetensors")',
    ]


def _cell(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text}`".replace("|", "\\|")
