"""Analytic ray casting of tabletop scenes on batched tensors: one code for CPU and GPU.

Every solid is convex: the part of a ray inside it is one interval, the intersection of a quadric
(x² + z² + a·y² + b·y + c <= 0, in the solid's own frame) with slabs. A cube has slabs only.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ipadapter_demo.tabletop.finish import dot, finished, towards_light
from ipadapter_demo.tabletop.scene import MAX_SOLIDS, WALL_Z, Scenes

WALL, FLOOR, FIRST_SOLID = 0, 1, 2
_FAR = 1e4
_CAMERA_Z = 4.2
_TARGET_Y = 0.5
_FOV = math.radians(40.0)
_CONE_HEIGHT = 2.1  # in radii; also keeps every shadow ray shallower than the cone's flank
_AMBIENT, _DIFFUSE = 0.5, 0.6
_MANY = 2000


@dataclass(frozen=True, slots=True)
class Render:
    """The view of the camera, and the truth behind it. B pictures of `size` x `size`."""

    pixels: Tensor  # (B, 3, S, S) in [0, 1]
    depth: Tensor  # (B, S, S) distance from the camera, world units
    ids: Tensor  # (B, S, S) uint8: WALL, FLOOR, FIRST_SOLID + slot
    edges: Tensor  # (B, S, S) bool: outlines of solids, their creases, the floor's horizon


def render(scenes: Scenes, size: int = 128, supersample: int = 2) -> Render:
    """Draw the scenes on the device their tensors are on."""
    grid = size * supersample
    colour, depth, ids, normal = trace(scenes, grid)
    pixels = F.avg_pool2d(colour, supersample)
    middle = supersample // 2
    one = slice(middle, None, supersample)
    depth, ids, normal = (t[..., one, one] for t in (depth, ids, normal))
    return Render(pixels, depth, ids.to(torch.uint8), _edges(ids, normal))


def trace(scenes: Scenes, grid: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cast grid² rays a scene: colour (B,3,G,G), depth (B,G,G), ids (B,G,G), normal (B,3,G,G)."""
    batch = len(scenes)
    origin = torch.stack(
        [
            torch.zeros_like(scenes.camera_y),
            scenes.camera_y,
            torch.full_like(scenes.camera_y, _CAMERA_Z),
        ]
    )  # (3, B)
    direction = _camera_rays(scenes, grid)  # 3 x (B, G²)
    start = tuple(origin[axis][:, None] for axis in range(3))

    t_floor = torch.where(direction[1] < 0, -start[1] / direction[1].clamp(max=-1e-6), _FAR)
    t_wall = (WALL_Z - start[2]) / direction[2].clamp(max=-1e-6)
    nearest = torch.minimum(t_floor, t_wall)
    ids = torch.where(t_floor < t_wall, FLOOR, WALL)
    ones, zeros = torch.ones_like(nearest), torch.zeros_like(nearest)
    up = torch.where(ids == FLOOR, ones, zeros)
    normal: tuple[Tensor, ...] = (zeros, up, ones - up)
    point = tuple(s + nearest * d for s, d in zip(start, direction, strict=True))
    base = torch.where((ids == FLOOR)[:, None], _floor_colour(scenes, point), _wall_colour(scenes))

    for slot in range(MAX_SOLIDS):
        t, hit_normal, local = _hit_solid(scenes, slot, start, direction)
        closer = t < nearest
        nearest = torch.where(closer, t, nearest)
        ids = torch.where(closer, FIRST_SOLID + slot, ids)
        normal = tuple(torch.where(closer, h, n) for h, n in zip(hit_normal, normal, strict=True))
        base = torch.where(closer[:, None], _solid_colour(scenes, slot, local, hit_normal), base)

    point = tuple(s + nearest * d for s, d in zip(start, direction, strict=True))
    shade = _shade(scenes, point, normal)
    solid = (ids - FIRST_SOLID).clamp(min=-1)
    colour = finished(scenes, solid, (point, normal, direction), base, shade).clamp(0, 1)
    square = (batch, grid, grid)
    return (
        colour.view(batch, 3, grid, grid),
        nearest.view(square),
        ids.view(square),
        torch.stack(normal, dim=1).view(batch, 3, grid, grid),
    )


def compile_for(count: int) -> None:
    """Have rays cast by fused code from now on, if `count` scenes pay for its compilation."""
    global trace
    if count >= _MANY and shutil.which("g++"):
        trace = _fused()


@cache
def _fused() -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    return torch.compile(trace, dynamic=False)


def places_of_solids(scenes: Scenes) -> Tensor:
    """(B, 2, 2): x and y on the picture, from -1 (left, top) to 1, of the middle of every solid."""
    down, per_unit = _down_and_scale(scenes)
    places = torch.stack([scenes.x, down], dim=-1) * per_unit[..., None]
    return (places - scenes.view[:, None, :2]) / scenes.view[:, None, 2:]


