"""The seam between a drawn part and the picture around it: a base draws a plain wall
a level or two off, and an autoencoder gives it back as much off again, which alone makes the edge
of a mask visible."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ipadapter_demo.imaging import white_part

SIDE = 256  # of what is looked at: tints are smooth, and large pictures would take minutes
NEAR, REACH = 1 / 85, 1 / 16  # of the longer side: what counts as beside the edge; how far it acts
MOST = 8.0  # grey levels: more is meant to differ
PLAIN = 60.0  # variance beside the edge, of all channels, up to which a surface counts as plain


def match_seam_color(original: Image.Image, drawn: Image.Image, mask: Image.Image) -> Image.Image:
    """`drawn` with its tint blended into that of `original` along the edge of the white part of
    `mask`: where both sides are plain and differ by a little. One size all."""
    import cv2

    scale = min(1.0, SIDE / max(mask.size))
    size = [max(1, round(side * scale)) for side in mask.size]

    def small(image: np.ndarray) -> np.ndarray:
        return cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)

    def blurred(values: np.ndarray, part: float) -> np.ndarray:
        return cv2.GaussianBlur(values, (0, 0), part * max(size), borderType=cv2.BORDER_REPLICATE)

    def beside(image: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean colour and variance of what is near each pixel in a region, and how much that is."""
        share = blurred(where, NEAR)
        weight = np.maximum(share, 1e-4)[..., None]
        mean = blurred(image * where[..., None], NEAR) / weight
        square = blurred(image**2 * where[..., None], NEAR) / weight
        return mean, np.maximum(square - mean**2, 0).sum(axis=-1), share

    white = small(white_part(mask))
    ours, theirs = small(np.asarray(drawn)), small(np.asarray(original))
    inner, unrest, share_in = beside(ours, (white > 0.99).astype(np.float32))
    outer, unrest_out, share_out = beside(theirs, (white < 0.01).astype(np.float32))
    off = outer - inner
    edge = np.minimum(share_in, share_out)
    alike = np.exp(-(unrest + unrest_out) / PLAIN - (np.abs(off).max(axis=-1) / MOST) ** 4)
    trust = np.where(edge > 0.1, edge, 0) * alike
    around = blurred(trust, REACH)[..., None] + 1e-3  # far from all that is trusted nothing is done
    field = blurred(off * trust[..., None], REACH) / around
    lead = cv2.resize(field, mask.size, interpolation=cv2.INTER_LINEAR)
    return Image.fromarray(
        cv2.add(np.asarray(drawn), np.rint(lead).astype(np.int16), dtype=cv2.CV_8U)
    )
