"""Pictures in a second with one replica on Ray Serve and with several, each with one thread.

    python -m benchmarks.replicas [--replicas 1 2] [--pictures 8] [--steps 20]

As many requests as there are replicas are with Serve at once, as from the page. Beside the seconds
on the wall stand those that a replica's process had of a processor: on a machine that others use
too they say what the wall would say without them, since the replica that worked longest decides.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.engine import requests_of
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving.ray import Scale, remote_pipeline, started
from ipadapter_demo.serving.remote import RemotePipeline
from ipadapter_demo.settings import Settings


def main() -> None:
    from ray import serve

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2], help="[1 2]")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    started(Settings(replicas=str(max(arguments.replicas))))
    requests = requests_of(arguments.pictures, arguments.steps)
    loads = []
    for count in arguments.replicas:
        scale = Scale(count, count, threads=1)
        remote = remote_pipeline("tabletop", LoadOptions(device="cpu"), scale)
        loads.append({"replicas": count, **measured(remote, requests, count)})
        serve.delete("tabletop")
    print(table(loads))
    print(json.dumps({**vars(arguments), "load_average": os.getloadavg(), "loads": loads}))


def measured(
    remote: RemotePipeline, requests: list[GenerateRequest], count: int
) -> dict[str, float]:
    with ThreadPoolExecutor(count) as visitors:
        list(visitors.map(remote.generate, requests[: 2 * count]))  # warm up
        before, began = processor_seconds(remote, count), time.perf_counter()
        list(visitors.map(remote.generate, requests))
    wall = time.perf_counter() - began
    after = processor_seconds(remote, count)
    longest = max(after[process] - before[process] for process in after)
    return {
        "wall": round(wall, 2),
        "pictures_per_second": round(len(requests) / wall, 3),
        "processor": round(longest, 2),
        "pictures_per_processor_second": round(len(requests) / longest, 3),
    }


def processor_seconds(remote: RemotePipeline, count: int) -> dict[int, float]:
    """Of each replica, by its process."""

    def spent(_: ImagePromptPipeline) -> tuple[int, float]:
        return os.getpid(), time.process_time()

    found: dict[int, float] = {}
    while len(found) < count:
        found |= dict([remote._ask(spent)])
    return found


def table(loads: list[dict[str, Any]]) -> str:
    lines = [
        "| Replicas | Wall s | Pictures/s | | Processor s of the busiest | Pictures/s by it | |",
        "|---|---|---|---|---|---|---|",
    ]
    first = loads[0]
    for load in loads:
        cells = [str(load["replicas"])]
        for seconds, pace in (
            ("wall", "pictures_per_second"),
            ("processor", "pictures_per_processor_second"),
        ):
            cells += [
                f"{load[seconds]:.1f}",
                f"{load[pace]:.3f}",
                f"{load[pace] / first[pace]:.2f} x",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
