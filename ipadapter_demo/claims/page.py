"""From a study's record to docs/claims.md: a table between two markers, and a figure beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ipadapter_demo.claims.figures import FIGURES, Record
from ipadapter_demo.errors import DemoError


def publish(study: str, record: Record, docs: Path) -> list[Path]:
    """Write docs/claims/<study>.json and .webp; table and figure stand in docs/claims.md."""
    folder = docs / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    data, figure, page = folder / f"{study}.json", folder / f"{study}.webp", docs / "claims.md"
    fields = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record.items()
    )
    data.write_text(f"{{\n{fields}\n}}\n")
    FIGURES[study](record, figure)
    shown = f"\n{TABLES[study](record)}\n![{study}](claims/{study}.webp)\n\n"
    page.write_text(with_table(page.read_text(), study, shown))
    return [data, figure, page]


def check(study: str, docs: Path) -> None:
    """Raises DemoError where `publish` would fail, which is hours later."""
    page = docs / "claims.md"
    if not page.is_file():
        raise DemoError(f"docs must be a folder with claims.md, got {docs}, which has none")
    with_table(page.read_text(), study, "")


def with_table(text: str, study: str, table: str) -> str:
    """The page with what stands between the markers of `study` replaced."""
    start, end = f"<!-- {study} -->\n", f"<!-- /{study} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise DemoError(f"docs/claims.md must have the markers {start.strip()} and {end} once each")
    before, rest = text.split(start)
    return f"{before}{start}{table}{end}{rest.split(end)[1]}"


def rows(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, ["---"] * len(heads), *lines))


def spread(mark: dict[str, float], digits: int = 3, percent: bool = False) -> str:
    """0.812 ± 0.004, or in per cent."""
    if percent:
        return f"{100 * mark['mean']:.1f} ± {100 * mark['std']:.1f} %"
    return f"{mark['mean']:.{digits}f} ± {mark['std']:.{digits}f}"


def methods(record: Record) -> str:
    lines = [
        [
            row["method"],
            f"{row['lr']:g}",
            f"{row['parameters']:,}",
            f"{100 * row['parameters'] / record['base_parameters']:.1f} %",
            spread(row["metrics"]["clip_i"]),
            spread(row["metrics"]["clip_t"]),
            spread(row["metrics"]["attributes"], percent=True),
        ]
        for row in record["rows"]
    ]
    truth = record["of_the_references_themselves"]
    lines.append(
        [
            "the references themselves",
            "",
            "",
            "",
            f"{truth['clip_i']:.3f}",
            f"{truth['clip_t']:.3f}",
            f"{100 * truth['attributes']:.1f} %",
        ]
    )
    names = [name for name in truth if name not in ("clip_i", "clip_t", "attributes")]
    each = [
        [row["method"], *(f"{100 * row['metrics'][name]['mean']:.0f}" for name in names)]
        for row in record["rows"]
    ]
    return (
        rows(
            [
                "Method",
                "Learning rate",
                "Trained parameters",
                "of the UNet's",
                "CLIP-I",
                "CLIP-T",
                "Attributes kept",
            ],
            lines,
        )
        + "\n"
        + rows(["Attributes kept, %", *(name.replace("_", " ") for name in names)], each)
    )


def tuning(record: Record) -> str:
    lines = [
        [
            row["method"],
            f"{row['lr']:g}",
            ", ".join(f"{found['clip_i']:.3f}" for found in row["metrics"].values()),
            ", ".join(f"{100 * found['attributes']:.1f} %" for found in row["metrics"].values()),
        ]
        for row in record["rows"]
    ]
    return rows(["Method", "Learning rate", "CLIP-I, by seed", "Attributes kept, by seed"], lines)


def scale(record: Record) -> str:
    lines = [
        [
            curve["method"],
            *(
                f"{100 * p['image']['mean']:.0f} / {100 * p['text']['mean']:.0f}"
                for p in curve["points"]
            ),
        ]
        for curve in record["curves"]
    ]
    return rows(
        ["picture's solid / text's floor, %", *(f"λ {value:g}" for value in record["scales"])],
        lines,
    )


def data(record: Record) -> str:
    steps = record["curves"][0]["steps"]
    lines = [
        [
            f"{curve['pictures']:,}",
            *(spread(mark["attributes"], percent=True) for mark in curve["metrics"]),
        ]
        for curve in record["curves"]
    ]
    return rows(["Pictures", *(f"{step} steps" for step in steps)], lines)


def transfer(record: Record) -> str:
    lines = [
        [
            row["what"],
            spread(row["metrics"]["attributes"], percent=True),
            spread(row["metrics"]["clip_i"]),
            spread(row["metrics"]["ink"], percent=True),
        ]
        for row in record["rows"]
    ]
    lines += [
        [
            row["what"],
            f"{100 * row['metrics']['attributes']:.1f} %",
            f"{row['metrics']['clip_i']:.3f}",
            f"{100 * row['metrics']['ink']:.1f} %",
        ]
        for row in record["rendered"]
    ]
    return rows(["", "Attributes kept", "CLIP-I", "Ink"], lines)


def structure(record: Record) -> str:
    lines = [
        [
            row["structure"],
            "yes" if row["reference"] else "no",
            spread(row["metrics"]["edge_f1"]),
            spread(row["metrics"]["cell_error"], 1),
            spread(row["metrics"]["colours_of_reference"], percent=True),
        ]
        for row in record["rows"]
    ]
    return rows(
        [
            "Structure",
            "Reference",
            "Edge F1",
            "Error of a palette cell (of 255)",
            "Colours of the reference",
        ],
        lines,
    )


def plus(record: Record) -> str:
    lines = [
        [
            curve["adapter"],
            f"{point['scale']:g}",
            f"{100 * point['attributes']:.1f} %",
            f"{point['spread']:.3f} ± {point['spread_error']:.3f}",
        ]
        for curve in record["curves"]
        for point in curve["points"]
    ]
    return rows(["Adapter", "λ", "Attributes kept", "Spread of places over seeds"], lines)


TABLES: dict[str, Callable[[Record], str]] = {
    "methods": methods,
    "tuning": tuning,
    "scale": scale,
    "transfer": transfer,
    "structure": structure,
    "data": data,
    "plus": plus,
}
