"""Visitors who come at once: one after the other, against calls of the model that they share.

    python -m benchmarks.engine [--visitors 1 2 4 8 16] [--steps 20] [--share-steps 2] [--rounds 2]

Every visitor wants one picture, with a reference, λ, prompt and seed of his own; half of them write
no prompt, and guidance differs. Latency is from the click, which is the same moment for all, to the
picture. Each load is drawn in both ways in turn, `rounds` times, and the quicker round of each
counts. Prints a table in Markdown and, as its last line, JSON. On a machine that others use too,
`--clock cpu` counts the seconds of this process instead; give it one thread, OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import ipadapter_demo as ip
from ipadapter_demo.imaging import read_image
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.request import GenerateRequest, Reference

EXAMPLES = Path(__file__).parents[1] / "assets" / "examples"
LOADS = [1, 2, 4, 8, 16]  # visitors at once
SHARED = 2  # with more, two cores draw a few more pictures, but four visitors wait longer
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--visitors", type=int, nargs="+", default=LOADS, help=f"loads {LOADS}")
    add("--steps", type=int, default=20)
    add("--share-steps", type=int, default=SHARED)
    add("--rounds", type=int, default=2)
    add("--clock", choices=CLOCKS, default="wall")
    add("--model", default="tabletop")
    add("--models-dir", type=Path, help="where its files are")
    add("--device", default="cpu")
    add("--dtype", default="auto")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    pipeline = ip.load(
        arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        models_dir=arguments.models_dir,
    )
    loads = visitors(
        pipeline,
        arguments.visitors,
        arguments.steps,
        share_steps=arguments.share_steps,
        rounds=arguments.rounds,
        clock=CLOCKS[arguments.clock],
    )
    print("\n".join(table(loads)))
    print(
        json.dumps(
            {
                **vars(arguments),
                "models_dir": None,
                "threads": torch.get_num_threads(),
                "loads": loads,
            }
        )
    )


def visitors(
    pipeline: ImagePromptPipeline,
    counts: Sequence[int],
    steps: int,
    *,
    share_steps: int = SHARED,
    rounds: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """Figures of each load, one after the other (`alone`) and in calls that are shared."""
    kinds = {"alone": 1, "shared": share_steps}
    requests = requests_of(max(counts), steps)
    for share in kinds.values():  # warm up: encoders, and rows of every number
        list(pipeline.generate_all([short(r) for r in requests], share))
    loads, own = [], pipeline.share_steps
    for count in counts:
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, share in kinds.items():
                pipeline.share_steps = share
                found[kind].append(measured(pipeline, requests[:count], clock))
        best = {kind: min(each, key=lambda one: one["seconds"]) for kind, each in found.items()}
        loads.append({"visitors": count, **best})
    pipeline.share_steps = own
    return loads


def requests_of(count: int, steps: int) -> list[GenerateRequest]:
    pictures = [read_image(path) for path in sorted(EXAMPLES.glob("*-*.png"))][:4]
    return [
        GenerateRequest(
            references=(Reference(image=pictures[i % len(pictures)].convert("RGB")),),
            prompt=("", "a red cube")[i % 2],
            guidance=(4.0, 6.0)[i % 2],
            image_scale=0.4 + 0.1 * (i % 6),
            steps=steps,
            seed=i,
        )
        for i in range(count)
    ]


def short(request: GenerateRequest) -> GenerateRequest:
    return ip.GenerateRequest(
        references=request.references, prompt=request.prompt, guidance=request.guidance, steps=2
    )


def measured(
    pipeline: ImagePromptPipeline, requests: list[GenerateRequest], clock: Callable[[], float]
) -> dict[str, float]:
    """Seconds until the last picture, pictures in a second, mean and worst latency."""
    began = clock()

    def visitor(request: GenerateRequest) -> float:
        pipeline.generate(request)
        return clock() - began

    with ThreadPoolExecutor(len(requests)) as visitors:
        latencies = list(visitors.map(visitor, requests))
    seconds = max(latencies)
    figures = {
        "seconds": seconds,
        "pictures_per_second": len(requests) / seconds,
        "mean_latency": mean(latencies),
        "worst_latency": seconds,
    }
    return {name: round(value, 4) for name, value in figures.items()}


def table(loads: Sequence[dict[str, Any]]) -> list[str]:
    """Lines in Markdown."""
    lines = [
        "| Visitors | Alone: pictures/s | mean s | worst s | Shared: pictures/s | mean s | worst s "
        "| Throughput | Mean latency |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for load in loads:
        cells = [str(load["visitors"])]
        for kind in ("alone", "shared"):
            own = load[kind]
            cells += [f"{own['pictures_per_second']:.3f}"]
            cells += [f"{own[name]:.2f}" for name in ("mean_latency", "worst_latency")]
        alone, shared = load["alone"], load["shared"]
        cells += [f"{shared['pictures_per_second'] / alone['pictures_per_second']:.2f} x"]
        cells += [f"{shared['mean_latency'] / alone['mean_latency']:.2f} x"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
