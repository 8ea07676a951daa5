"""How fast it is: this pipeline against diffusers' own, in one run.

    python -m benchmarks [--rounds 9] [--out docs/speed.json] [--page docs/speed.md]
    python -m benchmarks --quick

All take turns, picture by picture, so that a busy moment meets all of them, each in a process of
its own. `--quick` is a miniature without compilers and without a browser. Prints tables in
Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, closing
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import seconds as seconds_of
from benchmarks.contestants import KINDS, Diffusers
from benchmarks.engine import LOADS
from benchmarks.live import live
from benchmarks.sides import SIDES, Side, Timed
from benchmarks.speed_page import markdown, written_into
from benchmarks.start import page_start
from ipadapter_demo.models.catalog import TABLETOP

FEW = 4


def command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="one round of two steps, no compiler")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, help="the figures as JSON")
    parser.add_argument("--page", type=Path, help="a page to write the table into, at its markers")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    arguments = command_parser().parse_args()
    warnings.filterwarnings("ignore")
    if arguments.side:
        print(json.dumps(_alone(arguments.side, arguments.steps)))
        return
    quick = arguments.quick
    if quick:
        arguments.rounds, arguments.steps, arguments.no_compile = 1, 2, True
    with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stdout(sys.stderr):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # of what is compiled: empty at first
        figures = measured(arguments.rounds, arguments.steps, compile=not arguments.no_compile)
        if not quick:
            figures["live"] = live(moves=24, gap=500)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.page:
        arguments.page.write_text(written_into(arguments.page, figures), encoding="utf-8")
    print(markdown(figures))


def measured(rounds: int, steps: int, compile: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {"machine": machine(), "rounds": rounds, "steps": steps}
    if compile:
        figures["compiling"] = _compiling(steps)
    figures["memory"] = {s: _elsewhere(s, steps)["peak_gib"] for s in ("ours", "diffusers")}
    figures["start"] = page_start()
    with ExitStack() as running:
        names = [name for name in SIDES if compile or not name.endswith("compiled")]
        sides = {name: running.enter_context(closing(Side(name))) for name in names}
        drawn = {name: side.drawing("unet") for name, side in sides.items()}
        figures["rows"] = {"a call of the UNet, 2 rows": _row(drawn, rounds)}
        for kind, name in KINDS.items():
            own_steps = {"lora": FEW, "window": TABLETOP.recommended.steps}.get(kind, steps)
            drawn = {n: side.drawing("picture", kind, own_steps) for n, side in sides.items()}
            figures["rows"][f"{name}, {own_steps} steps"] = _row(drawn, rounds)
        ours = sides["ours"]
        figures["visitors"] = ours.call("visitors", LOADS, steps)
        figures["skipped"] = _skipped(ours, rounds, steps)
        figures["bare_ratio"] = _bare_ratio(ours, rounds, steps)
        figures["limit"] = _limit(ours)
    return figures


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": version("torch"),
        "diffusers": version("diffusers"),
        "date": date.today().isoformat(),
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
    return platform.processor() or platform.machine()


def _times(draws: Mapping[str, Timed], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, in turn, after one that is not counted."""
    for draw in draws.values():
        draw()
    found: dict[str, list[float]] = {name: [] for name in draws}
    for _ in range(rounds):
        for name, draw in draws.items():
            found[name].append(draw())
    return found


def _row(draws: Mapping[str, Timed], rounds: int) -> dict[str, Any]:
    times = _times(draws, rounds)
    row: dict[str, Any] = {
        name: {"median": statistics.median(each), "spread": _half_quartiles(each)}
        for name, each in times.items()
    }
    row["ratios"] = {
        ours: statistics.median(a / b for a, b in zip(times[ours], times[theirs], strict=True))
        for ours, theirs in (("ours", "diffusers"), ("ours_compiled", "diffusers_compiled"))
        if ours in times
    }
    return row


def _half_quartiles(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2


def _skipped(ours: Side, rounds: int, steps: int) -> dict[str, float]:
    """Work that a request switches off, as a share of the time of one that does it."""
    never = (0.0, 0.01)  # no step lies inside

    def image(**changes: Any) -> Timed:
        return ours.drawing("picture", "image", steps, **changes)

    def control(**changes: Any) -> Timed:
        return ours.drawing("edges", steps, **changes)

    pairs = {
        "λ = 0": (image(image_scale=0.0), image()),
        "guidance 1": (image(guidance=1.0), image()),
        "guidance outside the first half of the steps": (
            image(guidance_window=(0.0, 0.5)),
            image(),
        ),
        "an image prompt outside its window": (image(image_window=never), image()),
        "a ControlNet of weight 0": (control(weight=0.0), control()),
        "a ControlNet outside its window": (control(window=never), control()),
    }
    return {name: _ratio(*pair, rounds) for name, pair in pairs.items()}


def _bare_ratio(ours: Side, rounds: int, steps: int) -> float:
    """A picture's time over that of its calls of the image encoder, UNet and decoder alone."""
    whole, bare = ours.drawing("picture", "image", steps), ours.drawing("bare", steps)
    return _ratio(whole, bare, rounds)


def _ratio(one: Timed, other: Timed, rounds: int) -> float:
    times = _times({"one": one, "other": other}, rounds)
    return statistics.median(a / b for a, b in zip(times["one"], times["other"], strict=True))


def _limit(ours: Side) -> dict[str, float]:
    matrix = torch.ones(1024, 1024)
    seconds = min(seconds_of(lambda: matrix @ matrix) for _ in range(10))
    gflop, rate = ours.call("unet_flop") / 1e9, 2 * 1024**3 / seconds / 1e9
    return {"gflop": gflop, "gflop_per_second": rate, "milliseconds": 1e3 * gflop / rate}


def _compiling(steps: int) -> dict[str, float]:
    """Seconds of loading and of the first picture, with an empty cache and with a full one."""
    return {name: _elsewhere("ours_compiled", steps)["seconds"] for name in ("cold", "warm")}


def _elsewhere(side: str, steps: int) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks", "--side", side, "--steps", str(steps)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _alone(side: str, steps: int) -> dict[str, float]:
    """In a process of its own: load, and draw one picture of an image prompt. diffusers loads what
    this picture needs, and none of the pipelines of other rows."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        loaded = Diffusers.of_image_prompts if side == "diffusers" else SIDES[side]
        loaded().picture("image", steps)()
    return {
        "seconds": time.perf_counter() - began,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


if __name__ == "__main__":
    main()
