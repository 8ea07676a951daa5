"""The table in docs/speed.md is what `python -m benchmarks` printed, and that runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks import sides, speed_page
from benchmarks.__main__ import machine
from benchmarks.contestants import KINDS, Diffusers, Ours
from benchmarks.speed_page import markdown, written_into

DOCS = Path(__file__).parent.parent / "docs"
PAGE, FIGURES = DOCS / "speed.md", json.loads((DOCS / "speed.json").read_text())


def test_the_table_is_the_report() -> None:
    assert PAGE.read_text(encoding="utf-8") == written_into(PAGE, FIGURES)


def test_readme_shows_the_first_table() -> None:
    table = markdown(FIGURES).split("\n\n")[1]
    assert table.startswith("| Milliseconds")
    assert f"\n\n{table}\n\n" in (DOCS.parent / "README.md").read_text(encoding="utf-8")


def test_another_figure_is_another_table(tmp_path: Path) -> None:
    changed: dict[str, Any] = json.loads(json.dumps(FIGURES))
    next(iter(changed["rows"].values()))["ours"]["median"] *= 2
    assert written_into(PAGE, changed) != PAGE.read_text(encoding="utf-8")


def test_the_header_names_the_machine() -> None:
    assert set(machine()) == set(FIGURES["machine"])
    assert machine()["threads"] == torch.get_num_threads()


def test_every_side_is_in_the_table() -> None:
    assert list(sides.SIDES) == list(speed_page.SIDES)


def test_both_sides_draw_every_row() -> None:
    ours, theirs = Ours.loaded(compile=False), Diffusers.loaded(compile=False)
    one, other = ours.unet()(), theirs.unet()()
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    for kind in KINDS:
        ours.picture(kind, 1)()
        theirs.picture(kind, 1)()
