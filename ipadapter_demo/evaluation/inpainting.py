"""Inpainting, measured: a solid is painted over and that of a reference is put there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageChops

from ipadapter_demo.evaluation.benchmark import Benchmark
from ipadapter_demo.evaluation.experiments import SOLID_NAMES, through_vae
from ipadapter_demo.evaluation.sharpness import detail_ratio, sharpness_ratio
from ipadapter_demo.imaging import images_from_pixels, inner_mask
from ipadapter_demo.request import Inpaint
from ipadapter_demo.tabletop.erase import masks_over_first, without
from ipadapter_demo.tabletop.files import pictures_of
from ipadapter_demo.tabletop.scene import partners_with_one_solid, with_first_solid_of

RING = 3  # pixels inside a mask's edge: there nothing but the seam is looked at


def inpainting(benchmark: Benchmark) -> Mapping[str, object]:
    """Paint over the first solid and its shadow, and put that of a reference with one solid there:
    it stands in the mask, nothing outside changes, along the mask's edge there is what would be
    there without any solid, and inside it as much detail as a rendered solid has there, and as
    sharp."""
    size = benchmark.images[0].width
    masks = masks_over_first(benchmark.scenes, size)
    partners = partners_with_one_solid(benchmark.scenes)
    images = benchmark.each(
        lambda i: {
            "references": benchmark.reference(int(partners[i])),
            "inpaint": Inpaint(
                image=benchmark.images[i], mask=masks[i], **benchmark.info.recommended.inpainting
            ),
        }
    )
    bare = list(pictures_of(without(benchmark.scenes, 0), size))
    wanted = list(pictures_of(with_first_solid_of(benchmark.scenes, partners), size))
    outside, inside = 0, []
    for image, source, mask in zip(images, benchmark.images, masks, strict=True):
        change = np.abs(np.asarray(image, dtype=int) - np.asarray(source, dtype=int)).max(axis=2)
        painted = np.asarray(mask) > 0
        outside = max(outside, int(change[~painted].max()))
        inside.append(float(change[painted].mean()))
    return {
        "image_scale": benchmark.info.recommended.image_scale,
        "largest_change_outside": outside,
        "mean_change_inside": round(float(np.mean(inside)), 2),
        "seam_error": mean_seam_error(images, bare, masks),
        "seam_error_of_the_vae": mean_seam_error(_decoded(bare), bare, masks),
        "detail_inside": detail_ratio(images, wanted, masks),
        "detail_inside_of_the_vae": detail_ratio(_decoded(wanted), wanted, masks),
        "sharpness_inside": sharpness_ratio(images, wanted, masks),
        "solid_of_reference": benchmark.score(images, SOLID_NAMES, of=partners),
    }


def _decoded(images: Sequence[Image.Image]) -> list[Image.Image]:
    """The pictures through the VAE alone."""
    return [image for _, batch in through_vae(images) for image in images_from_pixels(batch)]


def mean_seam_error(
    images: Sequence[Image.Image], bare: Sequence[Image.Image], masks: Sequence[Image.Image]
) -> float:
    """Grey levels by which a channel is off on the outermost pixels of a mask, mean over pictures.
    What the new solid casts there counts as well."""
    off = []
    for ours, other, mask in zip(images, bare, masks, strict=True):
        ring = np.asarray(ImageChops.subtract(mask, inner_mask(mask, RING))) > 0
        change = np.abs(np.asarray(ours, dtype=int) - np.asarray(other, dtype=int))
        off.append(change[ring].mean())
    return round(float(np.mean(off)), 2)
