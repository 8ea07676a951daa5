"""The shipped model, for recipes to go on from."""

from __future__ import annotations

import shutil
from pathlib import Path

from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.training.run import Run


def shipped_but(part: str, folder: Path) -> Path:
    """`folder/out`: links to all files and folders of the model but `part`, which a recipe may
    write without changing the shipped one."""
    out = folder / "out"
    out.mkdir(parents=True)
    for each in TABLETOP.folder.iterdir():
        if each.name != part:
            (out / each.name).symlink_to(each)
    return out


def shipped_with_own(part: str, folder: Path, *others: str) -> Path:
    """The same with a copy of the folder `part`, and of others, for a recipe that goes on from
    it."""
    out = shipped_but(part, folder)
    for name in (part, *others):
        (out / name).unlink(missing_ok=True)
        shutil.copytree(TABLETOP.folder / name, out / name)
    return out


def few_steps(folder: Path, steps: int, batch: int, lr: float, preview_every: int = 0) -> Run:
    """A run whose every step counts as it is."""
    return Run(
        folder=folder,
        steps=steps,
        batch=batch,
        lr=lr,
        warmup=0,
        ema=0.0,
        precision="no",
        preview_every=preview_every,
    )
