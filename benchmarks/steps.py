"""Quality of the built-in model against steps, sampler, guidance and LoRAs, on held-out scenes.

    python -m benchmarks.steps --out steps.json --steps 4,6,8,20 [--scenes 40]
    python -m benchmarks.steps --out few.json --steps 4 --sampler lcm --guidance 1 \\
        --lora none --lora lcm.safetensors:0.8
    python -m benchmarks.steps --out large.json --tabs variation --size 256
    python -m benchmarks.steps --out large.json --tabs variation --upscale 2:0.5:picture
    python -m benchmarks.steps --out large.json --tabs inpainting --size 256 --context 0,1

Every combination of the values given is a row of a table in Markdown, and every tab a column or
two: shares of attributes that are right, by the experiments of `evaluate`. A value that is not
given is the model's own. What the file holds already of the same scenes and weights is not drawn
again, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

import ipadapter_demo as ip
from ipadapter_demo import own_files
from ipadapter_demo.evaluation import experiments
from ipadapter_demo.evaluation.attribute_classifier import CLASSIFIER_SIZE
from ipadapter_demo.evaluation.benchmark import Benchmark
from ipadapter_demo.evaluation.drawing import Draw, drawn_by
from ipadapter_demo.evaluation.inpainting import inpainting
from ipadapter_demo.files import write_file
from ipadapter_demo.load_options import DTYPES
from ipadapter_demo.lora import Lora, lora_at, texts_from_loras
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.request import GenerateRequest, Window
from ipadapter_demo.tabletop.scene import HELD_OUT_SEED, sample_scenes

# By tab: the experiment, and what of its result the table shows.
TABS: dict[str, tuple[Callable[[Benchmark], Mapping[str, Any]], dict[str, str]]] = {
    "text": (experiments.text_alone, {"Text": "mean"}),
    "variation": (experiments.variation, {"Variation": "mean"}),
    "image+text": (
        experiments.image_and_text,
        {"Floor of the text": "floor_named_by_text", "Solid of the picture": "solid_of_reference"},
    ),
    "edges": (experiments.edges, {"Edge F1": "edge_f1", "Colours": "colours_of_reference"}),
    "inpainting": (
        inpainting,
        {
            "Inpainted solid": "solid_of_reference",
            "Seam error": "seam_error",
            "Detail inside": "detail_inside",
            "Sharpness inside": "sharpness_inside",
        },
    ),
}
FIGURES = ("Edge F1", "Seam error", "Detail inside", "Sharpness inside")  # no shares


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A row of the table; None is the model's own value."""

    sampler: str | None
    steps: int | None
    guidance: float | None
    guidance_window: Window | None
    loras: tuple[Lora, ...] | None
    passes: int | None  # of inpainting
    size: int | None = None  # both sides, in pixels; of inpainting those of the picture
    context: float | None = None  # of inpainting
    upscale: ip.Upscale | None = None

    def of(self, request: GenerateRequest) -> GenerateRequest:
        """A request under this setting."""
        changes: dict[str, Any] = {
            name: value
            for name, value in vars(self).items()
            if value is not None and name not in ("passes", "size", "context")
        }
        if request.inpaint is not None:
            own = {"repaint_passes": self.passes, "context": self.context}
            given = {name: value for name, value in own.items() if value is not None}
            changes["inpaint"] = replace(request.inpaint, **given)
        elif self.size is not None:
            changes |= {"width": self.size, "height": self.size}
        return replace(request, **changes)

    def plain(self) -> dict[str, Any]:
        """As the file and the table have it."""
        named = None if self.loras is None else texts_from_loras(self.loras)
        window = self.guidance_window and "{:g}:{:g}".format(*self.guidance_window)
        up = self.upscale and "{factor:g}:{strength:g}:{enlarge}".format(**asdict(self.upscale))
        return asdict(self) | {"loras": named, "guidance_window": window, "upscale": up}


