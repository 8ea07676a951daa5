"""The reader reads rendered truth; the measures measure what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ipadapter_demo.evaluation.reader import (
    ATTRIBUTES,
    AttributeReader,
    load_reader,
    truth_of_scenes,
)
from ipadapter_demo.evaluation.report import edge_f1, evaluate
from ipadapter_demo.imaging import images_from_pixels
from ipadapter_demo.models.annotators import annotate
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.pipeline import load
from ipadapter_demo.tabletop.render import render
from ipadapter_demo.tabletop.scene import sample_scenes

HELD_OUT = 920_001  # neither the recipes' seed nor the report's


@pytest.fixture(scope="module")
def reader() -> AttributeReader:
    return load_reader(TABLETOP.folder / "reader.safetensors")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_reader_reads_held_out_renders(reader: AttributeReader, name: str,
                                           held_out_reading: dict[str, torch.Tensor]) -> None:
    truth, exists = truth_of_scenes(sample_scenes(320, HELD_OUT))
    right = (held_out_reading[name] == truth[name])[exists[name]].float().mean().item()
    assert right >= 0.98


@pytest.fixture(scope="module")
def held_out_reading(reader: AttributeReader) -> dict[str, torch.Tensor]:
    scenes = sample_scenes(320, HELD_OUT)
    parts = [reader.read(images_from_pixels(render(scenes[i : i + 32]).pixels * 2 - 1))
             for i in range(0, 320, 32)]
    return {name: torch.cat([part[name] for part in parts]) for name in ATTRIBUTES}


def box(left: int) -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle((left, 20, left + 20, 40), fill="black")
    return image


def test_edges_that_agree_score_one_and_edges_elsewhere_none() -> None:
    drawn = annotate("canny", box(10))
    assert edge_f1(box(10), drawn) == 1.0
    assert edge_f1(box(12), drawn) == 1.0  # within the tolerance
    assert edge_f1(box(40), drawn) < 0.3
    assert edge_f1(Image.new("RGB", (64, 64), "white"), drawn) == 0.0


def test_truth_marks_where_a_second_solid_exists() -> None:
    scenes = sample_scenes(20, 1)
    truth, exists = truth_of_scenes(scenes)
    assert set(truth) == set(ATTRIBUTES)
    assert torch.equal(exists["second_shape"], scenes.present[:, 1])
    for name, classes in ATTRIBUTES.items():
        assert int(truth[name].max()) < len(classes)
    assert np.unique(truth["count"].numpy()).tolist() == [0, 1]


def test_the_report_covers_every_claim_on_the_built_in_model() -> None:
    report = evaluate(load("tabletop", device="cpu"), scenes=2)
    for name in ("text_alone", "variation", "no_image"):
        assert 0 <= report[name]["mean"] <= 1
        assert 0 <= report[name]["chance_mean"] <= 1
    assert "light_side" not in report["text_alone"]["by_attribute"]  # captions do not name it
    assert report["inpainting"]["largest_change_outside"] == 0
    assert report["inpainting"]["mean_change_inside"] > 0
    assert report["structure"]["edge_f1_of_rendered_source"] == 1.0
    assert report["structure"]["edge_f1"] > report["structure"]["edge_f1_without_map"]
