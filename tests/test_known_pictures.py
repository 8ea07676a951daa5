"""Pictures unlike all that a model was trained on are noticed, and said beside the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ipadapter_demo as ip
from ipadapter_demo.imaging import images_from_pixels
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.known_pictures import KnownPictures, known_pictures
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline.conditioning.images import ReferenceEncoder
from ipadapter_demo.tabletop.render import render
from ipadapter_demo.tabletop.scene import sample_scenes
from tests.tiny import picture


def test_the_limit_holds_its_share_of_held_out_pictures(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(8, 8, generator=g)
    seen, held_out = (torch.randn(4000, 8, generator=g) @ mix + 3 for _ in range(2))
    known = KnownPictures.of(seen, held_out, 0.99)
    assert (known.distance(held_out) <= known.limit).float().mean() == pytest.approx(0.99, abs=1e-3)
    assert known.distance(seen).square().mean() == pytest.approx(8, rel=0.01)  # its width
    assert known.is_far(torch.full((1, 8), 300.0))
    known.save(tmp_path)
    again = known_pictures(tmp_path)
    assert again is not None
    assert torch.allclose(again.distance(seen), known.distance(seen), rtol=5e-3)
    assert again.limit == pytest.approx(known.limit, abs=0.01)
    assert known_pictures(tmp_path / "elsewhere") is None


def test_tabletop_knows_its_scenes_and_no_others() -> None:
    pipeline = ip.load("tabletop", device="cpu", dtype="float32")
    model = pipeline._model
    assert model.known is not None
    encoder = ReferenceEncoder(model)
    scenes = images_from_pixels(2 * render(sample_scenes(48, 920_001)).pixels - 1)
    g = torch.Generator().manual_seed(0)
    blurred = torch.nn.functional.interpolate(
        torch.rand(12, 3, 9, 9, generator=g), size=128, mode="bicubic"
    )
    others = images_from_pixels((2 * blurred - 1).clamp(-1, 1))
    with torch.no_grad():
        far = [model.known.is_far(encoder.image_embed(one)) for one in (*scenes, *others)]
    assert sum(far[:48]) <= 1
    assert all(far[48:])


def test_it_is_said_of_pictures_that_count(model: BaseModel) -> None:
    width = model.image_encoder.config.projection_dim
    far = KnownPictures(torch.zeros(width), torch.eye(width), 0.5)  # embeddings have the length 1
    pipeline = ImagePromptPipeline(replace(model, known=far))
    references = tuple(
        ip.Reference(image=picture(seed), weight=weight)
        for seed, weight in ((1, 1), (2, 0), (3, 1))
    )
    request = ip.GenerateRequest(references=references, steps=3, width=64, height=64)
    said = [w for w in pipeline.generate(request).warnings if w.startswith("reference: picture")]
    assert [words.split()[2] for words in said] == ["1", "3"]
    assert "is unlike all that tiny was trained on" in said[0]
    for quiet in (replace(request, image_scale=0.0), replace(request, references=())):
        assert not [w for w in pipeline.generate(quiet).warnings if "is unlike" in w]
    near = ImagePromptPipeline(replace(model, known=replace(far, limit=2.0)))
    assert not [w for w in near.generate(request).warnings if "is unlike" in w]


def test_a_picture_is_encoded_once_for_this_and_a_base_adapter(model: BaseModel) -> None:
    width = model.image_encoder.config.projection_dim
    near = KnownPictures(torch.zeros(width), torch.eye(width), 2.0)
    pipeline = ImagePromptPipeline(replace(model, known=near))
    seen: list[torch.Tensor] = []
    counting = model.image_encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        reference = ip.Reference(image=picture(1))
        pipeline.generate(ip.GenerateRequest(references=(reference,), steps=1, width=64, height=64))
    finally:
        counting.remove()
    assert len(seen) == 1