class Timed:
    """Draws under a setting, and counts pictures and seconds."""

    def __init__(self, draw: Draw, setting: Setting) -> None:
        self._draw, self._setting = draw, setting
        self.pictures, self.seconds, self.cpu_seconds = 0, 0.0, 0.0

    def __call__(self, requests: Sequence[GenerateRequest]) -> list[Image.Image]:
        began, cpu_began = time.perf_counter(), time.process_time()
        images = self._draw([self._setting.of(request) for request in requests])
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - cpu_began
        self.pictures += len(images)
        return images


def settings(arguments: argparse.Namespace) -> list[Setting]:
    """All combinations of the values given, the first of them the slowest to change."""
    names = (
        "loras",
        "sampler",
        "guidance",
        "guidance_window",
        "passes",
        "size",
        "context",
        "upscale",
        "steps",
    )
    columns = [getattr(arguments, name) or [None] for name in names]
    return [Setting(**dict(zip(names, values, strict=True))) for values in product(*columns)]


def measured(
    pipeline: ImagePromptPipeline, rows: Sequence[Setting], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The cells of the table in order, each written to the file as soon as it is there."""
    head = {"scenes": arguments.scenes, "seed": arguments.seed, "provenance": pipeline.provenance}
    head["recommended"] = asdict(pipeline.info.recommended)  # what a value left open stands for
    path: Path = arguments.out
    cells: list[dict[str, Any]] = []
    if path.exists():
        earlier = json.loads(path.read_text())
        cells = earlier.pop("cells")
        if earlier != json.loads(json.dumps(head)):
            raise SystemExit(
                f"{path} has other scenes, defaults, weights or versions: name another file"
            )
    scenes = sample_scenes(arguments.scenes, arguments.seed)
    for setting in rows:
        weights = _lora_hashes(pipeline, setting)
        for tab in arguments.tabs:
            what = {"tab": tab, **setting.plain(), "lora_weights": weights}
            found = [cell for cell in cells if {name: cell.get(name) for name in what} == what]
            if not found:
                draw = Timed(drawn_by(pipeline), setting)
                size = setting.size if tab == "inpainting" else None
                benchmark = Benchmark(pipeline.info, draw, scenes, size or CLASSIFIER_SIZE)
                result = TABS[tab][0](benchmark)
                found = [
                    what
                    | {
                        "result": result,
                        "seconds_a_picture": round(draw.seconds / draw.pictures, 4),
                        "cpu_seconds_a_picture": round(draw.cpu_seconds / draw.pictures, 4),
                    }
                ]
                cells += found
                write_file(path, document(head, cells).encode())
            yield found[0]


def document(head: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str:
    """JSON with a line for each cell."""
    start, rows = json.dumps(head, indent=1), ",\n".join(map(json.dumps, cells))
    return start.removesuffix("\n}") + f',\n "cells": [\n{rows}\n]}}\n'


def _lora_hashes(pipeline: ImagePromptPipeline, setting: Setting) -> dict[str, Any]:
    """SHA-256 of the LoRAs that a setting draws with, by name; the model's own with None. Raises
    RequestError for one that it does not have."""
    result = pipeline.generate(setting.of(GenerateRequest(prompt="a red cube", steps=1)))
    made_by = result.provenance["weights"]
    assert isinstance(made_by, dict)
    return {name: value for name, value in made_by.items() if name.startswith("lora/")}


def table(cells: Sequence[Mapping[str, Any]], tabs: Sequence[str]) -> str:
    """In Markdown: a row for each setting, with the mean time of its tabs."""
    names = [
        name for name in Setting.__dataclass_fields__ if any(c.get(name) is not None for c in cells)
    ]
    measures = [(tab, title, key) for tab in tabs for title, key in TABS[tab][1].items()]
    heads = [name.replace("_", " ").capitalize() for name in names] + [
        title for _, title, _ in measures
    ]
    lines = ["| " + " | ".join([*heads, "CPU s a picture"]) + " |"]
    lines.append("|" + "---|" * (len(heads) + 1))
    for start in range(0, len(cells), len(tabs)):
        row = {cell["tab"]: cell for cell in cells[start : start + len(tabs)]}
        first = row[tabs[0]]
        seconds = sum(cell["cpu_seconds_a_picture"] for cell in row.values()) / len(row)
        values = [_text(first[name], name) for name in names]
        values += [_number(figure_of(row[tab], key), title) for tab, title, key in measures]
        lines.append("| " + " | ".join([*values, f"{seconds:.2f}"]) + " |")
    return "\n".join(lines)


def _text(value: Any, name: str) -> str:
    if name == "upscale" and value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "the model's" if value is None else str(value)


def figure_of(cell: Mapping[str, Any], key: str) -> float:
    """Of its result; the mean, where there are several."""
    found = cell["result"][key]
    return float(found["mean"] if isinstance(found, Mapping) else found)


def _number(value: float, title: str) -> str:
    """A share in percent, or a figure as it is."""
    return f"{value:.2f}" if title in FIGURES else f"{100 * value:.1f} %"


def _values(of: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [of(item.strip()) for item in text.split(",")]


def _loras(text: str) -> tuple[tuple[Path, float], ...]:
    return () if text == "none" else own_files.loras(text)


def window_from_text(text: str) -> Window:
    start, end = map(float, text.split(":"))
    return start, end


def _upscale(text: str) -> ip.Upscale:
    factor, strength, enlarge = text.split(":")
    return ip.Upscale(factor=float(factor), strength=float(strength), enlarge=enlarge)  # type: ignore[arg-type]


def _tab(text: str) -> str:
    if text not in TABS:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(TABS)}, got {text!r}")
    return text


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with `loras` as requests have them and `files` to load them from."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="the JSON to write or go on with")
    add("--scenes", type=int, default=40, metavar="N", help="more are surer [40]")
    add("--seed", type=int, default=HELD_OUT_SEED, metavar="N", help=f"of them [{HELD_OUT_SEED}]")
    add("--tabs", type=_values(_tab), default=list(TABS), help=f"[{','.join(TABS)}]")
    add("--steps", type=_values(int), metavar="N,N")
    add("--sampler", type=_values(str), metavar="NAME,NAME")
    add("--guidance", type=_values(float), metavar="G,G")
    add(
        "--guidance-window",
        type=_values(window_from_text),
        metavar="A:B,A:B",
        help="parts of the steps with guidance",
    )
    add("--passes", type=_values(int), metavar="N,N", help="repaint_passes of inpainting")
    add("--size", type=_values(int), metavar="N,N", help="both sides of a picture, in pixels")
    add("--context", type=_values(float), metavar="C,C", help="of inpainting")
    add(
        "--upscale",
        type=_values(_upscale),
        metavar="FACTOR:STRENGTH:ENLARGE,...",
        help="a second pass",
    )
    add("--lora", type=_loras, action="append", metavar="FILE:WEIGHT", help="repeatable; or none")
    add(
        "--dtype",
        default="float32",
        choices=DTYPES,
        help="[float32]; bfloat16 is faster on CPUs that have it in hardware",
    )
    arguments = parser.parse_args(argv)
    given = arguments.lora or []
    arguments.loras = [tuple(lora_at(*each) for each in choice) for choice in given]
    arguments.files = dict.fromkeys(path for choice in given for path, _ in choice if path.suffix)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parsed(argv)
    warnings.filterwarnings("ignore")
    pipeline = ip.load(
        "tabletop", dtype=arguments.dtype, loras=tuple((path, 0.0) for path in arguments.files)
    )
    cells = list(measured(pipeline, settings(arguments), arguments))
    print(table(cells, arguments.tabs))


if __name__ == "__main__":
    main()
