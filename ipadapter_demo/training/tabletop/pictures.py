"""Rendered pictures kept on disk: each is drawn once and every recipe reads the same ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ipadapter_demo.tabletop import render as renderer
from ipadapter_demo.tabletop.scene import Scenes, sample_scenes, with_finishes

log = logging.getLogger(__name__)

SIZE = 128
TRAIN_SEED = 1
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Pictures:
    """Scenes and their pictures, uint8 (N, 3, S, S), the latter memory-mapped."""

    scenes: Scenes
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> Pictures:
        return Pictures(self.scenes[rows], self.images[rows])

    def pixels(self, indices: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1]."""
        return torch.from_numpy(self.images[indices.numpy()]).float().div_(127.5).sub_(1.0)


def rendered_pictures(
    folder: Path, count: int, seed: int = TRAIN_SEED, finishes: bool = False
) -> Pictures:
    """`count` pictures of a seed, drawn into `folder` unless they are there already; all solids
    matte, or of every finish."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"pictures-{seed}-{count}{'-finishes' if finishes else ''}.npy"
    scenes = sample_scenes(count, seed)
    if finishes:
        scenes = with_finishes(scenes, seed)
    if not path.exists():
        _draw(scenes, path)
    return Pictures(scenes, np.load(path, mmap_mode="r+"))


def _draw(scenes: Scenes, path: Path) -> None:
    temporary = path.with_suffix(".tmp.npy")
    images = np.lib.format.open_memmap(
        temporary, mode="w+", dtype=np.uint8, shape=(len(scenes), 3, SIZE, SIZE)
    )
    renderer.compile_for(len(scenes))
    for start in range(0, len(scenes), _CHUNK):
        pixels = renderer.render(scenes[start : start + _CHUNK], SIZE).pixels
        images[start : start + _CHUNK] = (pixels * 255).round().byte().numpy()
        if start % 4096 == 0:
            log.info("rendered %d of %d", start, len(scenes))
    images.flush()
    temporary.rename(path)
