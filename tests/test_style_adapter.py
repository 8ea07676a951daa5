"""T2I-Adapter's style adapter: tokens behind the text's, held against IP-Adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

import ipadapter_demo as ip
from ipadapter_demo.adapter import load_image_adapter, save_image_adapter
from ipadapter_demo.adapter.joined_text import JoiningTokens, by_rows, joined_text
from ipadapter_demo.cli import main
from ipadapter_demo.compare import draw_comparison, spec_from_document
from ipadapter_demo.errors import CheckpointError, ModelError, RequestError
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.base_model import load_base_model
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.unpinned import CLIP_VIT_L
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import load_options, settings_from_args
from tests.oracle import (
    COUNT,
    assert_same,
    loaded,
    pixels_of,
    reference,
    request,
    theirs,
)
from tests.published import write_published
from tests.style import style_state, style_tokens
from tests.tiny import (
    CROSS_DIM,
    VISION_WIDTH,
    box_mask,
    noise,
    picture,
    tiny_tabletop_unet,
    tiny_text_encoder,
    tiny_unet,
    tiny_vision_encoder,
    write_tiny_model,
)

STYLE = "style"


@pytest.fixture(scope="module")
def styled(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    """A model with the style adapter beside IP-Adapter's two."""
    entry = write_tiny_model(tmp_path_factory.mktemp("style"))
    save_file(style_state(), entry.folder / "style.safetensors")
    adapters = entry.adapters | {STYLE: "style.safetensors"}
    return replace(entry, adapters=adapters, inpaint_adapter=None)


@pytest.fixture(scope="module")
def drawer(styled: CatalogEntry) -> ImagePromptPipeline:
    return ImagePromptPipeline(load_base_model(styled, "cpu", torch.float32))


def tokens_of(entry: CatalogEntry, given: Reference) -> Tensor:
    """(1, 8, width), by transformers alone."""
    encoder = CLIPVisionModelWithProjection.from_pretrained(entry.folder / "image_encoder")
    processor = loaded(StableDiffusionPipeline, entry).feature_extractor
    pixels = processor(given.image, return_tensors="pt").pixel_values
    return style_tokens(style_state(), encoder(pixels).last_hidden_state).detach()


def with_tokens(entry: CatalogEntry, appended: Tensor, against: Tensor | None = None) -> Tensor:
    """What diffusers draws with tokens behind those of the prompt; and in the unconditional half
    these, or as many of its own last ones, as the first authors' samplers do."""
    oracle = loaded(StableDiffusionPipeline, entry)
    text, negative = oracle.encode_prompt("a cube", "cpu", 1, True, "blur")
    if against is None:
        against = negative[:, -appended.shape[1] :]
    return theirs(
        oracle,
        entry,
        prompt=None,
        negative_prompt=None,
        prompt_embeds=torch.cat([text, appended], dim=1),
        negative_prompt_embeds=torch.cat([negative, against], dim=1),
    )


def pictures(drawer: ImagePromptPipeline, *references: Reference, **how: Any) -> np.ndarray:
    common = {"adapter": STYLE, "steps": 2, "guidance": 3.0}
    asked = GenerateRequest(references=references, **common | how)
    return np.stack([np.asarray(image, dtype=int) for image in drawer.generate(asked).images])


def test_its_tokens_are_those_of_clip_s_own_blocks(tmp_path: Path) -> None:
    save_file(style_state(), tmp_path / "style.safetensors")
    adapter = load_image_adapter(tmp_path / "style.safetensors")
    assert (adapter.variant, adapter.num_tokens, adapter.joins_text) == (STYLE, 8, True)
    states = noise(1, 2, 5, VISION_WIDTH)
    with torch.no_grad():
        ours = adapter.tokens_from_embeds(states)
    torch.testing.assert_close(ours, style_tokens(style_state(), states), rtol=0, atol=2e-6)


