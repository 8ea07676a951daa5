"""The files of a comparison to take home: all in one zip, and each by itself."""

from __future__ import annotations

import html
from pathlib import Path

from ipadapter_demo.compare import Job
from ipadapter_demo.compare.names import BUNDLE
from ipadapter_demo.ui.run.addresses import file_url
from ipadapter_demo.ui.tabs.compare.view import cell_label


def files_of(job: Job) -> list[Path]:
    """What can be taken home: bundle, figures and scores."""
    return [
        path
        for path in sorted(job.folder.glob("*.*"))
        if path.name == BUNDLE or path.stem.startswith(("figure", "scores"))
    ]


def downloads_html(job: Job) -> str:
    """Links to what is there."""
    bundle = "".join(
        _link(path, f"Download all: {path.name}") for path in files_of(job) if path.name == BUNDLE
    )
    single = "".join(
        f"<li>{_link(path, path.name)}</li>" for path in files_of(job) if path.name != BUNDLE
    )
    cells = "".join(
        f"<li>{_link(job.path(cell), cell_label(job, cell))}</li>" for cell in job.finished()
    )
    return (
        f"{bundle}<ul>{single}</ul>"
        f"<details><summary>Single pictures</summary><ul>{cells}</ul></details>"
    )


def _link(path: Path, text: str) -> str:
    return (
        f'<a href="{file_url(path)}" download="{html.escape(path.name)}">'
        f"{html.escape(text)}</a> <span>{_size(path.stat().st_size)}</span>"
    )


def _size(count: int) -> str:
    """In units of 1,000, as browsers say it."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.0f} KB" if count < 1e6 else f"{count / 1e6:.1f} MB"
