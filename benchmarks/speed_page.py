"""The figures of `python -m benchmarks` as Markdown, and their place in a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.engine import table

BEGIN, END = "<!-- python -m benchmarks -->", "<!-- end -->"

SIDES = {
    "ours": "this",
    "ours_compiled": "this, `--compile`",
    "diffusers": "diffusers",
    "diffusers_compiled": "diffusers, compiled",
}


def markdown(figures: dict[str, Any]) -> str:
    """Medians of seconds, with half the distance of the quartiles."""
    machine = figures["machine"]
    sides = [side for side in SIDES if side in next(iter(figures["rows"].values()))]
    lines = [
        f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores, torch "
        f"{machine['torch']}, diffusers {machine['diffusers']}, {machine['date']}; "
        f"{figures['rounds']} rounds in turn, {figures['steps']} steps, float32.",
        "",
        "| Milliseconds | " + " | ".join(SIDES[side] for side in sides) + " | this : diffusers |",
        "|---|" + "---|" * (len(sides) + 1),
    ]
    for name, row in figures["rows"].items():
        cells = [f"{1e3 * row[s]['median']:.0f} ± {1e3 * row[s]['spread']:.0f}" for s in sides]
        ratios = [f"{ratio:.2f}" for ratio in row["ratios"].values()]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {', '.join(ratios)} |")
    lines += ["", "| Work that is skipped | Share of the time with it |", "|---|---|"]
    lines += [f"| {name} | {share:.2f} |" for name, share in figures["skipped"].items()]
    lines += ["", *table(figures["visitors"])]
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _rest(figures)]
    return "\n".join(lines)


def _rest(figures: dict[str, Any]) -> list[tuple[str, str]]:
    limit, memory, start = figures["limit"], figures["memory"], figures.get("start")
    rest = [
        (
            "A picture against its bare calls of image encoder, UNet and decoder",
            f"{figures['bare_ratio']:.2f}",
        ),
        (
            "Limit of a UNet call",
            f"{limit['gflop']:.2f} GFLOP at {limit['gflop_per_second']:.0f} GFLOP/s of a product "
            f"of matrices: {limit['milliseconds']:.0f} ms",
        ),
        (
            "Peak memory, this and diffusers",
            f"{memory['ours']:.2f} and {memory['diffusers']:.2f} GiB",
        ),
    ]
    if compiling := figures.get("compiling"):
        rest.append(
            (
                "Load and first picture with `--compile`",
                f"{compiling['cold']:.0f} s the first time, {compiling['warm']:.0f} s from then on",
            )
        )
    if live := figures.get("live"):
        rest.append(
            (
                "Live, from a change of λ to its picture in a browser",
                f"{live['median_ms']} ms in the median, {live['p10_ms']} to {live['p90_ms']} ms "
                "between the tenths",
            )
        )
    if start:
        rest.append(
            (
                "Start of the page",
                f"it answers after {start['page']:.1f} s, its first picture after "
                f"{start['picture']:.1f} s",
            )
        )
    return rest


def written_into(page: Path, figures: dict[str, Any]) -> str:
    """The page with the table between its markers."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{markdown(figures)}\n\n{END}{after}"