@pytest.mark.parametrize("scale", [0.7, 1.0])
def test_diffusers_draws_the_same(
    drawer: ImagePromptPipeline,
    styled: CatalogEntry,
    scale: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Law 4: tokens times λ behind the text's, through two references with weights."""
    one, other = reference(1), reference(2, weight=0.5)
    tokens = torch.cat([tokens_of(styled, one), 0.5 * tokens_of(styled, other)], dim=1)
    expected = with_tokens(styled, scale * tokens)
    ours = pixels_of(drawer, monkeypatch)
    asked = request(references=(one, other), image_scale=scale, adapter=STYLE)
    assert_same(ours(asked), expected)


def test_a_negative_reference_stands_behind_the_negative_prompt(
    drawer: ImagePromptPipeline, styled: CatalogEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, against = reference(1), reference(2, negative=True)
    expected = with_tokens(styled, tokens_of(styled, one), tokens_of(styled, against))
    asked = request(references=(one, against), adapter=STYLE)
    assert_same(pixels_of(drawer, monkeypatch)(asked), expected)


def test_its_tokens_reach_no_controlnet(drawer: ImagePromptPipeline) -> None:
    """Law 5: what a ControlNet reads is the text alone."""
    plain = request(adapter=STYLE)
    asked = replace(plain, references=(reference(1),))
    read = drawer._conditioner.condition
    base, with_style = (read(one, (64, 64)).text_states for one in (plain, asked))
    assert torch.equal(base, with_style)


def test_references_of_several_branches_join_one_softmax(
    drawer: ImagePromptPipeline, styled: CatalogEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A region of the whole picture, and a reference of one picture alone."""
    whole = Image.new("L", (64, 64), 255)
    one, other = reference(1, mask=whole), reference(2, only_image=1)
    mine, beside = tokens_of(styled, one), tokens_of(styled, other)
    ours = pixels_of(drawer, monkeypatch)(request(references=(one, other), adapter=STYLE))
    assert COUNT == 2
    assert_same(ours[:1], with_tokens(styled, mine)[:1])
    assert_same(ours[1:], with_tokens(styled, torch.cat([mine, beside], dim=1))[1:])


def test_without_strength_it_is_the_base_model_bit_for_bit(drawer: ImagePromptPipeline) -> None:
    """Law 1, and without anything to see in a region."""
    base, given = pictures(drawer), Reference(image=picture(1))
    nowhere = replace(given, mask=Image.new("L", (64, 64)))
    assert np.array_equal(pictures(drawer, given, image_scale=0.0), base)
    assert np.array_equal(pictures(drawer, replace(given, weight=0.0)), base)
    assert np.abs(pictures(drawer, nowhere) - base).max() <= 1
    assert np.abs(pictures(drawer, given) - base).max() > 5


def test_a_region_is_a_weight_in_the_softmax() -> None:
    """Queries outside see the text alone, those inside all, and those at its edge between."""
    query, key, more = (noise(seed, 2, 3, length, 4) for seed, length in ((1, 5), (2, 6), (3, 8)))
    region = torch.tensor([0.0, 0.0, 0.25, 1.0, 1.0])[None, :, None]
    joining = JoiningTokens(slice(0, 2), more, more, region)
    [(rows, acting)] = by_rows([joining])
    drawn = joined_text(query, key, key, rows, acting)
    attention = torch.nn.functional.scaled_dot_product_attention
    both = attention(query, *[torch.cat([key, more], dim=2)] * 2)
    torch.testing.assert_close(drawn[:, :, :2], attention(query, key, key)[:, :, :2])
    torch.testing.assert_close(drawn[:, :, 3:], both[:, :, 3:])
    scores = (query @ torch.cat([key, more], dim=2).mT / 2).exp()[:, :, 2]
    scores[..., 6:] *= 0.25
    weights = scores / scores.sum(-1, keepdim=True)
    expected = (weights[:, :, None] @ torch.cat([key, more], dim=2))[:, :, 0]
    torch.testing.assert_close(drawn[:, :, 2], expected)


def test_it_goes_with_ip_adapter_windows_and_layers(drawer: ImagePromptPipeline) -> None:
    style = Reference(image=picture(1), adapter=STYLE)
    both = (style, Reference(image=picture(2), adapter="plus"))
    drawn = [
        pictures(drawer, *given, **how)
        for given, how in (
            (both, {}),
            (both[:1], {}),
            (both[1:], {}),
            ((replace(style, window=(0.0, 0.5)),), {}),
            ((replace(style, layers="ease in"),), {}),
        )
    ]
    assert len({one.tobytes() for one in drawn}) == len(drawn)
    turned = pictures(drawer, *reversed(both))
    assert np.abs(turned - drawn[0]).max() <= 1


def test_lora_and_company_change_nothing(styled: CatalogEntry, tmp_path: Path) -> None:
    """Law 3: its K is the UNet's, which a LoRA of another request changes; and calls are shared."""
    path = tmp_path / "lora.safetensors"
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    width = tiny_tabletop_unet().get_submodule(layer).out_features
    name = f"lora_unet_{layer.replace('.', '_')}"
    ends = {"down": noise(1, 2, CROSS_DIM), "up": noise(2, width, 2)}
    save_file({f"{name}.lora_{end}.weight": tensor for end, tensor in ends.items()}, path)
    drawer = load(styled, device="cpu", loras=((path, 0.0),), share_steps=4)
    given = (Reference(image=picture(1)),)
    asked = GenerateRequest(references=given, adapter=STYLE, steps=3, guidance=3.0)
    others = [
        replace(asked, loras=(Lora(name="lora", weight=1.0),)),
        replace(asked, references=()),
        replace(asked, adapter="base", seed=4),
        replace(asked, image_scale=0.5, image_window=(0.0, 0.4)),
    ]
    alone = [np.asarray(drawer.generate(each).images[0], dtype=int) for each in [asked, *others]]
    assert np.abs(alone[1] - alone[0]).max() > 1
    beside = drawer.generate_all([*others, asked])
    for drawn, expected in zip(beside, [*alone[1:], alone[0]], strict=True):
        assert np.abs(np.asarray(drawn.images[0], dtype=int) - expected).max() <= 1


def test_prompts_by_number_draw_the_same(styled: CatalogEntry, drawer: ImagePromptPipeline) -> None:
    """As compiled networks get them; what runs here is the same code, not compiled."""
    model = load_base_model(styled, "cpu", torch.float32)
    model.unet.compiled_side = model.unet.config.sample_size
    given = (Reference(image=picture(1)), Reference(image=picture(2), adapter="plus"))
    asked = GenerateRequest(references=given, adapter=STYLE, steps=2, guidance=3.0)
    pair = [one.generate(asked).images[0] for one in (ImagePromptPipeline(model), drawer)]
    mine, plain = (np.asarray(image, dtype=int) for image in pair)
    assert np.abs(mine - plain).max() <= 1


def test_attention_maps_and_inpainting(drawer: ImagePromptPipeline) -> None:
    given = (Reference(image=picture(1)), Reference(image=picture(2)))
    asked = GenerateRequest(references=given, adapter=STYLE, steps=2)
    *_, shown = drawer.stream(asked, record_attention=True)
    assert [len(maps) for maps in shown.attention_maps] == [2]
    sums = sum(np.asarray(one, dtype=float) for one in shown.attention_maps[0])
    assert 0 < sums.mean() < 255
    plain = drawer.generate(asked)
    assert shown.images[0].tobytes() == plain.images[0].tobytes()
    hole = Inpaint(image=picture(3), mask=box_mask((16, 16, 48, 48)), background_weight=1.0)
    inpainted = np.asarray(drawer.generate(replace(asked, inpaint=hole)).images[0])
    assert np.array_equal(inpainted[:16], np.asarray(picture(3))[:16])


Write = Callable[[dict[str, Tensor], Path], object]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t2iadapter_style_sd14v1.pth", torch.save),
        ("a.safetensors", save_file),
        ("a.pth", lambda s, p: torch.save({f"adapter.{k}": t for k, t in s.items()}, p)),
        ("a.bin", lambda s, p: torch.save({"state_dict": s}, p)),
    ],
)
def test_every_layout_gives_the_same(tmp_path: Path, name: str, write: Write) -> None:
    write(style_state(), tmp_path / name)
    found = load_image_adapter(tmp_path / name)
    assert len(found.layers) == 0
    for key, tensor in style_state().items():
        assert torch.equal(found.projection.state_dict()[key], tensor)


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        ("proj", None, r"a.pth: missing \['image_proj.proj'\]"),
        ("ln_pre.weight", (3,), r"ln_pre.weight has shape \(3,\)"),
        ("body.0.weight", (3,), "unexpected"),
        ("style_embedding", (1, 8, 12), "12 channels wide, .* no multiple of 8 heads"),
    ],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, key: str, shape: tuple[int, ...] | None, said: str
) -> None:
    state = style_state()
    state.pop(key, None)
    torch.save(state if shape is None else state | {key: torch.ones(shape)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=said):
        load_image_adapter(tmp_path / "a.pth")


def test_what_does_not_fit_is_said(tmp_path: Path, drawer: ImagePromptPipeline) -> None:
    from ipadapter_demo.adapter import check_fits

    torch.save(style_state(cross_dim=32), tmp_path / "a.pth")
    wide = load_image_adapter(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="makes tokens 32 wide, the UNet reads 24"):
        check_fits(wide, tiny_unet(), VISION_WIDTH, "a.pth")
    torch.save(style_state(width=32), tmp_path / "b.pth")
    other = load_image_adapter(tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="reads 32 channels, the encoder gives 16"):
        check_fits(other, tiny_unet(), other.width_read_from(tiny_vision_encoder()), "b.pth")
    with pytest.raises(CheckpointError, match="no place in the layout of IP-Adapter's files"):
        save_image_adapter(wide, tmp_path / "c.safetensors")
    embeds = drawer.embeds_of(Reference(image=picture(1)), "plus")
    with pytest.raises(RequestError, match=r"for the style adapter style .* made for plus"):
        pictures(drawer, Reference(embeds=embeds))


def test_image_embeds_take_the_place_of_the_picture(drawer: ImagePromptPipeline) -> None:
    given = Reference(image=picture(1), fit="tile")
    saved = drawer.embeds_of(given, STYLE)
    assert saved.adapter == STYLE
    assert np.array_equal(pictures(drawer, Reference(embeds=saved)), pictures(drawer, given))


def write_whole_clip(folder: Path) -> None:
    """The published layout: a text encoder beside the image encoder."""
    text, vision = tiny_text_encoder().config, tiny_vision_encoder()
    config = CLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision.config.to_dict(),
        projection_dim=vision.config.projection_dim,
    )
    whole = CLIPModel(config)
    whole.load_state_dict(vision.state_dict(), strict=False)
    whole.save_pretrained(folder)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD 1.5 with its adapter, and the style adapter."""
    folder = tmp_path_factory.mktemp("shelf")
    for name in ("sd15", "sd15-style"):
        write_published(folder, name)
    write_whole_clip(folder / CLIP_VIT_L.repo)
    return folder


class TestOfTheCatalogue:
    def test_it_is_compared_with_ip_adapter(
        self, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        """Both on one UNet, each with its image encoder; and the PNG is made again."""
        settings = settings_from_args(["--model", "sd15", "--adapters", "sd15-style"], {})
        options = replace(load_options(settings), models_dir=shelf)
        pipeline = load("sd15", options, device="cpu", dtype="float32")
        assert pipeline.info.adapters == ("base", "sd15-style")
        document = {
            "columns": {"adapter": ["base", "sd15-style"]},
            "rows": {"reference": ["r.png"]},
            "request": {"steps": 2, "guidance": 3.0},
        }
        picture(1).save(tmp_path / "r.png")
        spec = spec_from_document(document, lambda name: (tmp_path / name).read_bytes())
        draw_comparison(spec, tmp_path / "out", ModelManager(pipeline))
        first, second = (
            np.asarray(Image.open(tmp_path / "out" / "cells" / f"p1-r1-c{n}.png")) for n in (1, 2)
        )
        assert not np.array_equal(first, second)
        alone = load("sd15-style", models_dir=shelf, device="cpu", dtype="float32")
        given = GenerateRequest(references=(Reference(image=picture(1)),), steps=2, guidance=3.0)
        result = alone.generate(given)
        assert np.array_equal(np.asarray(result.images[0]), second)
        assert any("t2iadapter_style" in name for name in result.provenance["weights"])
        again = pipeline.generate(replace(given, adapter="sd15-style"))
        png = tmp_path / "made.png"
        ip.save_png(png, again.images[0], again.request, 0, 0, again.provenance)
        words = f"generate --from-png {png} --out {tmp_path} --models-dir {shelf} --device cpu"
        assert main([*words.split(), "--dtype", "float32"]) == 0
        line = json.loads(capsys.readouterr().out.splitlines()[0])
        assert np.array_equal(np.asarray(Image.open(line["path"])), np.asarray(again.images[0]))

    def test_a_file_of_one_s_own_brings_its_encoder(
        self, shelf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = tmp_path / "mine.pth"
        torch.save(style_state(), file)
        pipeline = load("sd15", models_dir=shelf, model_adapter=file, device="cpu")
        assert pipeline.info.adapters == ("mine",)
        assert str(CLIP_VIT_L.repo) in str(pipeline.entry.image_encoder)
        assert "UNEXPECTED" not in caplog.text, "its text encoder is no news"

    def test_an_encoder_of_another_size_is_refused(self, shelf: Path, tmp_path: Path) -> None:
        large = tiny_vision_encoder()
        large.config.image_size = 32
        CLIPVisionModelWithProjection(large.config).save_pretrained(tmp_path)
        with pytest.raises(ModelError, match="adapter sd15-style sees 16 pixels, the model's 32"):
            load(
                "sd15",
                models_dir=shelf,
                adapters=("sd15-style",),
                image_encoder=str(tmp_path),
                device="cpu",
            )
