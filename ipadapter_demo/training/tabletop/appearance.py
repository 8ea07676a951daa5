"""The appearance that the image encoder must read: the truth for its two training heads.

A linear head reads the whole picture's appearance from the embedding. Positions are left out, so
that an image prompt says what things are and not where. A second head reads every patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ipadapter_demo.tabletop.render import FIRST_SOLID, FLOOR, trace
from ipadapter_demo.tabletop.scene import (
    COLOURS,
    HUES,
    MAX_SOLIDS,
    SHAPES,
    TEXTURES,
    Scenes,
    sample_scenes,
)

PATCHES = 8  # a side
# wall, floor or which solid; shape; texture; hue
PATCH_LOGITS = (FIRST_SOLID + MAX_SOLIDS, len(SHAPES), len(TEXTURES), 2)


def appearance(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Targets (B, K) about unit scale, and where they exist (B, K) bool."""
    parts = [(values, where) for _, values, where in _parts(scenes)]
    return (
        torch.cat([values for values, _ in parts], dim=1),
        torch.cat([where[:, None].expand_as(values) for values, where in parts], dim=1),
    )


@cache
def columns() -> dict[str, slice]:
    """The columns of each part among the K targets."""
    found, end = {}, 0
    for name, values, _ in _parts(sample_scenes(1, 0)):
        found[name] = slice(end, end + values.shape[1])
        end += values.shape[1]
    return found


def width() -> int:
    return max(part.stop for part in columns().values())


def _parts(scenes: Scenes) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, values (B, k), where they exist (B,))."""
    everywhere = torch.ones(len(scenes), dtype=torch.bool)

    def part(name: str, values: Tensor, where: Tensor = everywhere) -> tuple[str, Tensor, Tensor]:
        return name, values.float().reshape(len(scenes), -1), where

    for slot in range(MAX_SOLIDS):
        here = scenes.present[:, slot]
        patterned = here & (scenes.texture[:, slot] > 0)
        yield part(f"hue{slot}", circle(scenes.hue[:, slot]), here)
        yield part(f"shape{slot}", _one_hot(scenes.shape[:, slot], SHAPES), here)
        yield part(f"texture{slot}", _one_hot(scenes.texture[:, slot], TEXTURES), here)
        yield part(f"second{slot}", scenes.second[:, slot], patterned)
        yield part(f"period{slot}", (scenes.period[:, slot] - 0.45) / 0.1, patterned)
        yield part(f"radius{slot}", (scenes.radius[:, slot] - 0.58) / 0.1, here)
        yield part(f"present{slot}", scenes.present[:, slot])
    patterned = scenes.floor_texture > 0
    yield part("floor_hue", circle(scenes.floor_hue))
    yield part("floor_texture", _one_hot(scenes.floor_texture, TEXTURES))
    yield part("floor_period", (scenes.floor_period - 0.9) / 0.1, patterned)
    yield part("floor_angle", scenes.floor_angle / 0.35, patterned)
    yield part("wall_hue", circle(scenes.wall_hue))
    yield part("light_x", scenes.light_x / 0.75)
    yield part("light_z", (scenes.light_z - 0.55) / 0.15)
    yield part("camera_y", (scenes.camera_y - 1.8) / 0.3)


def _one_hot(index: Tensor, names: tuple[str, ...]) -> Tensor:
    return 2.5 * F.one_hot(index, len(names))  # shape and texture are the hardest to learn


def circle(degrees: Tensor) -> Tensor:
    """(..., 2): a hue as a point, since 359 degrees lie beside 1."""
    angle = torch.deg2rad(degrees)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def nearest_colour(points: Tensor) -> Tensor:
    """(B,) indices into COLOURS of hues given as points (B, 2)."""
    return (points @ circle(torch.tensor([HUES[c] for c in COLOURS])).T).argmax(1)


def patch_loss(logits: Tensor, scenes: Scenes) -> Tensor:
    """Wall, floor or which solid, and its shape, texture and hue, at the middle of every patch.

    logits (B, patches, K); the truth comes from casting one ray a patch. A patch that knows whether
    it belongs to the left or the right solid is what keeps two solids apart in the embedding.
    """
    _, _, ids, _ = trace(scenes, PATCHES)
    ids = ids.flatten(1)  # (B, patches)
    slot = (ids - FIRST_SOLID).clamp(min=0)
    shape = scenes.shape.gather(1, slot)
    is_solid, is_floor = ids >= FIRST_SOLID, ids == FLOOR
    texture = torch.where(is_solid, scenes.texture.gather(1, slot), scenes.floor_texture[:, None])
    hue = torch.where(is_floor, scenes.floor_hue[:, None], scenes.wall_hue[:, None])
    hue = torch.where(is_solid, scenes.hue.gather(1, slot), hue)
    where, what, how, point = logits.split(PATCH_LOGITS, dim=-1)
    patterned = is_solid | is_floor
    return (
        F.cross_entropy(where.flatten(0, 1), ids.flatten().long())
        + F.cross_entropy(what[is_solid], shape[is_solid])
        + F.cross_entropy(how[patterned], texture[patterned])
        + F.smooth_l1_loss(point, circle(hue), beta=0.3)
    )
