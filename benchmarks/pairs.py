"""Two solids in a text: how often the built-in model draws them as the text names them.

    python -m benchmarks.pairs --out docs/pairs.json [--each 50]

Held-out scenes, alike many of every two shapes in each order, by their full captions and by short
ones ("a red cube and a blue cylinder"); prints a table in Markdown for each.
"""

from __future__ import annotations

import argparse
import json
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import ipadapter_demo as ip
from ipadapter_demo.evaluation.benchmark import Benchmark
from ipadapter_demo.evaluation.drawing import drawn_by
from ipadapter_demo.load_options import DTYPES
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.tabletop.caption import FULL, Phrase, Said, caption, written
from ipadapter_demo.tabletop.scene import COLOURS, HELD_OUT_SEED, SHAPES, Scenes, sample_scenes

SEED = HELD_OUT_SEED + 5  # not the report's
FIGURES = ("solid_shape", "second_shape", "second_colour")


def scenes_of_pairs(each: int) -> Scenes:
    """`each` scenes of every two shapes, in each order."""
    scenes = sample_scenes(60 * each + 400, SEED)  # two in five have two solids
    kind = scenes.shape[:, 0] * len(SHAPES) + scenes.shape[:, 1]
    rows = []
    for number in range(len(SHAPES) ** 2):
        rows.append(torch.nonzero(scenes.present.all(dim=1) & (kind == number))[:each, 0])
    return scenes[torch.cat(rows)]


def short(scenes: Scenes, index: int) -> str:
    """The colours and shapes of two solids, and no more."""
    return written(
        Said(
            tuple(
                Phrase(COLOURS[scenes.colour[index, slot]], "", SHAPES[scenes.shape[index, slot]])
                for slot in (0, 1)
            )
        )
    )


def measured(pipeline: ImagePromptPipeline, each: int) -> dict[str, Any]:
    """Shares that are right of FIGURES, for each kind of text by the two shapes."""
    scenes = scenes_of_pairs(each)
    rng, rows = random.Random(0), range(len(scenes))
    texts = {
        "full": [caption(scenes, row, FULL, rng) for row in rows],
        "short": [short(scenes, row) for row in rows],
    }
    benchmark = Benchmark(pipeline.info, drawn_by(pipeline), scenes)
    return {
        "seed": SEED,
        "each": each,
        "dtype": pipeline.provenance["dtype"],
        "weights": pipeline.provenance["weights"],
        "right": {kind: _right(benchmark, prompts) for kind, prompts in texts.items()},
    }


def _right(benchmark: Benchmark, prompts: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    read = benchmark.classifier.classify(benchmark.each(lambda i: {"prompt": prompts[i]}))
    right = torch.stack([read[name] == benchmark.truth[name] for name in FIGURES], dim=1).float()
    kinds = len(SHAPES)
    shares = right.unflatten(0, (kinds, kinds, -1)).mean(dim=2)
    return {
        first: {
            second: [round(share, 3) for share in shares[i, j].tolist()]
            for j, second in enumerate(SHAPES)
        }
        for i, first in enumerate(SHAPES)
    }


def table(right: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """In Markdown: first solids down, second ones across."""
    lines = [f"| First, then | {' | '.join(SHAPES)} |", "|" + "---|" * (len(SHAPES) + 1)]
    for first, row in right.items():
        cells = ("/".join(f"{100 * share:.0f}" for share in shares) for shares in row.values())
        lines.append(f"| {first} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the JSON to write")
    parser.add_argument("--each", type=int, default=50, metavar="N", help="more are surer [50]")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="[float32]")
    return parser.parse_args(argv)


def main() -> None:
    arguments = parsed(None)
    warnings.filterwarnings("ignore")
    report = measured(ip.load("tabletop", dtype=arguments.dtype), arguments.each)
    arguments.out.write_text(json.dumps(report) + "\n")
    for kind, right in report["right"].items():
        print(f"{kind}\n\n{table(right)}\n")


if __name__ == "__main__":
    main()
