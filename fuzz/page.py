"""The figures as Markdown, and their place in docs/reliability.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fuzz.server import ROOT

FIGURES, PAGE = ROOT / "docs/reliability.json", ROOT / "docs/reliability.md"
BEGIN, END = "<!-- python -m fuzz -->", "<!-- end -->"


def markdown(figures: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    lines = [f"{versions}.", "", *_files(figures["files"]), "", *_server(figures), ""]
    return "\n".join([*lines, *_held(figures), "", *_kills(figures["kills"])])


def _files(found: dict[str, Any]) -> list[str]:
    lines = [
        "| In process | Files | Read | Refused in words | Failures | Read outside | Slowest "
        "| Memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, one in found.items():
        if isinstance(one, dict):
            lines.append(
                f"| {kind} | {one['files']:,} | {one['read']:,} | {one['refused']:,} | "
                f"{len(one['failures'])} | {one['read_outside']} | {one['slowest_seconds']:g} s | "
                f"{one['megabytes_grown']:+d} MB |"
            )
    return lines


NAMES = {
    "http": "changed files, uploaded and read",
    "types": "every parameter of every endpoint, wrong types",
    "clients": "visitors who come at once, mixed requests",
    "soak": "one after the other, mixed requests",
    "storms": "stopped, left, reloaded",
}


def _server(figures: dict[str, Any]) -> list[str]:
    lines = [
        "| Over HTTP | Requests | Done | An error in words | Turned away in words | Unanswered, or "
        "without words | Crashes | Tracebacks | Read outside |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for part, name in NAMES.items():
        one = figures[part]
        answered = one["answered"]
        done = sum(answered.get(kind, 0) for kind in ("complete", "stopped", "left"))
        away = sum(n for kind, n in answered.items() if kind.startswith("refused"))
        lines.append(
            f"| {name} | {one['requests']:,} | {done:,} | {answered.get('error', 0):,} "
            f"| {away:,} | "
            f"{len(one['failures'])} | {int(one['crashed'])} | {one['tracebacks']} | "
            f"{one['read_outside']} |"
        )
    return lines


def _held(figures: dict[str, Any]) -> list[str]:
    lines = ["| The server holds | Memory | Files and connections | Threads |", "|---|---|---|---|"]
    rows = [("as it starts", figures["soak"]["before"])]
    moments = ("after a tenth of the requests", "in the middle", "at the end")
    rows += list(zip(moments, figures["soak"]["held"], strict=True))
    rows += list(zip(("before the storms", "after them"), figures["storms"]["held"], strict=True))
    for name, held in rows:
        lines.append(f"| {name} | {held['megabytes']:,} MB | {held['files']} | {held['threads']} |")
    return lines


def _kills(found: dict[str, Any]) -> list[str]:
    ready = ", ".join(f"{seconds:g} s" for seconds in found["ready_again_seconds"])
    lines = [
        "| kill -9 | What is left |",
        "|---|---|",
        f"| of a server in a run, {found['kills']} times | ready again on its port after {ready}, "
        f"and drew: {', '.join(found['drew_again'])} |",
    ]
    return lines + [f"| of a {name} | {said} |" for name, said in found["tests"].items()]


def written_into(page: Path, figures: dict[str, Any]) -> str:
    """The page with the tables between its markers."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n\n{markdown(figures)}\n\n{END}{rest.split(END)[1]}"
