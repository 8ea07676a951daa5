"""The shipped model, for recipes to go on from."""

from __future__ import annotations

import shutil
from pathlib import Path

from ipadapter_demo.models.catalog import TABLETOP


def shipped_but(part: str, folder: Path) -> Path:
    """`folder/out`: links to all files and folders of the model but `part`, which a recipe may
    write without changing the shipped one."""
    out = folder / "out"
    out.mkdir(parents=True)
    for each in TABLETOP.folder.iterdir():
        if each.name != part:
            (out / each.name).symlink_to(each)
    return out


def shipped_with_own(part: str, folder: Path) -> Path:
    """The same with a copy of the folder `part`, for a recipe that goes on from it."""
    out = shipped_but(part, folder)
    shutil.copytree(TABLETOP.folder / part, out / part)
    return out
