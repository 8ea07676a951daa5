"""Whole files or none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipadapter_demo.files import whole_file, write_file
from ipadapter_demo.record import record_from_png, save_png
from ipadapter_demo.request import GenerateRequest
from tests.tiny import picture

ROOT = Path(__file__).parent.parent


def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_file(path, b"old")

    def half() -> None:
        with whole_file(path) as temporary:
            temporary.write_bytes(b"ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_content_is_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append("fsync") or sync(file))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("replace") or replace(*names))
    write_file(tmp_path / "folder" / "a.txt", b"new")
    assert done == ["fsync", "replace"]
    assert (tmp_path / "folder" / "a.txt").read_bytes() == b"new"


def test_a_kill_in_the_middle_leaves_no_half_picture(tmp_path: Path) -> None:
    """A process that dies as the last byte but one is written."""
    path = tmp_path / "1.png"
    save_png(path, picture(1), GenerateRequest(seed=1), 1, 0, {})
    script = (
        "import os, pathlib, sys\n"
        "from ipadapter_demo.record import save_png\n"
        "from ipadapter_demo.request import GenerateRequest\n"
        "from tests.tiny import picture\n"
        "whole = pathlib.Path.write_bytes\n"
        "def cut(self, content):\n"
        "    whole(self, content[:-1])\n"
        "    os._exit(9)\n"
        "pathlib.Path.write_bytes = cut\n"
        "save_png(sys.argv[1], picture(2), GenerateRequest(seed=2), 2, 0, {})\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=False)
    assert ended.returncode == 9
    assert record_from_png(path).seed == 1
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["1.png"]
