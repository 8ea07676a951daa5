"""Addresses of files on the page."""

from __future__ import annotations

import html
from pathlib import Path


def file_url(path: Path | str) -> str:
    """Of a file in gradio's folder, for an attribute. One that is drawn again keeps its name: the
    time tells the browser."""
    path = Path(path)
    when = path.stat().st_mtime_ns if path.exists() else 0
    return html.escape(f"gradio_api/file={path.as_posix()}?{when}")
