"""`generate` with a folder of references."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ipadapter_demo.cli.command import print_line
from ipadapter_demo.errors import RequestError

if TYPE_CHECKING:
    from ipadapter_demo.pipeline import ImagePromptPipeline
    from ipadapter_demo.request import GenerateRequest


def draw(
    pipeline: ImagePromptPipeline, request: GenerateRequest, folder: Path, out: Path, at: int
) -> None:
    """A line for each result, and for each picture without one. Raises RequestError where there are
    any."""
    from ipadapter_demo.folders import draw_folder

    failed = 0
    for line in draw_folder(pipeline, request, folder, out, at):
        failed += "error" in line
        print_line(**line)
    if failed:
        raise RequestError(
            f"{failed} of the pictures in {folder} could not be drawn: see their lines"
        )
