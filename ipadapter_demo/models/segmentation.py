"""The class of every pixel of a picture, of ADE20K's 150, in the data set's own palette.

The published ControlNet for segmentation reads these colours as classes, so no other colour may be
in a map. https://huggingface.co/lllyasviel/control_v11p_sd15_seg
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, UperNetForSemanticSegmentation

CLASSES = 150


class Segmenter:
    """UPerNet (arXiv 1807.10221) over the classes of ADE20K. An RGB picture -> an RGB picture of
    the same size, each pixel one of the palette's colours."""

    def __init__(
        self, network: UperNetForSemanticSegmentation, processor: BaseImageProcessor
    ) -> None:
        self.network, self.processor = network.eval().requires_grad_(False), processor

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Segmenter:
        """From a folder in the published layout; .bin files are read without running code.

        Raises ValueError for weights that are not all there, or know other classes.
        """
        from transformers import AutoImageProcessor, UperNetForSemanticSegmentation

        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        network, report = UperNetForSemanticSegmentation.from_pretrained(
            folder, local_files_only=True, weights_only=True, output_loading_info=True
        )
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"its weights lack {missing[:3]}")
        if network.config.num_labels != CLASSES:
            raise ValueError(
                f"it must know the {CLASSES} classes of ADE20K, knows {network.config.num_labels}"
            )
        return cls(network, processor)

    @torch.no_grad()
    def __call__(self, image: Image.Image) -> Image.Image:
        pixels = self.processor(image, return_tensors="pt").pixel_values
        [classes] = self.processor.post_process_semantic_segmentation(
            self.network(pixels), target_sizes=[(image.height, image.width)]
        )
        return Image.fromarray(ade20k_palette()[classes.numpy()])


@cache
def ade20k_palette() -> np.ndarray:
    """(150, 3) colours, by class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about detectors that are not used here
        from controlnet_aux.util import ade_palette

    return np.array(ade_palette(), dtype=np.uint8)