def reach_of_solids(scenes: Scenes) -> Tensor:
    """(B, 2): a solid's radius on the picture, of which a side is 2."""
    return scenes.radius * _down_and_scale(scenes)[1] / scenes.view[:, 2:]


def _down_and_scale(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """(B, 2) of the middle of every solid: how far below the camera's axis it is, in world units,
    and what such a unit is on the picture there."""
    drop = scenes.camera_y - _TARGET_Y
    length = torch.sqrt(drop**2 + _CAMERA_Z**2)
    sin, cos = (drop / length)[:, None], (_CAMERA_Z / length)[:, None]
    y, z = scenes.radius - scenes.camera_y[:, None], scenes.z - _CAMERA_Z
    depth = -(y * sin) - z * cos
    return z * sin - y * cos, 1 / (depth * math.tan(_FOV / 2))


def _camera_rays(scenes: Scenes, grid: int) -> tuple[Tensor, ...]:
    """Unit ray directions 3 x (B, G²), through the part that is seen, of a camera pitched down to
    look at (0, _TARGET_Y, 0)."""
    steps = (torch.arange(grid, device=scenes.x.device) + 0.5) / grid * 2 - 1
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    half = math.tan(_FOV / 2)
    x, y, side = (part[:, None] for part in scenes.view.unbind(1))
    u, v = half * (x + side * u.flatten()), -half * (y + side * v.flatten())
    drop = (scenes.camera_y - _TARGET_Y)[:, None]
    length = torch.sqrt(drop**2 + _CAMERA_Z**2)
    sin, cos = drop / length, _CAMERA_Z / length
    x, y, z = u, v * cos - sin, -(v * sin) - cos
    norm = torch.rsqrt(x * x + y * y + z * z)
    return x * norm, y * norm, z * norm


def _hit_solid(
    scenes: Scenes, slot: int, start: tuple[Tensor, ...], direction: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Entry distance (B, R), world normal 3 x (B, R) and point in the solid's frame 3 x (B, R)."""
    radius = scenes.radius[:, slot, None]
    sphere, cube, cone = (scenes.shape[:, slot, None] == k for k in (0, 1, 3))
    sin, cos = torch.sin(scenes.yaw[:, slot, None]), torch.cos(scenes.yaw[:, slot, None])
    ox, oz = start[0] - scenes.x[:, slot, None], start[2] - scenes.z[:, slot, None]
    oy, dy = start[1], direction[1]
    ox, oz = cos * ox - sin * oz, sin * ox + cos * oz
    dx, dz = cos * direction[0] - sin * direction[2], sin * direction[0] + cos * direction[2]

    height = torch.where(cone, _CONE_HEIGHT, 2.0) * radius
    slope = radius / height
    a = torch.where(sphere, 1.0, torch.where(cone, -(slope**2), 0.0))
    b = torch.where(sphere, -2 * radius, torch.where(cone, 2 * radius * slope, 0.0))
    c = torch.where(sphere, 0.0, -(radius**2))

    # Quadric: q2·t² + 2·q1·t + q0 <= 0 between its roots (q2 > 0 for every ray that occurs).
    q2 = dx * dx + dz * dz + a * dy * dy
    q1 = ox * dx + oz * dz + a * oy * dy + 0.5 * b * dy
    q0 = ox * ox + oz * oz + a * oy * oy + b * oy + c
    disc = q1 * q1 - q2 * q0
    root = torch.sqrt(disc.clamp(min=0))
    missed = (disc < 0) & ~cube
    enter_q = torch.where(cube, -_FAR, (-q1 - root) / q2)
    exit_q = torch.where(cube, _FAR, (-q1 + root) / q2)

    half = torch.where(cube, 0.85 * radius, _FAR)  # slabs in x and z bind cubes only
    height = torch.where(cube, 1.7 * radius, height)
    enter_x, exit_x = _slab(ox, dx, -half, half)
    enter_z, exit_z = _slab(oz, dz, -half, half)
    enter_y, exit_y = _slab(oy, dy, torch.zeros_like(height), height)
    enter = torch.maximum(torch.maximum(enter_q, enter_y), torch.maximum(enter_x, enter_z))
    leave = torch.minimum(torch.minimum(exit_q, exit_y), torch.minimum(exit_x, exit_z))
    hit = (enter < leave) & (enter > 1e-3) & ~missed & scenes.present[:, slot, None]
    t = torch.where(hit, enter, 2 * _FAR)

    px, py, pz = ox + enter * dx, oy + enter * dy, oz + enter * dz
    by_x, by_y, by_z = enter == enter_x, enter == enter_y, enter == enter_z
    zero = torch.zeros_like(px)
    nx = torch.where(by_x, -torch.sign(dx), torch.where(by_y | by_z, zero, px))
    ny = torch.where(by_y, -torch.sign(dy), torch.where(by_x | by_z, zero, a * py + 0.5 * b))
    nz = torch.where(by_z, -torch.sign(dz), torch.where(by_x | by_y, zero, pz))
    norm = torch.rsqrt((nx * nx + ny * ny + nz * nz).clamp(min=1e-8))
    nx, ny, nz = nx * norm, ny * norm, nz * norm
    return t, (cos * nx + sin * nz, ny, -sin * nx + cos * nz), (px, py, pz)


def _slab(o: Tensor, d: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1.0 / torch.where(d.abs() < 1e-6, 1e-6, d)
    t0, t1 = (low - o) * inverse, (high - o) * inverse
    return torch.minimum(t0, t1), torch.maximum(t0, t1)


def _shade(scenes: Scenes, point: tuple[Tensor, ...], normal: tuple[Tensor, ...]) -> Tensor:
    """Ambient plus Lambert light, the latter only where no solid stands in the way: (B, R)."""
    light = towards_light(scenes)
    facing = dot(normal, light).clamp(min=0)
    lifted = tuple(p + 2e-3 * n for p, n in zip(point, normal, strict=True))
    lit = torch.ones_like(facing)
    for slot in range(MAX_SOLIDS):
        t, _, _ = _hit_solid(scenes, slot, lifted, light)
        lit = torch.where(t < _FAR, 0.0, lit)
    return _AMBIENT + _DIFFUSE * facing * lit


def _pattern(texture: Tensor, u: Tensor, v: Tensor, period: Tensor, angle: Tensor) -> Tensor:
    """True where the second colour shows. Arguments broadcast to (B, R)."""
    sin, cos = torch.sin(angle), torch.cos(angle)
    s, t = (cos * u + sin * v) / period, (cos * v - sin * u) / period
    stripe, cross = (s - s.floor()) < 0.5, (t - t.floor()) < 0.5
    ds, dt = s - s.floor() - 0.5, t - t.floor() - 0.5
    dot = ds * ds + dt * dt < 0.32**2
    return ((texture == 1) & stripe) | ((texture == 2) & (stripe ^ cross)) | ((texture == 3) & dot)


def _solid_colour(
    scenes: Scenes, slot: int, local: tuple[Tensor, ...], normal: tuple[Tensor, ...]
) -> Tensor:
    """(B, 3, R). The texture is wrapped round curved solids and lies flat on flat faces."""
    x, y, z = local
    radius = scenes.radius[:, slot, None]
    is_cube = scenes.shape[:, slot, None] == 1
    top = normal[1] > 0.999
    sin, cos = torch.sin(scenes.yaw[:, slot, None]), torch.cos(scenes.yaw[:, slot, None])
    faces_x = (cos * normal[0] - sin * normal[2]).abs() > 0.5  # the normal in the cube's frame
    around = radius * torch.atan2(x, z)
    u = torch.where(is_cube, torch.where(faces_x & ~top, z, x), torch.where(top, x, around))
    v = torch.where(top & (is_cube | (y > 1.9 * radius)), z, y)
    mark = _pattern(
        scenes.texture[:, slot, None],
        u,
        v,
        scenes.period[:, slot, None],
        scenes.angle[:, slot, None],
    )
    second = torch.where(scenes.second[:, slot, None] == 0, 0.97, 0.1)
    main = rgb_from_hue(scenes.hue[:, slot], 0.82, 0.92)
    return torch.where(mark[:, None], second[:, None], main[..., None])


def _floor_colour(scenes: Scenes, point: tuple[Tensor, ...]) -> Tensor:
    mark = _pattern(
        scenes.floor_texture[:, None],
        point[0],
        point[2],
        scenes.floor_period[:, None],
        scenes.floor_angle[:, None],
    )
    main = rgb_from_hue(scenes.floor_hue, 0.6, 0.85)
    second = 0.35 * main + 0.62
    return torch.where(mark[:, None], second[..., None], main[..., None])


def _wall_colour(scenes: Scenes) -> Tensor:
    return rgb_from_hue(scenes.wall_hue, 0.5, 0.9)[..., None]


def rgb_from_hue(hue: Tensor, saturation: float, value: float) -> Tensor:
    """HSV to RGB in [0, 1]: (B,) degrees to (B, 3)."""
    shift = torch.tensor([5.0, 3.0, 1.0], device=hue.device)
    k = (shift + hue[:, None] / 60.0) % 6.0
    return value - value * saturation * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0)


def _edges(ids: Tensor, normal: Tensor) -> Tensor:
    """(B, S, S): where the surface or its direction changes abruptly towards the right or below."""
    edges = torch.zeros_like(ids, dtype=torch.bool)
    for axis in (-1, -2):
        step = ids.diff(dim=axis) != 0
        n = ids.shape[axis]
        a, b = normal.narrow(axis, 0, n - 1), normal.narrow(axis, 1, n - 1)
        crease = (a * b).sum(dim=1) < 0.8
        edges.narrow(axis, 0, n - 1).logical_or_(step | crease)
    return edges
