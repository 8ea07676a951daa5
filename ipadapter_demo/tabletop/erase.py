"""The area that a person paints over to replace a solid: the solid and its shadow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.tabletop.render import render
from ipadapter_demo.tabletop.scene import Scenes

ROOM = 1 / 21  # of the picture's side: by so much a mask is larger than what it covers


def masks_over_first(scenes: Scenes, size: int) -> list[Image.Image]:
    """White over the first solid of each scene and its shadow, and a little around them."""
    masks = []
    for part in scenes.chunks():
        room = [round(ROOM * size / half) for half in part.view[:, 2].tolist()]
        strokes = painted_over(traces(0, size, part), room)
        masks += [Image.fromarray(stroke * 255) for stroke in strokes]
    return masks


def without(scenes: Scenes, slot: Tensor | int) -> Scenes:
    """The scenes with one solid less each: slot (B,), or one for all."""
    present = scenes.present.clone()
    present[torch.arange(len(scenes)), slot] = False
    return replace(scenes, present=present)


def traces(slot: Tensor | int, size: int, *edited: Scenes) -> Tensor:
    """(B, S, S) bool: the pixels that the solid in a slot of each scene, or its shadow, changes;
    of several `edited`, which differ in that solid alone, those that any of them changes."""
    bare, *drawn = (
        render(scenes, size, supersample=1).pixels for scenes in (without(edited[0], slot), *edited)
    )
    return torch.stack([(one - bare).abs().amax(dim=1) > 1 / 255 for one in drawn]).any(dim=0)


def painted_over(seen: Tensor, brush: Sequence[int]) -> np.ndarray:
    """(B, S, S) uint8, 1 in a plain stroke over what is True in seen (B, S, S): its convex hull and
    around it, for each picture, so many pixels of a round brush. Something is True in each."""
    import cv2

    strokes = np.zeros(seen.shape, dtype=np.uint8)
    for stroke, own, radius in zip(strokes, seen.numpy(), brush, strict=True):
        points = np.argwhere(own)[:, ::-1].astype(np.int32)
        cv2.fillConvexPoly(stroke, cv2.convexHull(points), 1)
        side = 2 * radius + 1
        cv2.dilate(stroke, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), dst=stroke)
    return strokes
