"""The attribute classifier: a small network that says what is on a tabletop picture, and where.

It is trained on rendered truth only (by training/tabletop/attribute_classifier.py) and never sees a
generated picture before evaluation. Solids are read by slot, from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from ipadapter_demo.imaging import pixels_from_images, resize_image
from ipadapter_demo.tabletop.render import places_of_solids
from ipadapter_demo.tabletop.scene import (
    COLOURS,
    LIGHT_SIDES,
    SECOND_COLOURS,
    SHAPES,
    TEXTURES,
    Scenes,
)

CLASSIFIER_SIZE = 128

# name -> its classes. A slot's attributes count only where the slot is filled, and the colour of a
# pattern only where there is one.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "count": ("one", "two"),
    "solid_shape": SHAPES,
    "solid_colour": COLOURS,
    "solid_texture": TEXTURES,
    "second_shape": SHAPES,
    "second_colour": COLOURS,
    "second_texture": TEXTURES,
    "floor_colour": COLOURS,
    "floor_texture": TEXTURES,
    "wall_colour": COLOURS,
    "light_side": LIGHT_SIDES,
    "solid_pattern_colour": SECOND_COLOURS,
    "second_pattern_colour": SECOND_COLOURS,
}


PATTERN_COLOURS = ("solid_pattern_colour", "second_pattern_colour")
# Those of a mean. Few pictures have colours of patterns, and with them the mean would no longer be
# the one of the figures in docs/claims.md.
COUNTED = tuple(name for name in ATTRIBUTES if name not in PATTERN_COLOURS)
HUES = ("solid_hue", "second_hue", "floor_hue", "wall_hue")
PLACES = ("solid_place", "second_place")
MEASURES = (*HUES, *PLACES)  # two numbers each: a point on the colour circle, or on the picture


class AttributeClassifier(nn.Module):
    """pixels (B, 3, 128, 128) in [-1, 1] -> logits by attribute, each (B, classes), and every
    measure, each (B, 2)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = (width, 2 * width, 3 * width, 4 * width)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 5, stride=2, padding=2)]
        before = width
        for after in widths:
            layers += [_Block(before, after)]
            before = after
        self.features = nn.Sequential(*layers)  # (B, 4 width, 4, 4): the grid tells left from right
        self.widths = [len(names) for names in ATTRIBUTES.values()] + [2] * len(MEASURES)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(before * 16, 256), nn.SiLU(), nn.Linear(256, sum(self.widths))
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        outputs = self.head(self.features(pixels)).split(self.widths, dim=1)
        return dict(zip((*ATTRIBUTES, *MEASURES), outputs, strict=True))

    @torch.no_grad()
    def classify(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """The most likely class of each attribute, (B,) each; hues in degrees, (B,) each; places
        (B, 2), x and y from -1 to 1 across the picture."""
        parts = []
        for start in range(0, len(images), 64):
            sized = [
                resize_image(image, (CLASSIFIER_SIZE, CLASSIFIER_SIZE))
                for image in images[start : start + 64]
            ]
            parts.append(self(pixels_from_images(sized)))
        outputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return {
            **{name: outputs[name].argmax(1) for name in ATTRIBUTES},
            **{name: degrees(outputs[name]) for name in HUES},
            **{name: outputs[name] for name in PLACES},
        }


class _Block(nn.Module):
    """Two convolutions beside a shortcut, then half the resolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, before), nn.GroupNorm(8, after)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return F.avg_pool2d(self.shortcut(x) + h, 2)


def truth_of_scenes(scenes: Scenes) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The class of each attribute (N,) and where it exists (N,) bool."""
    two = scenes.present[:, 1]
    everywhere = torch.ones_like(two)
    patterned = scenes.texture != TEXTURES.index("plain")
    truth = {
        "count": two.long(),
        "solid_shape": scenes.shape[:, 0],
        "solid_colour": scenes.colour[:, 0],
        "solid_texture": scenes.texture[:, 0],
        "second_shape": scenes.shape[:, 1],
        "second_colour": scenes.colour[:, 1],
        "second_texture": scenes.texture[:, 1],
        "floor_colour": scenes.floor_colour,
        "floor_texture": scenes.floor_texture,
        "wall_colour": scenes.wall_colour,
        "light_side": scenes.light_side,
        "solid_pattern_colour": scenes.second[:, 0],
        "second_pattern_colour": scenes.second[:, 1],
    }
    exists = {name: two if name.startswith("second") else everywhere for name in truth}
    exists["solid_pattern_colour"] = patterned[:, 0]
    exists["second_pattern_colour"] = two & patterned[:, 1]
    return truth, exists


def measures_of_scenes(scenes: Scenes) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every hue in degrees (N,), the place of every solid (N, 2), and where each exists (N,)."""
    two = scenes.present[:, 1]
    everywhere = torch.ones_like(two)
    places = places_of_solids(scenes)
    truth = {
        "solid_hue": scenes.hue[:, 0],
        "second_hue": scenes.hue[:, 1],
        "floor_hue": scenes.floor_hue,
        "wall_hue": scenes.wall_hue,
        "solid_place": places[:, 0],
        "second_place": places[:, 1],
    }
    return truth, {name: two if name.startswith("second") else everywhere for name in truth}


def degrees(points: Tensor) -> Tensor:
    """(..., 2) points on the colour circle -> (...) hues from 0 to 360."""
    return torch.rad2deg(torch.atan2(points[..., 1], points[..., 0])) % 360


def hue_error(one: Tensor, other: Tensor) -> Tensor:
    """Degrees between two hues, at most 180."""
    return ((one - other + 180) % 360 - 180).abs()


def load_attribute_classifier(path: Path) -> AttributeClassifier:
    classifier = AttributeClassifier()
    classifier.load_state_dict({name: t.float() for name, t in load_file(path).items()})
    return classifier.eval().requires_grad_(False)
