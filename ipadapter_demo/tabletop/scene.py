"""Scenes of the tabletop world: one or two solids on a floor before a wall, as batched tensors.

World units: y is up, the floor is y = 0, the wall z = WALL_Z, the camera looks along -z.
Solid slots run from left to right; slot 0 is always filled. Everything drawn is a parameter here,
so every attribute of a picture is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

SHAPES = ("sphere", "cube", "cylinder", "cone")
TEXTURES = ("plain", "striped", "checkered", "dotted")
FINISHES = ("matte", "glossy", "metal")
SECOND_COLOURS = ("white", "black")
LIGHT_SIDES = ("left", "right")
HUES = {
    "red": 0.0,
    "orange": 28.0,
    "yellow": 54.0,
    "green": 115.0,
    "teal": 172.0,
    "blue": 220.0,
    "purple": 272.0,
    "pink": 320.0,
}
COLOURS = tuple(HUES)
HUE_JITTER = 8.0  # degrees either way; the closest two named hues are 26 degrees apart
MAX_SOLIDS = 2
HELD_OUT_SEED = 900_001  # evaluation draws its scenes from here on; no recipe learns from them
WALL_Z = -1.7


@dataclass(frozen=True, slots=True)
class Scenes:
    """B scenes. Integer fields index the tuples above, float fields are world units or degrees."""

    present: Tensor  # (B, 2) bool
    shape: Tensor  # (B, 2)
    colour: Tensor  # (B, 2)
    hue: Tensor  # (B, 2) degrees
    texture: Tensor  # (B, 2)
    second: Tensor  # (B, 2)
    finish: Tensor  # (B, 2)
    period: Tensor  # (B, 2) texture period
    angle: Tensor  # (B, 2) texture orientation, radians
    radius: Tensor  # (B, 2)
    x: Tensor  # (B, 2)
    z: Tensor  # (B, 2)
    yaw: Tensor  # (B, 2) radians
    floor_colour: Tensor  # (B,)
    floor_hue: Tensor  # (B,)
    floor_texture: Tensor  # (B,)
    floor_period: Tensor  # (B,)
    floor_angle: Tensor  # (B,)
    wall_colour: Tensor  # (B,)
    wall_hue: Tensor  # (B,)
    light_side: Tensor  # (B,)
    light_x: Tensor  # (B,) signed: negative from the left
    light_z: Tensor  # (B,)
    camera_y: Tensor  # (B,)
    # (B, 3): the middle and half the side of the part that is seen of a picture from -1 to 1
    view: Tensor

    def __len__(self) -> int:
        return self.present.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Scenes:
        return Scenes(*(getattr(self, f.name)[index] for f in fields(self)))

    def chunks(self) -> Iterator[Scenes]:
        """Some at a time: drawing them takes a few hundred megabytes at the usual size."""
        for start in range(0, len(self), 32):
            yield self[start : start + 32]

    def to(self, device: torch.device | str) -> Scenes:
        return Scenes(*(getattr(self, f.name).to(device) for f in fields(self)))

    def truth(self, index: int) -> dict:
        """The parameters of one scene as plain values, names instead of numbers."""
        solids = [self._solid(index, slot) for slot in range(int(self.present[index].sum()))]
        return {
            "solids": solids,
            "floor": {
                "colour": COLOURS[self.floor_colour[index]],
                "hue": self.floor_hue[index].item(),
                "texture": TEXTURES[self.floor_texture[index]],
                "period": self.floor_period[index].item(),
                "angle": self.floor_angle[index].item(),
            },
            "wall": {
                "colour": COLOURS[self.wall_colour[index]],
                "hue": self.wall_hue[index].item(),
            },
            "light": {
                "side": LIGHT_SIDES[self.light_side[index]],
                "x": self.light_x[index].item(),
                "z": self.light_z[index].item(),
            },
            "camera_y": self.camera_y[index].item(),
        }

    def _solid(self, index: int, slot: int) -> dict:
        numbers = ("hue", "period", "angle", "radius", "x", "z", "yaw")
        return {
            "shape": SHAPES[self.shape[index, slot]],
            "colour": COLOURS[self.colour[index, slot]],
            "texture": TEXTURES[self.texture[index, slot]],
            "second": SECOND_COLOURS[self.second[index, slot]],
            "finish": FINISHES[self.finish[index, slot]],
        } | {name: getattr(self, name)[index, slot].item() for name in numbers}


def sample_scenes(count: int, seed: int) -> Scenes:
    """`count` scenes drawn from the world's distribution, all solids matte; equal seeds give equal
    scenes."""
    g = torch.Generator().manual_seed(seed)
    uniform = partial(_uniform, g)

    def pick(choices: tuple[str, ...], *shape: int) -> Tensor:
        return torch.randint(len(choices), shape, generator=g)

    pair = (count, MAX_SOLIDS)
    two = torch.rand(count, generator=g) < 0.4
    # two stay smaller
    radius = torch.where(two[:, None], uniform(0.42, 0.58, *pair), uniform(0.5, 0.8, *pair))
    x = _places(two, g)
    colour = pick(COLOURS, *pair)
    floor_colour, wall_colour = pick(COLOURS, count), pick(COLOURS, count)
    light_side = pick(LIGHT_SIDES, count)
    return Scenes(
        present=torch.stack([torch.ones(count, dtype=torch.bool), two], dim=1),
        shape=pick(SHAPES, *pair),
        colour=colour,
        hue=_jittered_hue(colour, g),
        texture=pick(TEXTURES, *pair),
        second=pick(SECOND_COLOURS, *pair),
        finish=torch.zeros(pair, dtype=torch.long),
        period=uniform(0.36, 0.56, *pair) * (radius / 0.6),
        angle=uniform(-math.pi / 2, math.pi / 2, *pair),
        radius=radius,
        x=x,
        z=uniform(-0.45, 0.45, *pair),
        yaw=uniform(0.15, math.pi / 2 - 0.15, *pair),
        floor_colour=floor_colour,
        floor_hue=_jittered_hue(floor_colour, g),
        floor_texture=pick(TEXTURES, count),
        floor_period=uniform(0.7, 1.1, count),
        floor_angle=uniform(-0.6, 0.6, count),
        wall_colour=wall_colour,
        wall_hue=_jittered_hue(wall_colour, g),
        light_side=light_side,
        light_x=(2.0 * light_side - 1.0) * uniform(0.5, 1.0, count),
        light_z=uniform(0.3, 0.8, count),
        camera_y=uniform(1.3, 2.3, count),
        view=torch.tensor([0.0, 0.0, 1.0]).repeat(count, 1),
    )


def with_finishes(scenes: Scenes, seed: int) -> Scenes:
    """The same scenes, every solid of a finish by chance, each as likely."""
    g = torch.Generator().manual_seed(seed)
    return replace(scenes, finish=torch.randint(len(FINISHES), scenes.finish.shape, generator=g))


def seen_otherwise(scenes: Scenes, seed: int) -> Scenes:
    """The same things in the same light, standing elsewhere and seen from another height."""
    g = torch.Generator().manual_seed(seed)
    others = sample_scenes(len(scenes), seed)
    return replace(
        scenes,
        x=_places(scenes.present[:, 1], g),
        z=others.z,
        yaw=others.yaw,
        camera_y=others.camera_y,
    )


def partners_with_one_solid(scenes: Scenes) -> Tensor:
    """(B,) for every scene the next one, going round, that has a single solid; where none has, the
    next one."""
    singles = torch.nonzero(~scenes.present[:, 1])[:, 0]
    if not len(singles):
        return (torch.arange(len(scenes)) + 1) % len(scenes)
    after = torch.searchsorted(singles, torch.arange(len(scenes)), right=True)
    return singles[after % len(singles)]


def with_first_solid_of(scenes: Scenes, others: Tensor) -> Scenes:
    """The scenes with the first solid of the scene others[i] (B,) in place of their own, as large
    as that was, its texture in proportion."""
    changed = {}
    for name in ("shape", "colour", "hue", "texture", "second", "finish", "period", "angle", "yaw"):
        values = getattr(scenes, name).clone()
        values[:, 0] = values[others, 0]
        changed[name] = values
    changed["period"][:, 0] *= scenes.radius[:, 0] / scenes.radius[others, 0]
    return replace(scenes, **changed)


def _places(two: Tensor, g: torch.Generator) -> Tensor:
    """x (B, 2): a lone solid may stand anywhere near the middle, two keep to their own half."""
    pair = (len(two), MAX_SOLIDS)
    side = torch.tensor([-1.0, 1.0])
    apart, near = side * _uniform(g, 0.62, 0.95, *pair), _uniform(g, -0.6, 0.6, *pair)
    return torch.where(two[:, None], apart, near)


def _uniform(g: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=g)


def _jittered_hue(colour: Tensor, g: torch.Generator) -> Tensor:
    jitter = HUE_JITTER * (2.0 * torch.rand(colour.shape, generator=g) - 1.0)
    return (torch.tensor(tuple(HUES.values()))[colour] + jitter) % 360.0
