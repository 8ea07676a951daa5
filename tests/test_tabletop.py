"""The world: what is drawn is what the truth says."""

from __future__ import annotations

import math
import random
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.tabletop.caption import (
    FULL,
    POOR,
    RICH,
    caption,
    floor_caption,
    vocabulary,
    with_one_word_wrong,
)
from ipadapter_demo.tabletop.erase import (
    ROOM,
    masks_over_first,
    painted_over,
    without,
)
from ipadapter_demo.tabletop.files import pictures_of
from ipadapter_demo.tabletop.reference import reference_scenes
from ipadapter_demo.tabletop.render import (
    FIRST_SOLID,
    FLOOR,
    WALL,
    Render,
    places_of_solids,
    reach_of_solids,
    render,
    rgb_from_hue,
)
from ipadapter_demo.tabletop.scene import (
    COLOURS,
    HUE_JITTER,
    HUES,
    SHAPES,
    TEXTURES,
    Scenes,
    sample_scenes,
)

SCENES = sample_scenes(64, seed=5)


@pytest.fixture(scope="module")
def drawn() -> Render:
    return render(SCENES, size=64)


def test_equal_seeds_give_equal_pictures_and_others_do_not() -> None:
    first, again, other = (render(sample_scenes(2, seed), size=32).pixels for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_picture_does_not_depend_on_those_drawn_with_it(drawn: Render) -> None:
    alone = render(SCENES[3:4], size=64)
    assert torch.equal(alone.pixels[0], drawn.pixels[3])


def test_a_solid_is_seen_exactly_where_it_is_present(drawn: Render) -> None:
    for slot in range(2):
        seen = (drawn.ids == FIRST_SOLID + slot).flatten(1).any(dim=1)
        assert torch.equal(seen, SCENES.present[:, slot])


def test_a_part_that_is_seen_is_cut_from_the_whole_picture() -> None:
    part = replace(SCENES[:4], view=torch.tensor([[0.25, -0.25, 0.5]]).repeat(4, 1))
    seen, whole = render(part, size=64), render(SCENES[:4], size=128)
    torch.testing.assert_close(seen.pixels, whole.pixels[..., 16:80, 48:112], atol=1e-3, rtol=0)
    torch.testing.assert_close(
        places_of_solids(part), (places_of_solids(SCENES[:4]) - torch.tensor([0.25, -0.25])) * 2
    )
    torch.testing.assert_close(reach_of_solids(part), reach_of_solids(SCENES[:4]) * 2)


def test_the_first_of_two_solids_is_left_of_the_second(drawn: Render) -> None:
    columns = torch.arange(64.0)
    for ids in drawn.ids[SCENES.present[:, 1]]:
        left, right = (
            (columns * (ids == FIRST_SOLID + slot)).sum() / (ids == FIRST_SOLID + slot).sum()
            for slot in range(2)
        )
        assert left < right


def test_depth_grows_from_the_solid_to_the_wall(drawn: Render) -> None:
    for ids, depth in zip(drawn.ids, drawn.depth, strict=True):
        assert depth[ids == FIRST_SOLID].mean() < depth[ids == WALL].mean()
        assert depth[ids == FLOOR].min() > 0


def test_edges_run_round_the_solids(drawn: Render) -> None:
    """Every step of the ids to the right or below is an edge."""
    step = drawn.ids[:, :, 1:] != drawn.ids[:, :, :-1]
    assert drawn.edges[:, :, :-1][step].all()
    assert 0.01 < drawn.edges.float().mean() < 0.2


def test_a_plain_lit_wall_has_the_hue_of_its_truth(drawn: Render) -> None:
    for index in range(len(SCENES)):
        assert drawn.ids[index, 0, 0] == WALL
        expected = rgb_from_hue(SCENES.wall_hue[index : index + 1], 0.5, 0.9)[0]
        ratio = drawn.pixels[index, :, 0, 0] / expected
        assert ratio.max() - ratio.min() < 0.02  # one shade of the same colour


def test_the_shadow_falls_away_from_the_light() -> None:
    """The floor is darker on the side of the solid that the light does not come from."""
    scenes = sample_scenes(64, seed=9)
    plain = (scenes.floor_texture == 0) & ~scenes.present[:, 1]
    drawn = render(scenes[plain], size=64)
    middle = torch.stack(
        [
            (torch.arange(64.0) * (ids == FIRST_SOLID)).sum() / (ids == FIRST_SOLID).sum()
            for ids in drawn.ids
        ]
    )
    right = 0
    for index, from_right in enumerate(scenes.light_side[plain].tolist()):
        luma = drawn.pixels[index].mean(dim=0)
        floor = drawn.ids[index] == FLOOR
        shadow = floor & (luma < 0.65 * luma[floor].median())
        if shadow.sum() < 30:
            continue
        column = (torch.arange(64.0) * shadow).sum() / shadow.sum()
        right += 1
        assert (column < middle[index]) == bool(from_right)
    assert right > 5


def test_a_mask_covers_a_solid_and_its_shadow_and_little_else() -> None:
    """Outside it the picture is that of the scene without the solid; an antialiased tip of a shadow
    may take a part of its room."""
    scenes, room = SCENES[:32], round(ROOM * 128)
    bare = pictures_of(without(scenes, 0), 128)
    areas = []
    for given, other, mask in zip(
        pictures_of(scenes, 128), bare, masks_over_first(scenes, 128), strict=True
    ):
        change = np.abs(np.asarray(given, dtype=int) - np.asarray(other, dtype=int)).max(axis=2) > 1
        painted = np.asarray(mask) > 0
        assert change.any()
        assert distance_transform_edt(painted)[change].min() >= room - 2
        areas.append(painted.mean() - change.mean())
    assert np.mean(areas) < 0.2


def test_a_stroke_is_round_and_without_dents() -> None:
    seen = torch.zeros(2, 64, 64, dtype=torch.bool)
    seen[0, 20, 20:45] = seen[0, 20:45, 20] = True  # an L, and a dot
    seen[1, 30, 30] = True
    strokes = painted_over(seen, [4, 9])
    assert strokes[1].sum() == pytest.approx(math.pi * 9**2, rel=0.1)
    assert strokes[0, 32, 30]  # inside the hull, not on the L
    assert strokes[0, 20, 15:17].tolist() == [0, 1]
    assert not strokes[0, 16, 16]  # round at its corners


def test_hues_stay_within_their_names() -> None:
    named = torch.tensor(tuple(HUES.values()))
    off = (SCENES.hue - named[SCENES.colour] + 180) % 360 - 180
    assert off.abs().max() <= HUE_JITTER
    gaps = [abs(a - b) for a in HUES.values() for b in HUES.values() if a != b]
    assert min(min(gap, 360 - gap) for gap in gaps) > 2 * HUE_JITTER


def test_truth_is_plain_and_complete() -> None:
    truth = SCENES.truth(0)
    assert len(truth["solids"]) == int(SCENES.present[0].sum())
    assert truth["solids"][0]["shape"] in SHAPES
    assert truth["floor"]["texture"] in TEXTURES
    assert math.isfinite(truth["camera_y"])


def test_a_full_caption_names_what_is_there() -> None:
    for index in range(len(SCENES)):
        text = caption(SCENES, index, FULL, random.Random(0))
        for slot in range(int(SCENES.present[index].sum())):
            colour, texture, shape = (
                COLOURS[SCENES.colour[index, slot]],
                TEXTURES[SCENES.texture[index, slot]],
                SHAPES[SCENES.shape[index, slot]],
            )
            assert f"{colour} {texture} {shape}" in text
        assert floor_caption(SCENES, index) in text
        assert f"{COLOURS[SCENES.wall_colour[index]]} wall" in text


def test_poor_captions_are_empty_half_of_the_time() -> None:
    rng = random.Random(0)
    texts = [caption(SCENES, i % len(SCENES), POOR, rng) for i in range(1000)]
    assert 0.45 < sum(not text for text in texts) / 1000 < 0.55


def test_rich_captions_name_surfaces_alone_now_and_then() -> None:
    rng = random.Random(0)
    texts = [caption(SCENES, i % len(SCENES), RICH, rng) for i in range(1000)]
    alone = [text for text in texts if text.startswith(("on a", "with a"))]
    assert 50 < len(alone) < 150
    assert not any(shape in text for text in alone for shape in SHAPES)


def test_a_wrong_caption_differs_in_one_word_of_a_kind() -> None:
    rng = random.Random(0)
    kinds = (set(COLOURS), set(TEXTURES), set(SHAPES))
    changed = []
    for index in range(len(SCENES)):
        right = caption(SCENES, index, FULL, random.Random(0)).split()
        wrong = with_one_word_wrong(" ".join(right), rng).split()
        (pair,) = [(a, b) for a, b in zip(right, wrong, strict=True) if a != b]
        changed.append(next(k for k, kind in enumerate(kinds) if set(pair) <= kind))
    assert set(changed) == {0, 1, 2}
    assert with_one_word_wrong("a solid", rng) == "a solid"


def test_captions_use_the_vocabulary_and_the_catalogue_tells_it() -> None:
    words = {w for i in range(64) for w in caption(SCENES, i, FULL, random.Random(0)).split()}
    assert words <= set(vocabulary())
    assert set(TABLETOP.words) <= set(vocabulary())


def test_references_show_the_same_things_elsewhere() -> None:
    shown = reference_scenes(SCENES, [""] * len(SCENES), seed=5)
    moved = {"x", "z", "yaw", "camera_y"}
    for field in fields(Scenes):
        same = torch.equal(getattr(shown, field.name), getattr(SCENES, field.name))
        assert same == (field.name not in moved), field.name
    two = SCENES.present[:, 1]
    assert (shown.x[two, 0] < shown.x[two, 1]).all()
    again = reference_scenes(SCENES, [""] * len(SCENES), seed=5)
    assert torch.equal(again.x, shown.x)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "on a green checkered floor",
            {"floor_colour": ..., "floor_hue": ..., "floor_texture": ...},
        ),
        ("with a teal wall", {"wall_colour": ..., "wall_hue": ...}),
        ("a solid on an orange floor", {"floor_colour": ..., "floor_hue": ...}),
        ("a striped cone", {"shape": 0, "texture": 0}),
        (
            "a solid and an orange cube with a red wall",
            {"shape": 1, "colour": 1, "hue": 1, "wall_colour": ..., "wall_hue": ...},
        ),
        ("a dotted solid and a dotted solid on a floor", {"texture": ...}),
    ],
)
def test_references_show_other_things_where_words_speak(text: str, named: dict[str, Any]) -> None:
    silent = reference_scenes(SCENES, [""] * len(SCENES), seed=5)
    shown = reference_scenes(SCENES, [text] * len(SCENES), seed=5)
    for field in fields(Scenes):
        changed = getattr(shown, field.name) != getattr(silent, field.name)
        if changed.ndim == 2 and field.name in named and named[field.name] is not ...:
            assert not changed[:, 1 - named[field.name]].any()
        assert changed.any() == (field.name in named), field.name


def test_scenes_can_be_sliced_and_moved() -> None:
    part = SCENES[2:4].to("cpu")
    assert isinstance(part, Scenes)
    assert len(part) == 2
    assert part.truth(0) == SCENES.truth(2)


def test_a_solid_is_seen_at_its_place(drawn: Render) -> None:
    """Unless another stands before it."""
    places = ((places_of_solids(SCENES) + 1) / 2 * 64).long().clamp(0, 63)
    for slot in range(2):
        there = torch.nonzero(SCENES.present[:, slot])[:, 0]
        x, y = places[there, slot].unbind(dim=1)
        assert (drawn.ids[there, y, x] == FIRST_SOLID + slot).float().mean() > 0.95


def test_a_lone_sphere_reaches_as_far_as_is_said(drawn: Render) -> None:
    lone = torch.nonzero(~SCENES.present[:, 1] & (SCENES.shape[:, 0] == 0))[:, 0]
    areas = (drawn.ids[lone] == FIRST_SOLID).float().mean(dim=(1, 2)) * 4  # of a side of 2
    expected = math.pi * reach_of_solids(SCENES)[lone, 0] ** 2
    assert ((areas / expected - 1).abs() < 0.1).all()
