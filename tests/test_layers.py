"""Presets of layers: curves over the transformers of a UNet, by published formulas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from ipadapter_demo.adapter import cross_attention_layers
from ipadapter_demo.errors import RequestError
from ipadapter_demo.layer_presets import LAYER_PRESETS
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.layers import curves_of, layer_factors
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.pipeline.conditioning import Conditioner
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.ui.widgets.layers import PRESETS, curve_svg, drawn
from tests.oracle import assert_same, pixels_of, reference, request
from tests.published import tiny_sd15_unet
from tests.shelf import shelf
from tests.tiny import CROSS_DIM, noise, picture, tiny_unet

__all__ = ["shelf"]
ON_THE_SHELF = ("sd15",)


def deep_sdxl_unet() -> UNet2DConditionModel:
    """SDXL's 70 layers in 11 transformers, thin."""
    return tiny_unet(
        sample_size=16,
        layers_per_block=2,
        block_out_channels=(4, 8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2, 2),
        transformer_layers_per_block=(1, 2, 10),
    )


def in_comfyui(kind: str, t: int, block: str, layers: int) -> tuple[float, float]:
    """What ComfyUI_IPAdapter_plus multiplies λ by in the transformer with index t, for the picture
    in the conditional half and in the unconditional one; `layers` is 16 (SD 1.5) or 11 (SDXL)."""
    xl = layers == 11
    composition = {3: 1.0} if xl else {4: 0.25, 5: 1.0}
    style = {6} if xl else {0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15}
    strong = set(range(layers)) - set(composition)
    half = layers / 2
    one: dict[str, float] = {
        "all": 1,
        "ease in": 0.05 + 0.95 * (1 - t / layers),
        "ease out": 0.05 + 0.95 * (t / layers),
        "ease in-out": 0.05 + 0.95 * (1 - abs(t - half) / half),
        "weak input": 0.2 if block == "input" else 1,
        "weak middle": 0.2 if block == "middle" else 1,
        "weak output": 0.2 if block == "output" else 1,
        "strong middle": 0.2 if block in ("input", "output") else 1,
        "strong style": t in strong,
        "composition": composition.get(t, 0),
        "precise style": t in style,
    }
    return float(one[kind]), composition.get(t, 0.0) if kind == "precise style" else 0.0


def blocks_of(unet: UNet2DConditionModel) -> dict[str, tuple[int, str]]:
    """The index and the block, as ComfyUI counts and calls them, of each layer's transformer."""
    order: dict[str, tuple[int, str]] = {}
    for block, name in (("input", "down_"), ("middle", "mid_"), ("output", "up_")):
        for layer in cross_attention_layers(unet):
            if layer.startswith(name):
                order.setdefault(layer.rsplit(".transformer_blocks", 1)[0], (len(order), block))
    return {
        layer: order[layer.rsplit(".transformer_blocks", 1)[0]]
        for layer in cross_attention_layers(unet)
    }


@pytest.mark.parametrize(
    "kind", [k for k in LAYER_PRESETS if k not in ("style", "layout", "style+layout")]
)
@pytest.mark.parametrize(
    ("make", "layers"), [(tiny_sd15_unet, 16), (deep_sdxl_unet, 11)], ids=["sd15", "sdxl"]
)
def test_they_are_those_of_comfyui(make: Any, layers: int, kind: Any) -> None:
    unet = make()
    found = layer_factors(kind, unet, "x")
    expected = [in_comfyui(kind, t, block, layers) for t, block in blocks_of(unet).values()]
    if kind == "all":
        assert found is None
        return
    assert found is not None
    assert [max(0.0, factor) for factor in found] == pytest.approx([own for own, _ in expected])
    assert [max(0.0, -factor) for factor in found] == pytest.approx([two for _, two in expected])
    assert len(set(curves_of(unet)[kind])) > 1


@pytest.mark.parametrize(
    ("make", "style", "layout"),
    [
        (tiny_sd15_unet, ("up_blocks.1.",), ("down_blocks.2.", "mid_block.")),
        (deep_sdxl_unet, ("up_blocks.0.attentions.1.",), ("down_blocks.2.attentions.1.",)),
    ],
    ids=["sd15", "sdxl"],
)
def test_style_and_layout_are_those_of_instantstyle(
    make: Any, style: tuple[str, ...], layout: tuple[str, ...]
) -> None:
    unet = make()
    for kind, kept in (("style", style), ("layout", layout), ("style+layout", style + layout)):
        expected = tuple(float(name.startswith(kept)) for name in cross_attention_layers(unet))
        assert layer_factors(kind, unet, "x") == expected  # type: ignore[arg-type]
        assert any(expected)


def test_other_models_have_the_curves_alone() -> None:
    unet = tiny_unet()  # two transformers down, one in the middle, four up
    assert list(curves_of(unet)) == [
        "all",
        "ease in",
        "ease out",
        "ease in-out",
        "weak input",
        "weak middle",
        "weak output",
        "strong middle",
    ]
    assert curves_of(unet)["weak input"] == (0.2, 0.2, 1, 1, 1, 1, 1)
    assert curves_of(unet)["strong middle"] == (0.2, 0.2, 1, 0.2, 0.2, 0.2, 0.2)
    # by layer the middle is last
    assert layer_factors("strong middle", unet, "x") == (0.2,) * 6 + (1.0,)
    with pytest.raises(RequestError) as refusal:
        layer_factors("precise style", unet, "tiny")
    assert str(refusal.value) == (
        "image_layers 'precise style' is known for SD 1.5 and SDXL only; tiny takes all, ease in, "
        "ease out, ease in-out, weak input, weak middle, weak output, strong middle, or a number "
        "for each of its 7 layers"
    )


