"""Live: from a change of λ on the page to the picture that follows it, in a browser.

    python -m benchmarks.live [--moves 30] [--gap 400] [--out live.json]

Starts the page on the built-in model and Chromium (`CHROMIUM`, or the one on the path), drags λ,
and takes from the page's own clock when each value came and when a picture that was drawn after it
was there to see. Prints the median and the spread as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Page

from benchmarks.browser import chromium
from benchmarks.ports import free_port

MOVES = 29  # values of λ, each once: the page keeps a picture's address, and it is not seen again
# When λ changed, and when each new picture was loaded.
WATCH = """() => {
    const panel = [...document.querySelectorAll("[role=tabpanel]")].find((p) => p.offsetParent);
    const seen = new Set([...panel.querySelectorAll(".results img")].map((one) => one.src));
    window.moves = [];
    window.shown = [];
    panel.querySelector("input[type=range]").addEventListener("input",
        () => window.moves.push(performance.now()));
    new MutationObserver(() => {
        const picture = panel.querySelector(".results img");
        if (!picture || seen.has(picture.src)) return;
        seen.add(picture.src);
        picture.decode().then(() => window.shown.push(performance.now()), () => {});
    }).observe(panel, { subtree: true, childList: true, attributes: true,
                        attributeFilter: ["src"] });
}"""


@contextmanager
def served() -> Iterator[str]:
    """The page on the built-in model, in a process of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    server = subprocess.Popen(
        [sys.executable, "-m", "ipadapter_demo", "serve", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            raise SystemExit("the page did not come within two minutes")
        yield url
    finally:
        server.terminate()
        server.wait()


def dragged(page: Page, url: str, moves: int, gap: int) -> dict[str, list[float]]:
    """Milliseconds from each change of λ to the first picture after it that shows it."""
    page.goto(url)
    panel = page.locator("[role=tabpanel]:visible")
    panel.locator(".gallery-item").first.click()
    panel.locator(".filled img").first.wait_for()
    panel.get_by_label("Live").check()
    slider = panel.get_by_label("range slider for Image strength λ")
    slider.fill("1.5")  # the first frame merges the LoRA
    panel.locator(".results img").first.wait_for()
    page.wait_for_timeout(500)
    page.evaluate(WATCH)
    for number in range(moves):
        slider.fill(f"{0.05 + (number * 7 % MOVES) * 0.05:.2f}")
        page.wait_for_timeout(gap)
    page.wait_for_timeout(gap)
    return {name: page.evaluate(f"window.{name}") for name in ("moves", "shown")}


def live(moves: int, gap: int) -> dict[str, Any]:
    """Milliseconds from a change to its picture: median, and tenths at either end."""
    with chromium() as browser, served() as url:
        noted = dragged(browser.new_page(), url, moves, gap)
    waits = [
        min(later) - moved
        for moved in noted["moves"]
        if (later := [shown for shown in noted["shown"] if shown > moved])
    ]
    quantiles = statistics.quantiles(waits, n=10)
    return {
        "moves": len(noted["moves"]),
        "pictures": len(noted["shown"]),
        "median_ms": round(statistics.median(waits)),
        "p10_ms": round(quantiles[0]),
        "p90_ms": round(quantiles[-1]),
        "cores": os.cpu_count(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--moves", type=int, default=MOVES, choices=range(1, MOVES + 1), metavar="N"
    )
    parser.add_argument("--gap", type=int, default=400, metavar="MS", help="between two moves")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    text = json.dumps(live(arguments.moves, arguments.gap), indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
