"""Visitors' files: a folder of this server alone, in which nothing stays for longer than an hour.

gradio deletes only files that it knows of: not those of an upload that broke off, nor folders.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ipadapter_demo.errors import ServerError

VARIABLE = "GRADIO_TEMP_DIR"  # where gradio keeps uploads and results; read when a page is built
PREFIX, MARKER = "ipadapter-demo-", ".visitors-files"
_OURS = PREFIX + "[a-z0-9_]" * 8  # the names that tempfile.mkdtemp makes
AGE, EVERY = 3300, 60  # seconds; together less than an hour


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """The folder, as GRADIO_TEMP_DIR, deleted at the end. Raises ServerError where there is none.

    It is made in GRADIO_TEMP_DIR if that is set, else where temporary files belong. What another
    server of ours that was killed has left there goes too.
    """
    before = os.environ.get(VARIABLE)
    try:
        if before:
            Path(before).mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=before)).resolve()
        (folder / MARKER).touch()
    except OSError as error:
        place = f"{VARIABLE}={before}" if before else "the folder for temporary files"
        raise ServerError(f"{place} cannot be written: {error.strerror or error}") from error
    os.environ[VARIABLE] = str(folder)
    try:
        yield folder
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def swept(folder: Path) -> Iterator[None]:
    """Old files go as long as this lasts, but for those that are there now: the page's examples."""
    kept, ended = frozenset(files_in(folder)), threading.Event()

    def sweeping() -> None:
        while not ended.wait(EVERY):
            sweep(folder, kept, time.time())

    thread = threading.Thread(target=sweeping, name="sweeper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def sweep(folder: Path, kept: frozenset[Path], now: float) -> None:
    """Delete what is older than AGE seconds. A folder in it is as old as its newest file, so that a
    comparison at work stays whole; beside a file that is kept each is as old as itself."""
    with suppress(OSError):
        os.utime(folder)  # so that others see that its server is alive
        alone = {path.relative_to(folder).parts[0] for path in kept}
        for path in folder.iterdir():
            parts = [p for p in files_in(path) if p not in kept] if path.name in alone else [path]
            for part in parts:
                if now - newest(part) > AGE:
                    _delete(part)
        for other in folder.parent.glob(_OURS):
            is_ours = other != folder and os.path.isfile(other / MARKER)  # False where unreadable
            if is_ours and now - other.lstat().st_mtime > AGE:
                _delete(other)


def files_in(path: Path) -> Iterator[Path]:
    """All files, at any depth."""
    for place, _, names in os.walk(path):
        yield from (Path(place, name) for name in names)


def newest(path: Path) -> float:
    """When the youngest file in a folder, or the file, was written; seconds."""
    times = [path.lstat().st_ctime]
    for file in files_in(path):
        with suppress(OSError):  # gone in the meantime
            times.append(file.lstat().st_ctime)
    return max(times)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
