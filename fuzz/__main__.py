"""python -m fuzz [PART ...]: the parts named, or all; `--share 0.1` for a tenth of each."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio
import PIL
import torch

from fuzz import crowd, inputs, kills, wire
from fuzz.page import FIGURES, PAGE, written_into
from fuzz.server import served

COUNTS = dict.fromkeys(inputs.KINDS, 10_000)


def files_in_process(share: float) -> dict[str, Any]:
    import ipadapter_demo as ip
    from ipadapter_demo.serving import ModelManager

    inputs.Opened.watched()
    warnings.simplefilter("ignore")  # of Pillow, about damaged files
    manager = ModelManager(ip.load("tabletop"))
    return inputs.fuzz_all(manager, {k: max(1, int(n * share)) for k, n in COUNTS.items()})


def files_over_http(share: float) -> dict[str, Any]:
    def run(server: Any) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            checks = inputs.Checks(None, Path(folder))  # it reads nothing
            return wire.files_over_http(wire.Client(server.url), checks, int(1000 * share))

    return _watched(run)


def wrong_types(share: float) -> dict[str, Any]:
    return _watched(lambda s: wire.wrong_types(wire.Client(s.url), every=round(1 / share)))


def clients(share: float) -> dict[str, Any]:
    return _watched(lambda server: crowd.at_once(server, clients=max(2, int(64 * share))))


def soak(share: float) -> dict[str, Any]:
    return _watched(lambda server: crowd.soak(server, count=int(1000 * share)))


def storms(share: float) -> dict[str, Any]:
    return _watched(lambda server: crowd.storm(server, count=max(2, int(50 * share))))


def ends(share: float) -> dict[str, Any]:
    return kills.server_killed(max(1, round(3 * share))) | {"tests": kills.tests_of_kills()}


PARTS: dict[str, Callable[[float], dict[str, Any]]] = {
    "files": files_in_process, "http": files_over_http, "types": wrong_types, "clients": clients,
    "soak": soak, "storms": storms, "kills": ends,
}  # fmt: skip


def _watched(run: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """With what its server held before and after, and what it said."""
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as server:
        before = server.held()
        found = run(server)
        return {"before": before, "after": server.held()} | found | {
            "tracebacks": server.tracebacks,
            "crashed": not server.alive,
            "read_outside": server.read_outside,
        }  # fmt: skip


def command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help=", ".join(PARTS))
    parser.add_argument("--share", type=float, default=1.0, help="of each part's requests [1]")
    parser.add_argument("--out", type=Path, default=FIGURES)
    return parser


def main() -> int:
    arguments = command_parser().parse_args()
    logging.disable(logging.WARNING)
    figures: dict[str, Any] = (
        json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    )
    for name in arguments.parts or PARTS:
        began = time.monotonic()
        found = PARTS[name](arguments.share)
        figures[name] = found | {
            "minutes": round((time.monotonic() - began) / 60, 1), "share": arguments.share,
        }  # fmt: skip
        figures["versions"] = {
            "python": platform.python_version(), "gradio": gradio.__version__,
            "pillow": PIL.__version__, "torch": torch.__version__,
        }  # fmt: skip
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")
        print(name, json.dumps(figures[name], indent=1), flush=True)
    if arguments.out == FIGURES and set(PARTS) <= set(figures):
        PAGE.write_text(written_into(PAGE, figures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
