"""What a solid's finish makes of its colour: matte, glossy or metal."""

from __future__ import annotations

import torch
from torch import Tensor

from ipadapter_demo.tabletop.scene import FINISHES, Scenes

Vectors = tuple[Tensor, ...]  # 3 x (B, R)

_ROUND = 3.0  # of faces and edges, to what they mirror: those of real things are a little round
_LAMP = 12  # exponent: how small the mirrored lamp is


def finished(
    scenes: Scenes,
    slot: Tensor,
    ray: tuple[Vectors, Vectors, Vectors],
    base: Tensor,
    shade: Tensor,
) -> Tensor:
    """(B, 3, R) colours of R rays a scene, of what they hit: the solid in `slot` (B, R), or none
    where that is -1; `ray` is the point, the normal there and the ray's direction; `base`
    (B, 3, R) the colour there, `shade` (B, R) its light.

    A glossy solid mirrors the lamp, and at its rim the room, in white; a metal one mirrors the
    lamp, a bright ceiling and a dark floor in its own colour. All else is matte."""
    point, normal, direction = ray
    solid = slot.clamp(min=0)
    x, z, radius = (values.gather(1, solid) for values in (scenes.x, scenes.z, scenes.radius))
    outwards = ((point[0] - x) / radius, point[1] / radius - 1, (point[2] - z) / radius)
    normal = tuple(n + _ROUND * out for n, out in zip(normal, outwards, strict=True))
    norm = torch.rsqrt(dot(normal, normal).clamp(min=1e-8))
    facing = -dot(direction, normal) * norm
    mirrored = tuple(d + 2 * facing * n * norm for d, n in zip(direction, normal, strict=True))
    lamp = (dot(mirrored, towards_light(scenes)).clamp(min=0) ** _LAMP)[:, None]
    rim = ((1 - facing.clamp(0, 1)) ** 3)[:, None]
    up = (0.5 + 0.9 * mirrored[1]).clamp(0, 1)
    ceiling = up * up * (3 - 2 * up)

    matte = base * shade[:, None]
    window = 0.45 * (6 * mirrored[1] - 2.4).clamp(0, 1)[:, None]
    glossy = matte + (1 - matte) * (0.9 * lamp + 0.3 * rim + window).clamp(max=1)
    metal = base * (0.25 + 0.3 * shade + 0.7 * ceiling)[:, None] + 0.45 * lamp
    finish = torch.where(slot < 0, 0, scenes.finish.gather(1, solid))[:, None]
    is_glossy, is_metal = (finish == FINISHES.index(name) for name in ("glossy", "metal"))
    return torch.where(is_metal, metal, torch.where(is_glossy, glossy, matte))


def towards_light(scenes: Scenes) -> Vectors:
    """Unit vectors 3 x (B, 1)."""
    ly = torch.ones_like(scenes.light_x)
    norm = torch.rsqrt(scenes.light_x**2 + ly**2 + scenes.light_z**2)
    return tuple((part * norm)[:, None] for part in (scenes.light_x, ly, scenes.light_z))


def dot(a: Vectors, b: Vectors) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
