"""Prompts as people write them, by hand: the caption's words for what each names, and how much of
it the model draws.

Kept apart from training: its words for the same things come from tabletop/wording.py, and nothing
was chosen there by what these prompts came to.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ipadapter_demo.evaluation.attribute_classifier import ATTRIBUTES
from ipadapter_demo.evaluation.benchmark import Benchmark

SCENES_A_SEED = 125  # of 1,000 scenes eight pictures of each prompt

# the prompt; then the solids from left to right, the floor and the wall, as far as it names them
PROMPTS: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("A plain green cube.", ("plain green cube",), "", ""),
    ("cube, green, plain", ("plain green cube",), "", ""),
    ("sphere that is red and striped", ("red striped sphere",), "", ""),
    ("Red ball", ("red sphere",), "", ""),
    ("a plain green cube on an orange striped floor", ("plain green cube",), "orange striped", ""),
    ("A BLUE BOX ON A YELLOW GROUND", ("blue cube",), "yellow", ""),
    ("violet can", ("purple cylinder",), "", ""),
    ("a striped purple ball", ("purple striped sphere",), "", ""),
    ("a ball with polka dots, pink", ("pink dotted sphere",), "", ""),
    ("turquoise cone", ("teal cone",), "", ""),
    ("a cyan cube on a checked floor", ("teal cube",), "checkered", ""),
    ("a red cube to the right of a blue ball", ("blue sphere", "red cube"), "", ""),
    ("a yellow cone next to a green cylinder", ("yellow cone", "green cylinder"), "", ""),
    ("orange tin beside a pink box", ("orange cylinder", "pink cube"), "", ""),
    (
        "a dotted ball on the left, a plain cone on the right",
        ("dotted sphere", "plain cone"),
        "",
        "",
    ),
    ("blue cube on the right, red cone on the left", ("red cone", "blue cube"), "", ""),
    ("green sphere left of a purple cube", ("green sphere", "purple cube"), "", ""),
    (
        "in front of a yellow wall, a blue striped cylinder",
        ("blue striped cylinder",),
        "",
        "yellow",
    ),
    ("pink wall, green floor, blue cone", ("blue cone",), "green", "pink"),
    ("a teal backdrop and a red cube", ("red cube",), "", "teal"),
    ("orange background, checkered blue ball", ("checkered blue sphere",), "", "orange"),
    ("the floor is striped and red, the cube is yellow", ("yellow cube",), "striped red", ""),
    ("striped floor, dotted cube", ("dotted cube",), "striped", ""),
    ("a spotted blue cone", ("blue dotted cone",), "", ""),
    ("chequered sphere in orange", ("orange checkered sphere",), "", ""),
    ("a cube in teal with stripes", ("teal striped cube",), "", ""),
    ("two red spheres", ("red sphere", "red sphere"), "", ""),
    ("two striped blue cubes on a pink floor", ("blue striped cube",) * 2, "pink", ""),
    ("polka-dot cube, blue backdrop", ("dotted cube",), "", "blue"),
    ("Purple wall. Green floor. Red cone.", ("red cone",), "green", "purple"),
    ("on a yellow floor a red striped ball", ("red striped sphere",), "yellow", ""),
    ("with a blue wall, an orange dotted cube", ("orange dotted cube",), "", "blue"),
    ("a dotted cone which is yellow", ("yellow dotted cone",), "", ""),
    ("checkered ground, plain pink sphere", ("plain pink sphere",), "checkered", ""),
    ("a barrel, red and striped", ("red striped cylinder",), "", ""),
    ("yellow can with dots on a blue floor", ("yellow dotted cylinder",), "blue", ""),
    ("a green ball and a green box", ("green sphere", "green cube"), "", ""),
    ("a uniform red cone", ("plain red cone",), "", ""),
    ("solid-coloured blue sphere", ("plain blue sphere",), "", ""),
    ("A photo of a pink cube on a teal floor", ("pink cube",), "teal", ""),
    ("there is a purple cylinder before a green wall", ("purple cylinder",), "", "green"),
    (
        "an orange ball, plain, on a dotted purple floor",
        ("plain orange sphere",),
        "dotted purple",
        "",
    ),
    ("cylinder and cone", ("cylinder", "cone"), "", ""),
    (
        "striped red ball and plain blue box on a checkered green floor with a teal wall",
        ("striped red sphere", "plain blue cube"),
        "checkered green",
        "teal",
    ),
    (
        "teal wall, dotted yellow floor, plain orange cone, striped pink cube",
        ("plain orange cone", "striped pink cube"),
        "dotted yellow",
        "teal",
    ),
    (
        "blue striped cube right of a red plain sphere, pink floor",
        ("red plain sphere", "blue striped cube"),
        "pink",
        "",
    ),
    ("left: a pink cone. right: a teal ball.", ("pink cone", "teal sphere"), "", ""),
    ("violet floor, checked violet cylinder", ("purple checkered cylinder",), "purple", ""),
    ("a box with checks in front of a red wall", ("checkered cube",), "", "red"),
    ("magenta ball on a striped ground", ("pink sphere",), "striped", ""),
)


def named_attributes(solids: tuple[str, ...], floor: str, wall: str) -> dict[str, int]:
    """The number of each named attribute's class, as the attribute classifier has them."""
    said = {"solid": solids[0], "floor": floor, "wall": wall, "second": "".join(solids[1:])}
    found = {"count": len(solids) - 1}
    for name, classes in ATTRIBUTES.items():
        for word in said.get(name.split("_")[0], "").split():
            if word in classes:
                found[name] = classes.index(word)
    return found


def hand_written(benchmark: Benchmark) -> Mapping[str, object]:
    """Share of everything that the prompts name, and of each attribute, over some seeds of each; a
    second solid's attributes are right only in a picture with two."""
    seeds = -(-len(benchmark.scenes) // SCENES_A_SEED)
    images = benchmark.draw(
        [
            benchmark.request(prompt=text, seed=20_000 + k)
            for text, *_ in PROMPTS
            for k in range(seeds)
        ]
    )
    read = benchmark.classifier.classify(images)
    wanted = [
        named_attributes(solids, floor, wall)
        for _, solids, floor, wall in PROMPTS
        for _ in range(seeds)
    ]
    right: dict[str, torch.Tensor] = {}
    for name in ATTRIBUTES:
        rows = [row for row, one in enumerate(wanted) if name in one]
        hit = read[name][rows] == torch.tensor([wanted[row][name] for row in rows])
        if name.startswith("second"):
            hit &= read["count"][rows] == 1
        if rows:
            right[name] = hit.float()
    return {
        "prompts": len(PROMPTS),
        "seeds_each": seeds,
        "mean": round(torch.cat([*right.values()]).mean().item(), 4),
        "by_attribute": {n: {"right": round(hit.mean().item(), 4)} for n, hit in right.items()},
    }
