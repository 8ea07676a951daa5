"""A server that cannot start, or whose disk is full, says so in one line."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ports import free_port
from ipadapter_demo.cli.serve import SPINS, check_address, share_cores
from ipadapter_demo.errors import ServerError
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch

ROOT = Path(__file__).parent.parent
STARTS = {"app.py": ["app.py"], "serve": ["-m", "ipadapter_demo", "serve"]}


def started(start: str, *flags: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *STARTS[start], *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another server listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def the_line(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode not in (0, -11)
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    return line


@pytest.mark.parametrize("start", STARTS)
def test_a_port_in_use(start: str, taken: int) -> None:
    """Before the model is loaded: this took half a minute and ended in a traceback."""
    said = the_line(started(start, "--port", str(taken)))
    assert said.endswith(
        f"{'app.py' if start == 'app.py' else 'serve'}: 127.0.0.1:{taken} cannot be listened on: "
        "address already in use: choose another --port"
    )


@pytest.mark.parametrize("start", STARTS)
def test_an_unwritable_temporary_folder(start: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "folder"
    environment = os.environ | {"GRADIO_TEMP_DIR": str(place)}
    said = the_line(started(start, "--port", str(free_port()), env=environment))
    assert re.search(r"GRADIO_TEMP_DIR=.*/file/folder cannot be written: Not a directory$", said)


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    """The page's examples find no room on it. A limit on the size of files stands for that."""
    ended = started(
        "app.py",
        "--port",
        str(free_port()),
        env=os.environ | {"GRADIO_TEMP_DIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "app.py: [Errno 27] File too large" in ended.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", ["999.1.1.1", "no-such-host.invalid", "203.0.113.7"])
def test_an_address_that_is_not_this_machines(host: str) -> None:
    with pytest.raises(ServerError, match=rf"{re.escape(host)}:7999 cannot be listened on: \w"):
        check_address(host, 7999)


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_what_can_be_no_name_of_a_host(host: str) -> None:
    with pytest.raises(ServerError, match=rf"^{re.escape(host)}:7999 cannot be listened on: \w"):
        check_address(host, 7999)


def test_an_address_of_this_machine() -> None:
    port = free_port()
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        check_address(host, port)


@pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")
def test_a_busy_machine(model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is slow to answer starts: gradio's own check would call it out of reach."""
    monkeypatch.setattr("gradio.networking.url_ok", lambda _: False)
    settings = Settings(port=free_port())
    page = build_ui(ImagePromptPipeline(model), settings)
    launch(page, settings)
    page.close()


def test_threads_that_wait_give_up_their_cores_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chosen(**variables: str) -> str | None:
        with monkeypatch.context() as patched:
            for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
                patched.setenv(name, "")
                patched.delenv(name)
            for name, value in variables.items():
                patched.setenv(name, value)
            share_cores()
            return os.environ.get("GOMP_SPINCOUNT")

    assert chosen() == SPINS
    assert chosen(GOMP_SPINCOUNT="7") == "7"
    assert chosen(OMP_WAIT_POLICY="active") is None


def run_alone(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_torch_is_imported_after_the_page_has_set_its_variables() -> None:
    program = "import sys, app, ipadapter_demo.cli.serve; print('torch' in sys.modules)"
    assert run_alone(program) == "False"


def test_gradio_is_imported_without_its_files_of_types() -> None:
    """It reads each of them, and the source beside it, and would write it where it is missing."""
    program = """
import inspect, sys
from ipadapter_demo.cli.serve import without_stub_files

opened = []
sys.addaudithook(lambda event, given: event == "open" and opened.append(str(given[0])))
usual = inspect.getfile
with without_stub_files():
    import gradio
assert inspect.getfile is usual
assert usual(gradio.Textbox).endswith("textbox.py")
print(len(opened) > 100, any(path.endswith(".pyi") for path in opened))
"""
    assert run_alone(program) == "True False"
