"""ControlNet Union: one network reads several kinds of map, each as diffusers has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetUnionModel, StableDiffusionXLControlNetUnionPipeline
from diffusers.models import MultiControlNetUnionModel
from safetensors.torch import save_file

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.catalog import CatalogEntry, StructureEntry
from ipadapter_demo.models.union import UnionStructure
from ipadapter_demo.pipeline import load
from ipadapter_demo.request import Structure
from tests.oracle import assert_same, pixels_of, reference, request, theirs
from tests.test_oracle_sdxl import loaded_xl
from tests.tiny import picture, randomise, seeded, tiny_sdxl_unet, write_tiny_sdxl

WITH_IMAGE = {"scale": 0.7, "ip_adapter_image": reference().image}


def tiny_union(types: int = 6, widths: tuple[int, ...] = (8, 12, 16)) -> ControlNetUnionModel:
    """Zero convolutions that are not zero; it halves the map once less than there are `widths`."""
    unet = tiny_sdxl_unet()
    names = (
        "down_block_types block_out_channels layers_per_block cross_attention_dim "
        "transformer_layers_per_block attention_head_dim use_linear_projection norm_num_groups "
        "addition_embed_type addition_time_embed_dim projection_class_embeddings_input_dim"
    )
    width = unet.config.block_out_channels[0]
    with seeded(15):
        net = ControlNetUnionModel(
            **{name: unet.config[name] for name in names.split()},
            conditioning_embedding_out_channels=widths,
            num_control_type=types,
            num_trans_channel=width,
            num_proj_channel=width,
        )
        randomise(net)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    return write_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny-xl")


@pytest.fixture(scope="module", params=["folder", "file"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, net = tmp_path_factory.mktemp("union"), tiny_union()
    if request.param == "folder":
        net.save_pretrained(folder / "net")
        return folder / "net"
    save_file({k: t.contiguous() for k, t in net.state_dict().items()}, folder / "net.safetensors")
    return folder / "net.safetensors"


def with_union(entry: CatalogEntry, place: Path, *kinds: str) -> CatalogEntry:
    one = StructureEntry(folder=str(place), network="controlnet", annotators=("none",))
    return replace(entry, structures=dict.fromkeys(kinds, one))


@pytest.mark.parametrize(("kind", "mode"), [("openpose", 0), ("canny", 3), ("segmentation", 5)])
def test_one_kind(
    entry: CatalogEntry, place: Path, kind: str, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = loaded_xl(StableDiffusionXLControlNetUnionPipeline, entry, controlnet=tiny_union())
    expected = theirs(
        oracle,
        entry,
        **WITH_IMAGE,
        control_image=[picture(3)],
        control_mode=[mode],
        controlnet_conditioning_scale=0.8,
    )
    ours = pixels_of(load(with_union(entry, place, kind)), monkeypatch)
    kept = Structure(kind=kind, image=picture(3), weight=0.8)
    asked = request(references=(reference(),), image_scale=0.7, structures=(kept,))
    assert_same(ours(asked), expected)


def test_two_kinds_at_once(
    entry: CatalogEntry, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Added, as by two networks; and loaded once."""
    nets = MultiControlNetUnionModel([tiny_union(), tiny_union()])
    oracle = loaded_xl(StableDiffusionXLControlNetUnionPipeline, entry, controlnet=nets)
    expected = theirs(
        oracle,
        entry,
        **WITH_IMAGE,
        control_image=[picture(3), picture(5)],
        control_mode=[3, 1],
        controlnet_conditioning_scale=[0.8, 0.4],
    )
    pipeline = load(with_union(entry, place, "canny", "depth"))
    structures = (
        Structure(kind="canny", image=picture(3), weight=0.8),
        Structure(kind="depth", image=picture(5), weight=0.4),
    )
    asked = request(references=(reference(),), image_scale=0.7, structures=structures)
    assert_same(pixels_of(pipeline, monkeypatch)(asked), expected)
    canny, depth = pipeline._model.structures.loaded()
    assert isinstance(canny, UnionStructure)
    assert canny.net is depth.net


def test_shared_calls_keep_the_kinds_apart(entry: CatalogEntry, place: Path) -> None:
    pipeline = load(with_union(entry, place, "canny", "depth"))
    asked = [
        request(structures=(Structure(kind=kind, image=picture(3)),), count=1)
        for kind in ("canny", "depth")
    ]
    alone = [pipeline.generate(one).images[0] for one in asked]
    assert alone[0].tobytes() != alone[1].tobytes()
    for expected, found in zip(alone, pipeline.generate_all(asked, 2), strict=True):
        pixels = [torch.tensor(list(image.tobytes())) for image in (expected, found.images[0])]
        assert (pixels[0] - pixels[1]).abs().max() <= 1


@pytest.mark.parametrize(
    ("kinds", "types", "said"),
    [
        (("palette",), 6, "structure palette: a ControlNet Union reads maps of openpose, depth"),
        (("tile",), 6, "structure tile: a ControlNet Union reads maps of openpose"),
    ],
)
def test_a_kind_that_it_does_not_have(
    entry: CatalogEntry, tmp_path: Path, kinds: Any, types: int, said: str
) -> None:
    tiny_union(types).save_pretrained(tmp_path / "net")
    with pytest.raises(ModelError, match=said):
        load(with_union(entry, tmp_path / "net", *kinds))


def test_the_larger_one_has_two_more(entry: CatalogEntry, tmp_path: Path) -> None:
    tiny_union(8).save_pretrained(tmp_path / "net")
    pipeline = load(with_union(entry, tmp_path / "net", "tile", "repaint"))
    asked = request(structures=(Structure(kind="tile", image=picture(3)),), count=1)
    assert pipeline.generate(asked).images
