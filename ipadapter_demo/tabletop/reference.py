"""The image prompt of a scene in training: the same things, but seen otherwise, and other
things where the caption speaks.

So an adapter learns to leave the layout to chance and to maps, and to words what they name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ipadapter_demo.tabletop.scene import (
    COLOURS,
    MAX_SOLIDS,
    SHAPES,
    TEXTURES,
    Scenes,
    sample_scenes,
    seen_otherwise,
)

# seeds of training and of evaluation are apart by more
SEED_OFFSET = 500_000
_PARTS = re.compile(r"(.*?) ?(?:on (.*? floor))? ?(?:with (.*? wall))?")


def reference_scenes(scenes: Scenes, captions: Sequence[str], seed: int) -> Scenes:
    """One for each scene and its caption, as `caption()` words it; equal seeds give equal scenes.

    Number, hues, textures and light stay where nothing is said of them.
    """
    others = sample_scenes(len(scenes), SEED_OFFSET + seed)
    parts = [_parts(text) for text in captions]

    def chosen(name: str, said: Tensor) -> Tensor:
        return torch.where(said, getattr(others, name), getattr(scenes, name))

    def says(words: Sequence[str], *places: int) -> Tensor:
        said = [[not parts_[place].isdisjoint(words) for place in places] for parts_ in parts]
        return torch.tensor(said).view(len(scenes), len(places))

    solids = range(MAX_SOLIDS)
    colour, floor, wall = says(COLOURS, *solids), says(COLOURS, -2)[:, 0], says(COLOURS, -1)[:, 0]
    return replace(
        seen_otherwise(scenes, SEED_OFFSET + seed),
        shape=chosen("shape", says(SHAPES, *solids)),
        texture=chosen("texture", says(TEXTURES, *solids)),
        colour=chosen("colour", colour),
        hue=chosen("hue", colour),
        floor_texture=chosen("floor_texture", says(TEXTURES, -2)[:, 0]),
        floor_colour=chosen("floor_colour", floor),
        floor_hue=chosen("floor_hue", floor),
        wall_colour=chosen("wall_colour", wall),
        wall_hue=chosen("wall_hue", wall),
    )


def _parts(text: str) -> list[set[str]]:
    """The words about each solid, about the floor and about the wall."""
    match = _PARTS.fullmatch(text)
    assert match is not None  # every part may be missing
    solids, floor, wall = match.groups("")
    each = [set(solid.split()) for solid in solids.split(" and ")]
    each += [set()] * (MAX_SOLIDS - len(each))
    return [*each, set(floor.split()), set(wall.split())]
