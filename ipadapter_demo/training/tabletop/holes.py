"""Holes in tabletop pictures, most of them around a solid, and the conditions that describe what
was there: the training data of the network that reads around a hole."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ipadapter_demo.tabletop.caption import CaptionStyle, caption
from ipadapter_demo.tabletop.erase import painted_over, traces
from ipadapter_demo.tabletop.render import places_of_solids, reach_of_solids
from ipadapter_demo.tabletop.scene import COLOURS, SECOND_COLOURS, SHAPES, TEXTURES, Scenes
from ipadapter_demo.training.tabletop.pictures import SIZE

THE_SOLID = CaptionStyle(empty=0.0, attribute=0.15, surface=1.0, solids=0.0)
ANYWHERE = 0.2  # of the holes; the others are around a solid
PAINTED = 0.5  # of those: painted over its shadow too. The rest leave some of the shadow outside
BRUSH = 3, 14  # pixels by which such a stroke is larger than what it covers
PICTURE, WORDS = 0.65, 0.2  # of the holes around a solid: what says so. The rest: nothing
_CORNERS = torch.tensor([2.0, 4.0, 20.0])  # exponents of superellipses: from round to square


@dataclass(frozen=True, slots=True, eq=False)
class Masked:
    """Pictures with a hole, and the conditions that describe what was there."""

    indices: Tensor  # (B,) of the pictures
    hole: Tensor  # (B, 1, S, S), 1 inside
    others: Tensor  # (B,) pictures of the same solid
    by_picture: Tensor  # (B,) bool: whether the image adapter is given those
    texts: list[str]


def masked_pictures(scenes: Scenes, count: int, generator: torch.Generator) -> Masked:
    """`count` of them with a hole each, most of them around a solid."""
    indices = torch.randint(len(scenes), (count,), generator=generator)
    slot, others = same_solid(scenes, indices, generator)
    around = torch.rand(count, generator=generator) >= ANYWHERE
    hole = torch.where(
        around[:, None, None, None],
        holes(_boxes_of(scenes[indices], slot, generator), generator),
        holes(_boxes_anywhere(count, generator), generator),
    )
    painted = around & (torch.rand(count, generator=generator) < PAINTED)
    hole[painted] = _strokes(scenes[indices[painted]], slot[painted], generator)
    drawn = torch.rand(count, generator=generator)
    by_words = around & (drawn >= PICTURE) & (drawn < PICTURE + WORDS)
    rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    texts = [
        caption(scenes, int(other), THE_SOLID, rng) if worded else ""
        for other, worded in zip(others, by_words.tolist(), strict=True)
    ]
    return Masked(indices, hole, others, around & (drawn < PICTURE), texts)


def same_solid(
    scenes: Scenes, indices: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A slot (B,) with a solid in each scene, and a scene (B,) of a single solid that has its
    shape, texture and colours. Where there is no such scene, it is the scene itself."""
    count = len(indices)
    slot = (torch.rand(count, generator=generator) * scenes.present[indices].sum(1)).long()
    numbers = _appearance_numbers(scenes)
    single = torch.nonzero(~scenes.present[:, 1])[:, 0]
    order = single[numbers[single, 0].argsort(stable=True)]
    wanted = numbers[indices, slot]
    sorted_numbers = numbers[order, 0].contiguous()
    first = torch.searchsorted(sorted_numbers, wanted)
    after = torch.searchsorted(sorted_numbers, wanted, right=True)
    chosen = first + (torch.rand(count, generator=generator) * (after - first)).long()
    found = order[chosen.clamp(max=len(order) - 1)]
    return slot, torch.where(after > first, found, indices)


def _appearance_numbers(scenes: Scenes) -> Tensor:
    """(N, 2): one number for all that words say of a solid, and its second colour."""
    number = scenes.shape
    for part, kinds in (
        (scenes.colour, COLOURS),
        (scenes.texture, TEXTURES),
        (scenes.second, SECOND_COLOURS),
    ):
        number = number * len(kinds) + part
    return number


def holes(boxes: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, S, S), 1 in round, rounded and square holes. boxes (B, 4): the middle and half the
    size of each, where a picture goes from -1 to 1."""
    corners = _CORNERS[torch.randint(len(_CORNERS), (len(boxes),), generator=generator)]
    along = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    x, y, width, height = (part[:, None] for part in boxes.unbind(1))
    across = ((along - x).abs() / width) ** corners[:, None]
    down = ((along - y).abs() / height) ** corners[:, None]
    return (across[:, None, :] + down[:, :, None] <= 1).float()[:, None]


def _strokes(scenes: Scenes, slot: Tensor, generator: torch.Generator) -> Tensor:
    """Over a solid and its shadow, and over those of some shape in its place: what is to stand in a
    hole must not be recognisable by its outline."""
    shape = scenes.shape.clone()
    shape[torch.arange(len(slot)), slot] = torch.randint(
        len(SHAPES), slot.shape, generator=generator
    )
    half = SIZE // 2  # finer than a stroke needs
    covered = traces(slot, half, scenes, replace(scenes, shape=shape))
    brush = torch.randint(BRUSH[0], BRUSH[1] + 1, slot.shape, generator=generator)
    covered = covered.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    return torch.from_numpy(painted_over(covered, brush.tolist())).float()[:, None]


def _boxes_of(scenes: Scenes, slot: Tensor, generator: torch.Generator) -> Tensor:
    """Around the solid in one slot of each scene, by as much more on every side as it happens."""
    place = places_of_solids(scenes)[torch.arange(len(slot)), slot]
    reach = reach_of_solids(scenes)[torch.arange(len(slot)), slot]
    low, high = (
        reach[:, None] * (1.2 + 0.6 * torch.rand(len(slot), 2, generator=generator))
        for _ in range(2)
    )
    return torch.cat([place + (high - low) / 2, (high + low) / 2], dim=1)


def _boxes_anywhere(count: int, generator: torch.Generator) -> Tensor:
    middle = 2 * torch.rand(count, 2, generator=generator) - 1
    return torch.cat([middle, 0.15 + 0.45 * torch.rand(count, 2, generator=generator)], dim=1)
