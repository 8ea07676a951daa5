"""Quality against work, drawn from files of `benchmarks.steps`.

    python -m benchmarks.curve docs/few-steps.webp \\
        "LoRA, no guidance=docs/steps-lora.json" "DPM-Solver++=docs/steps.json"

A curve for each file, its points marked with their steps. Work is counted in rows of the UNet:
one a step, two with guidance, on any machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.steps import figure_of, window_from_text
from ipadapter_demo.claims.figures import COLOURS, new_figure, save
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.pipeline.step_count import guided_calls, unet_calls
from ipadapter_demo.request import GenerateRequest

# By panel: the tab, and what of its result is drawn.
PANELS = {
    "text, attributes right": ("text", "mean"),
    "variation, attributes right": ("variation", "mean"),
    "image + text, solid of the picture right": ("image+text", "solid_of_reference"),
    "F1 of edges": ("edges", "edge_f1"),
}


def points(cells: Sequence[Mapping[str, Any]], tab: str, key: str) -> list[tuple[int, float, int]]:
    """Rows a picture, figure and steps of each cell of a tab, fewest steps first."""
    found = [
        (rows(cell), figure_of(cell, key), cell["steps"]) for cell in cells if cell["tab"] == tab
    ]
    return sorted(found, key=lambda point: point[2])


def rows(cell: Mapping[str, Any]) -> int:
    """Of the UNet for a picture; what a cell leaves open is the built-in model's own."""
    usual, guidance, window = TABLETOP.recommended, cell["guidance"], cell["guidance_window"]
    request = GenerateRequest(
        prompt="a cube",
        steps=cell["steps"],
        guidance=usual.guidance if guidance is None else guidance,
        guidance_window=window_from_text(window) if window else usual.guidance_window,
    )
    return unet_calls(request) + guided_calls(request)


def draw(curves: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    figure, panels = new_figure(columns=2, rows=2)
    for panel, (title, (tab, key)) in zip(panels, PANELS.items(), strict=True):
        for colour, (label, cells) in zip(COLOURS[: len(curves)], curves.items(), strict=True):
            found = points(cells, tab, key)
            if not found:
                continue
            work, shares, steps = zip(*found, strict=True)
            panel.plot(work, shares, "o-", ms=3, lw=1, color=colour, label=label)
            for place, share, count in zip(work, shares, steps, strict=True):
                panel.annotate(
                    str(count), (place, share), (3, -9), textcoords="offset points", fontsize=7
                )
        panel.set(title=title, xlabel="rows of the UNet a picture", xlim=(0, None))
    panels[0].legend(frameon=False, fontsize=7, loc="lower right")
    save(figure, path)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the figure to write")
    parser.add_argument(
        "files", nargs="+", metavar="LABEL=FILE", help="written by benchmarks.steps"
    )
    return parser.parse_args(words)


def main() -> None:
    arguments = parsed()
    named = [each.rsplit("=", 1) for each in arguments.files]
    curves = {label: json.loads(Path(file).read_text())["cells"] for label, file in named}
    draw(curves, arguments.out)


if __name__ == "__main__":
    main()
