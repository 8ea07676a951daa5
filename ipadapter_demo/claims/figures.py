"""A figure for every study: matplotlib, light, with error bars of one standard deviation."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ipadapter_demo.imaging import images_from_pixels

Record = dict[str, Any]  # of a study, from JSON: each has figures of its own
# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
matplotlib.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def new_figure(columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """With its panels, row by row."""
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save(figure: Figure, path: Path, **saved: Any) -> None:
    """Lines without loss, unless `saved` says otherwise."""
    figure.savefig(path, dpi=160, pil_kwargs={"method": 6} | (saved or {"lossless": True}))


def methods(record: Record, path: Path) -> None:
    figure, panels = new_figure(2)
    for panel, mark, label in zip(
        panels, ("attributes", "clip_i"), ("attributes kept", "CLIP-I"), strict=True
    ):
        for colour, row in zip(COLOURS, record["rows"], strict=False):
            found = row["metrics"][mark]
            panel.errorbar(
                row["parameters"],
                found["mean"],
                found["std"],
                fmt="o",
                capsize=3,
                color=colour,
                label=row["method"],
            )
        panel.set(xscale="log", xlabel="trained parameters", ylabel=label)
    panels[0].legend(frameon=False, fontsize=7)
    save(figure, path)


def tuning(record: Record, path: Path) -> None:
    figure, [panel] = new_figure()
    names = dict.fromkeys(row["method"] for row in record["rows"])
    for place, (colour, name) in enumerate(zip(COLOURS, names, strict=False)):
        beside = 1.12 ** (place - 2.5)  # so that no point hides another
        points = [
            (row["lr"] * beside, found["attributes"])
            for row in record["rows"]
            if row["method"] == name
            for found in row["metrics"].values()
        ]
        panel.plot(*zip(*points, strict=True), "o", ms=4, color=colour, label=name)
    rates = sorted({row["lr"] for row in record["rows"]})
    panel.set(xscale="log", xlabel="learning rate", ylabel="attributes kept")
    panel.set_xticks(rates, [f"{lr:g}" for lr in rates])
    panel.minorticks_off()
    panel.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)


def scale(record: Record, path: Path) -> None:
    figure, [panel] = new_figure()
    for colour, curve in zip(COLOURS, record["curves"], strict=False):
        points = curve["points"]
        panel.errorbar(
            [p["text"]["mean"] for p in points],
            [p["image"]["mean"] for p in points],
            [p["image"]["std"] for p in points],
            [p["text"]["std"] for p in points],
            fmt="o-",
            ms=3,
            lw=1,
            elinewidth=0.6,
            color=colour,
            label=curve["method"],
        )
    panel.set(xlabel="floor that the text names", ylabel="solid that the picture shows")
    panel.legend(frameon=False, fontsize=7)
    save(figure, path)


def data(record: Record, path: Path) -> None:
    figure, [panel] = new_figure()
    for colour, curve in zip(COLOURS, record["curves"], strict=False):
        metrics = [mark["attributes"] for mark in curve["metrics"]]
        panel.errorbar(
            curve["steps"],
            [m["mean"] for m in metrics],
            [m["std"] for m in metrics],
            fmt="o-",
            ms=3,
            capsize=3,
            color=colour,
            label=f"{curve['pictures']:,} pictures",
        )
    panel.set(xlabel="training steps", ylabel="attributes kept")
    panel.legend(frameon=False)
    save(figure, path)


def transfer(record: Record, path: Path) -> None:
    rows = record["rows"] + record["rendered"]
    figure = Figure(figsize=(8.4, 6.4), layout="constrained")
    for panel, row in zip(figure.subplots(len(rows), 1), rows, strict=True):
        panel.imshow(Image.open(BytesIO(base64.b64decode(row["strip"]))), interpolation="nearest")
        panel.set_title(row["what"], loc="left", fontsize=9)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    save(figure, path, quality=80)  # pictures


def strip(pixels: Tensor) -> str:
    """The first eight pictures side by side, 64 pixels high, as text that a record can hold."""
    small = F.interpolate(pixels[:8], (64, 64), mode="area")
    [sheet] = images_from_pixels(torch.cat(list(small), dim=-1)[None])
    file = BytesIO()
    sheet.save(file, "WEBP", quality=90)
    return base64.b64encode(file.getvalue()).decode()


def structure(record: Record, path: Path) -> None:
    figure, panels = new_figure(2)
    both = (("edge_f1", "edge F1", True), ("cell_error", "error of a palette cell", False))
    for panel, (mark, label, referenced) in zip(panels, both, strict=True):
        found = [row for row in record["rows"] if row["reference"] == referenced]
        panel.barh(
            [row["structure"] for row in found],
            [r["metrics"][mark]["mean"] for r in found],
            xerr=[r["metrics"][mark]["std"] for r in found],
            capsize=3,
            color=COLOURS[0],
        )
        panel.invert_yaxis()
        panel.set(xlabel=f"{label}, {'with' if referenced else 'without'} a reference")
    panels[1].set_yticks([])
    save(figure, path)


def plus(record: Record, path: Path) -> None:
    figure, [panel] = new_figure()
    for colour, curve in zip(COLOURS, record["curves"], strict=False):
        points = curve["points"]
        panel.errorbar(
            [p["spread"] for p in points],
            [p["attributes"] for p in points],
            xerr=[p["spread_error"] for p in points],
            fmt="o-",
            ms=3,
            lw=1,
            elinewidth=0.6,
            color=colour,
            label=curve["adapter"],
        )
        for point in points:
            panel.annotate(
                f"{point['scale']:g}",
                (point["spread"], point["attributes"]),
                textcoords="offset points",
                xytext=(4, -9),
                fontsize=6,
                color=colour,
            )
    panel.axvline(
        record["spread_over_scenes"], color="grey", ls=":", lw=1, label="spread over scenes"
    )
    panel.set(
        xlabel="spread of places over seeds (widths of the picture)", ylabel="attributes kept"
    )
    panel.legend(frameon=False)
    save(figure, path)


FIGURES: dict[str, Callable[[Record, Path], None]] = {
    "methods": methods,
    "tuning": tuning,
    "scale": scale,
    "transfer": transfer,
    "structure": structure,
    "data": data,
    "plus": plus,
}
