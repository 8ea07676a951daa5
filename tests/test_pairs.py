"""Two solids in a text: docs/pairs.json, its tables, and the benchmark that wrote it."""

from __future__ import annotations

import json
from pathlib import Path

import ipadapter_demo as ip
from benchmarks.pairs import measured, scenes_of_pairs, short, table
from ipadapter_demo.models.catalog import TABLETOP

DOCS = Path(__file__).parents[1] / "docs"


def test_the_tables_of_pairs_are_the_record_s() -> None:
    record = json.loads((DOCS / "pairs.json").read_text())
    shown = (DOCS / "results.md").read_text(encoding="utf-8")
    assert f"{record['each']} held-out scenes for every two shapes" in " ".join(shown.split())
    for kind, right in record["right"].items():
        between = shown.split(f"<!-- {kind} -->")[1].split(f"<!-- /{kind} -->")[0]
        assert between == f"\n\n{table(right)}\n\n"
    report = json.loads((TABLETOP.folder / "report.json").read_text())
    assert record["weights"] == report["provenance"]["weights"]


def test_pairs_are_drawn_and_read() -> None:
    scenes = scenes_of_pairs(2)
    assert scenes.shape.tolist() == [[a, b] for a in range(4) for b in range(4) for _ in range(2)]
    assert short(scenes_of_pairs(1), 6) == "a blue cube and a blue cylinder"
    record = measured(ip.load("tabletop", device="cpu", dtype="float32"), 1)
    assert set(record["right"]) == {"full", "short"}
    for right in record["right"].values():
        shares = [share for row in right.values() for cell in row.values() for share in cell]
        assert len(shares) == 4 * 4 * 3
        assert set(shares) <= {0.0, 1.0}
        assert sum(shares) >= 46