def test_linear_is_all() -> None:
    assert GenerateRequest(image_layers="linear").image_layers == "all"  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["precise style", "strong style", "ease in-out"])
def test_a_layer_adds_what_comfyui_adds(kind: Any, shelf: Any) -> None:
    """Its sum written out, layer by layer: K and V of the picture in one half, of the empty one in
    the other; where the precise style turns them round, of zeros and of the picture."""
    model = load("sd15", device="cpu", dtype="float32", models_dir=shelf)._model
    asked = GenerateRequest(
        references=(Reference(image=picture(1)),), image_layers=kind, image_scale=0.7, guidance=3.0
    )
    prompts = [
        timed.prompt for timed in Conditioner(model).condition(asked, (64, 64)).image_prompts
    ]
    [cond] = [p.tokens for p in prompts if p.rows.start == 1]
    empty = prompts[1].tokens
    assert not torch.equal(cond, empty)
    [adapter] = model.adapters.values()
    states = noise(1, 2, 77, CROSS_DIM)
    for (name, (t, block)), pair in zip(blocks_of(model.unet).items(), adapter.layers, strict=True):
        attn = cross_attention_layers(model.unet)[name]
        hidden = noise(2, 2, 16, attn.to_q.in_features)
        weight, against = (0.7 * factor for factor in in_comfyui(kind, t, block, 16))
        halves = [empty, cond]
        if against:
            weight, halves = against, [cond, torch.zeros_like(cond)]

        def heads(given: torch.Tensor, attn: Any = attn) -> torch.Tensor:
            return given.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = heads(attn.to_q(hidden))
        tokens = torch.cat(halves)
        attention = torch.nn.functional.scaled_dot_product_attention
        out = attention(query, heads(attn.to_k(states)), heads(attn.to_v(states)))
        image = attention(query, heads(pair.to_k_ip(tokens)), heads(pair.to_v_ip(tokens)))
        expected = attn.to_out[0]((out + weight * image).transpose(1, 2).flatten(2))
        found = attn(hidden, states, ip_hidden_states=tuple(prompts))
        assert torch.allclose(found, expected, atol=1e-6), name


def test_the_precise_style_has_one_half_where_there_is_no_guidance(shelf: Any) -> None:
    pipeline = load("sd15", device="cpu", dtype="float32", models_dir=shelf)
    asked = GenerateRequest(
        references=(Reference(image=picture(1)),),
        image_layers="precise style",
        guidance=1.0,
        steps=1,
    )
    curve = layer_factors("precise style", pipeline._model.unet, "x")
    assert curve is not None
    own = tuple(max(0.0, factor) for factor in curve)
    alone = GenerateRequest(references=asked.references, image_layers=own, guidance=1.0, steps=1)
    assert pipeline.generate(asked).images[0].tobytes() == (
        pipeline.generate(alone).images[0].tobytes()
    )


def test_a_curve_equals_its_factors(
    pipeline: ImagePromptPipeline, model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 4 with a number for each layer is in test_oracle."""
    ours = pixels_of(pipeline, monkeypatch)
    for kind in ("ease in", "ease out", "weak output"):
        factors = layer_factors(kind, model.unet, "tiny")  # type: ignore[arg-type]
        one = ours(request(references=(reference(),), image_layers=kind))
        two = ours(request(references=(reference(),), image_layers=factors))
        assert_same(one, two, tolerance=0)
        assert (one - ours(request(references=(reference(),)))).abs().max() > 1e-3


def test_the_documented_presets_are_those_that_there_are() -> None:
    text = (Path(__file__).parent.parent / "docs/prompts.md").read_text(encoding="utf-8")
    table = text.split("| `image_layers` | Factor |", 1)[1].split("\n\n", 1)[0]
    names = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert tuple(names) == LAYER_PRESETS


class TestTheDrawing:
    def test_every_preset_has_a_name_and_a_formula(self) -> None:
        assert tuple(PRESETS) == LAYER_PRESETS

    def test_it_has_a_bar_for_each_transformer(self, pipeline: ImagePromptPipeline) -> None:
        svg = curve_svg((1.0, 0.5, -0.25), "<x>")
        assert svg.count("<rect") == 4  # and the line below them
        assert 'aria-label="&lt;x&gt;: strength in 3 layers' in svg
        assert 'height="32"' in svg
        assert 'height="16"' in svg
        assert 'y="33" width="6" height="8" fill-opacity="0.4"' in svg
        shown = drawn("ease in", pipeline.info)
        assert shown.count("<rect") == 8
        assert shown.endswith("λ × 0.05 + 0.95 (1 - t / T)")
        assert drawn([1.0] * 7, pipeline.info) == ""

    def test_tabletop_offers_its_curves(self) -> None:
        assert len(load(TABLETOP.name, device="cpu").info.layer_presets) == 8
