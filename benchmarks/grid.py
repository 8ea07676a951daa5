"""The cost of a comparison beside its cells: the whole job against each cell alone, in one run.

    python -m benchmarks.grid [--cells 100] [--steps 20] [--share-steps 4]

The job draws, saves, scores, and writes figures and bundle; cells alone are only drawn. λ from 0.01
to 1, one reference, guidance 4, float32. Both take turns in rows of ten; the ratio of the sums is
printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import torch

import ipadapter_demo as ip
from benchmarks.clock import seconds as seconds_of
from ipadapter_demo.compare import Job, Plan, spec_from_document, write_bundle
from ipadapter_demo.serving import ModelManager

EXAMPLE = Path(__file__).parents[1] / "assets" / "examples" / "red-sphere.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--share-steps", type=int, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    pipeline = ip.load("tabletop", device="cpu", dtype="float32", share_steps=arguments.share_steps)
    document = {
        "request": {"steps": arguments.steps, "guidance": 4.0},
        "rows": {"reference": ["red-sphere.png"]},
        "columns": {"image_scale": [(i + 1) / arguments.cells for i in range(arguments.cells)]},
    }
    spec = spec_from_document(document, lambda _: EXAMPLE.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Plan(spec, ModelManager(pipeline)), Path(folder))
        cells = job.plan.grid.cells
        pipeline.generate(cells[0].request)  # warm up
        drawn, alone = 0.0, 0.0
        events, waiting = job.run(), list(cells)
        while waiting:
            now, waiting = waiting[:10], waiting[10:]
            began = time.perf_counter()
            for _ in now:
                next(events)
            drawn += time.perf_counter() - began
            alone += seconds_of(lambda: [pipeline.generate(c.request) for c in now])  # noqa: B023
        finished = seconds_of(lambda: (list(events), write_bundle(job)))
    print(
        json.dumps(
            {
                "cells": len(cells),
                "steps": arguments.steps,
                "share_steps": arguments.share_steps,
                "threads": torch.get_num_threads(),
                "seconds": round(drawn + finished, 1),
                "of_which_figures_and_bundle": round(finished, 1),
                "cells_alone_seconds": round(alone, 1),
                "ratio": round((drawn + finished) / alone, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
