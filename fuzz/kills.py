"""kill -9 in the middle of what must not be lost."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.ports import free_port
from fuzz.crowd import drawn, png
from fuzz.server import ROOT, start, until_ready
from fuzz.wire import QUICK, Client

# The comparison and the training are killed by tests that compare what comes of them to the byte.
TESTS = {
    "comparison": "test_compare.py::test_killed_and_begun_again_it_ends_as_if_it_had_not_been",
    "training": "test_trainer.py::test_killed_at_any_moment_it_goes_on_with_the_same_losses",
    "picture file": "test_files.py::test_a_kill_in_the_middle_leaves_no_half_picture",
}


def server_killed(times: int = 3) -> dict[str, Any]:
    """A server killed during a run, and started again on the same port at once."""
    folder, port = Path(tempfile.mkdtemp()), free_port()
    seconds, answers, left = [], [], 0
    for which in range(times + 1):
        with start(folder, port) as server:
            seconds.append(round(until_ready(server), 1))
            client = Client(server.url)
            answers.append(drawn(client).partition(":")[0])
            if which < times:
                long = QUICK | {"steps": 200, "reference": client.upload(png(), "a.png")}
                asked = threading.Thread(target=_ignored, args=(client, long))
                asked.start()
                time.sleep(0.5 + 0.3 * which)
                server.kill()
                asked.join()
            tracebacks = server.tracebacks
        left = len(list((folder / "files").iterdir()))
    return {
        "kills": times, "ready_again_seconds": seconds[1:], "drew_again": answers[1:],
        "folders_left_for_an_hour": left - 1, "tracebacks": tracebacks,
    }  # fmt: skip


def _ignored(client: Client, values: dict[str, Any]) -> None:
    try:
        client.call("variation", **values)
    except Exception:  # the connection breaks, however that shows
        return


def tests_of_kills() -> dict[str, str]:
    found = {}
    for name, test in TESTS.items():
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{test}"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        found[name] = "whole" if ended.returncode == 0 else ended.stdout[-300:]
    return found
