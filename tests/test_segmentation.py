"""Segmentation maps have the colours that the published ControlNet reads as classes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    ConvNextConfig,
    SegformerImageProcessor,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.annotators import DETECTORS, annotate
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry, StructureEntry
from ipadapter_demo.models.segmentation import ade20k_palette
from ipadapter_demo.models.sources import Hub, fetched
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.request import GenerateRequest, Inpaint, Structure
from tests.tiny import box_mask, picture, randomise, seeded

# Classes and colours of ADE20K as mmsegmentation has them, beside which the network was trained.
# https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/mmseg/datasets/ade.py
KNOWN = {
    0: (120, 120, 120),
    2: (6, 230, 230),
    4: (4, 200, 3),
    9: (4, 250, 7),
    12: (150, 5, 61),
    149: (92, 0, 255),
}  # wall, sky, tree, grass, person, flag


def tiny_upernet(labels: int = 150) -> UperNetForSemanticSegmentation:
    backbone = ConvNextConfig(
        hidden_sizes=[4, 8, 8, 8],
        depths=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(
        backbone_config=backbone,
        hidden_size=8,
        pool_scales=[1, 2],
        use_auxiliary_head=True,
        auxiliary_in_channels=8,
        auxiliary_channels=4,
        num_labels=labels,
    )
    with seeded(40):
        network = UperNetForSemanticSegmentation(config)
        randomise(network)
    return network.eval()


def write(folder: Path, network: UperNetForSemanticSegmentation) -> Path:
    """The published files: a configuration each, and the weights as .bin."""
    network.config.save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def network() -> UperNetForSemanticSegmentation:
    return tiny_upernet()


@pytest.fixture(scope="module")
def models(
    network: UperNetForSemanticSegmentation, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    models = tmp_path_factory.mktemp("hub")
    hub = DETECTORS["segmentation"].weights
    assert hub is not None
    write(models / hub.repo, network)
    return models


@pytest.fixture
def locate(models: Path) -> Callable[[Hub], Path]:
    return lambda hub: fetched(hub, models)


def test_the_palette_is_ade20k_s() -> None:
    palette = ade20k_palette()
    assert palette.shape == (150, 3)
    assert {label: tuple(palette[label].tolist()) for label in KNOWN} == KNOWN


@pytest.mark.parametrize("size", [(64, 64), (72, 88), (97, 65), (200, 104)])
def test_every_pixel_has_the_colour_of_its_class(
    network: UperNetForSemanticSegmentation, locate: Callable[[Hub], Path], size: tuple[int, int]
) -> None:
    """Sizes of no special multiple: what is resized are the logits, never the colours."""
    image = picture(1, *size)
    drawn = annotate("segmentation", image, locate)
    assert (drawn.size, drawn.mode) == (size, "RGB")
    pixels = SegformerImageProcessor(size={"height": 64, "width": 64})(
        image, return_tensors="pt"
    ).pixel_values
    with torch.no_grad():
        logits = network(pixels).logits
    classes = F.interpolate(logits, (size[1], size[0]), mode="bilinear").argmax(dim=1)[0].numpy()
    assert len(np.unique(classes)) > 3, "a single class would prove nothing"
    assert np.array_equal(np.asarray(drawn), ade20k_palette()[classes])


@pytest.mark.parametrize("label", KNOWN)
def test_the_colour_of_a_class(label: int, tmp_path: Path) -> None:
    network = tiny_upernet()
    with torch.no_grad():
        network.decode_head.classifier.bias[label] = 1e4
    drawn = annotate("segmentation", picture(1), lambda hub: write(tmp_path, network))
    assert drawn.getcolors() == [(64 * 64, KNOWN[label])]


def test_as_a_structure(
    entry: CatalogEntry, model: BaseModel, locate: Callable[[Hub], Path]
) -> None:
    """What the ControlNet is given, at the size of the output."""
    net = StructureEntry(
        folder="controlnet-canny", network="controlnet", annotators=("segmentation", "none")
    )
    segmenting = replace(
        model, entry=replace(entry, structures={"segmentation": net}), locate=locate
    )
    structure = Structure(kind="segmentation", image=picture(2, 300, 200), annotator="segmentation")
    drawn = ImagePromptPipeline(segmenting).structure_map(structure, (72, 64))
    palette = {tuple(colour) for colour in ade20k_palette().tolist()}
    colours = {colour for _, colour in drawn.getcolors(2**16) or ()}
    assert colours <= palette
    assert drawn.size == (72, 64)


@pytest.mark.parametrize("size", [(64, 64), (72, 48), (96, 96)], ids=str)
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("context", [1.0, 0.4])
def test_a_ready_map_keeps_its_colours(
    entry: CatalogEntry, model: BaseModel, fit: Any, size: tuple[int, int], context: float
) -> None:
    """Of two classes that meet none has a colour between them, at any size and of any part."""
    known = replace(entry.structures["canny"], annotators=("segmentation", "none"))
    own = replace(model, entry=replace(entry, structures={"segmentation": known}))
    ready = Image.new("RGB", (90, 70), KNOWN[2])
    ready.paste(KNOWN[9], (0, 31, 57, 70))
    request = GenerateRequest(
        structures=(Structure(kind="segmentation", image=ready, fit=fit),),
        width=size[0],
        height=size[1],
        inpaint=None
        if context == 1
        else Inpaint(
            image=picture(1, *size), mask=box_mask((20, 20, 40, 40), *size), context=context
        ),
    )
    [drawn] = ImagePromptPipeline(own).structure_maps(request)
    colours = {colour for _, colour in drawn.getcolors() or ()}
    assert {KNOWN[2], KNOWN[9]} <= colours <= {KNOWN[2], KNOWN[9], (0, 0, 0)}


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class TestDamage:
    def test_a_file_that_would_run_code(
        self, tmp_path: Path, network: UperNetForSemanticSegmentation
    ) -> None:
        write(tmp_path, network)
        (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
        with pytest.raises(ModelError, match="the detector segmentation cannot be loaded"):
            annotate("segmentation", picture(1), lambda hub: tmp_path)
        assert not (tmp_path / "harm").exists()

    def test_a_weight_that_is_missing(
        self, tmp_path: Path, network: UperNetForSemanticSegmentation
    ) -> None:
        write(tmp_path, network)
        weights = network.state_dict()
        del weights["decode_head.classifier.bias"]
        torch.save(weights, tmp_path / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"weights lack \['decode_head.classifier.bias'\]"):
            annotate("segmentation", picture(1), lambda hub: tmp_path)

    def test_other_classes(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="the 150 classes of ADE20K, knows 19"):
            annotate("segmentation", picture(1), lambda hub: write(tmp_path, tiny_upernet(19)))
