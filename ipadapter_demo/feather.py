"""Opacity of a mask at a soft seam, from the depth of each of its pixels.

A feather as wide as F pixels makes what is less than F deep half transparent all over, a ghost. So
it is never wider than the place is thick: a part of the mask rises to full opacity where it is
deepest, and so does a thin arm of a thick part.
"""

from __future__ import annotations

import itertools

import numpy as np

# An arm is thin beside a body where, for one of these depths in pixels, it is nowhere so deep, and
# farther from what is so deep than NEAR times that depth. The corner of a body is not: up to a
# corner of 60 degrees, every place is within twice a depth of what has that depth.
DEPTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
NEAR = 2.0


def opacity(depth: np.ndarray, most: int) -> np.ndarray:
    """(h, w) float32 from 0 to 1: 0 where `depth` is 0, 1 where it is `most` pixels or more.

    What is less deep rises to 1 where its part of the mask, or its arm of it, is deepest.
    """
    opaque = np.minimum(depth / _reach(depth, most), np.float32(1))
    deepest = depth.max(initial=0)
    for below, least in itertools.pairwise((0, *DEPTHS)):
        if least >= min(most, deepest + 1):  # whole parts are as thin: their reach is known
            break
        _make_arms_opaque(opaque, depth, below, least)
    return opaque


def _make_arms_opaque(opaque: np.ndarray, depth: np.ndarray, below: int, least: int) -> None:
    """Raises `opaque` in arms from `below` to `least` deep, over their first `least` pixels."""
    import cv2

    core = depth >= least
    away = cv2.distanceTransform((~core).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    thin = (away > NEAR * least) & (depth > 0)
    if not (thin & (depth >= below)).any():
        return
    count, parts = cv2.connectedComponents(thin.view(np.uint8))
    arms = np.flatnonzero(thin)  # few pixels of many, as a rule
    part, deep = np.asarray(parts, np.int32).ravel()[arms], depth.ravel()[arms]
    reach = np.zeros(count, np.float32)
    np.maximum.at(reach, part, deep)
    reach[reach < below] = np.inf  # thinner arms have risen before
    risen = deep / reach[part] * np.minimum(away.ravel()[arms] / least - NEAR, 1)
    opaque.ravel()[arms] = np.maximum(opaque.ravel()[arms], risen)


def _reach(depth: np.ndarray, most: int) -> np.ndarray:
    """For each pixel the depth of the deepest one that is connected with it, up to `most`."""
    import cv2

    count, parts = cv2.connectedComponents((depth > 0).astype(np.uint8))
    parts = np.asarray(parts, np.int32)
    reach = np.zeros(count, np.float32)
    reach[parts[depth >= most]] = most
    shallow = (depth > 0) & (reach[parts] == 0)
    np.maximum.at(reach, parts[shallow], depth[shallow])
    reach[0] = most  # outside, where the depth is 0
    return reach[parts]
