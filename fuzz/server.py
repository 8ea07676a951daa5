"""A server in a process of its own, as an operator starts it, watched from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.ports import free_port
from fuzz.inputs import Opened

ROOT = Path(__file__).parent.parent
STARTED = 180  # seconds at most
MODULES = ("-m", "fuzz.server")


@dataclass
class Server:
    """`log` is all that it says."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    folder: Path

    def held(self) -> dict[str, int]:
        """Memory in megabytes, open files and connections, threads."""
        process = psutil.Process(self.process.pid)
        with process.oneshot():
            return {
                "megabytes": round(process.memory_info().rss / 2**20),
                "files": process.num_fds(),
                "threads": process.num_threads(),
            }

    @property
    def tracebacks(self) -> int:
        return self.log.read_text(errors="replace").count("Traceback (most recent call last)")

    @property
    def read_outside(self) -> int:
        found = re.findall(r"^canary opened: (\d+)$", self.log.read_text(errors="replace"), re.M)
        return int(found[-1]) if found else 0

    def kill(self) -> None:
        """As if the power went."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


@contextmanager
def served(folder: Path, port: int | None = None, *flags: str) -> Iterator[Server]:
    """With the built-in model on one thread; its files in `folder`."""
    with start(folder, port, *flags) as server:
        until_ready(server)
        yield server
        if server.alive:
            server.process.send_signal(signal.SIGINT)
            try:
                server.process.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


@contextmanager
def start(folder: Path, port: int | None = None, *flags: str) -> Iterator[Server]:
    """Not ready yet."""
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    log = folder / "server.log"
    environment = os.environ | {
        "GRADIO_TEMP_DIR": str(folder / "files"),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *MODULES, "--device", "cpu", "--port", str(port), *flags],
            cwd=ROOT, env=environment, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield Server(process, f"http://127.0.0.1:{port}/", log, folder)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def until_ready(server: Server) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    while time.monotonic() - began < STARTED:
        if not server.alive:
            raise RuntimeError(f"the server ended: {server.log.read_text()[-1000:]}")
        try:
            if httpx.get(f"{server.url}config", timeout=5).status_code == 200:
                return time.monotonic() - began
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RuntimeError("the server did not start")


def main(argv: list[str]) -> int:
    """The command `serve`, with a count of the canary's openings in the log."""
    from ipadapter_demo import cli

    Opened.watched()

    def told() -> None:
        said = -1
        while True:
            if Opened.count != said:
                said = Opened.count
                print(f"canary opened: {said}", flush=True)
            time.sleep(1)

    threading.Thread(target=told, daemon=True).start()
    return cli.main(["serve", *argv])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
