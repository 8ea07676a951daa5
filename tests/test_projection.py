"""Projections and the adapter around them: values against diffusers, sizes against the files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.embeddings import ImageProjection
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ipadapter_demo.adapter import (
    ImageAdapter,
    LinearProjection,
    MLPProjection,
    Resampler,
    load_image_adapter,
    projections,
    save_image_adapter,
)
from ipadapter_demo.adapter.attach import cross_attention_layers
from ipadapter_demo.adapter.shapes import Shapes
from ipadapter_demo.errors import CheckpointError, ModelError
from tests.tiny import (
    CROSS_DIM,
    EMBED_DIM,
    VISION_WIDTH,
    noise,
    randomise,
    seeded,
    tiny_adapter,
    tiny_pipeline,
    tiny_unet,
    tiny_vision_encoder,
)

# widths of the cross-attention layers in published order: down, up, mid
SD15 = [320] * 2 + [640] * 2 + [1280] * 5 + [640] * 3 + [320] * 3 + [1280]
SDXL = [640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10

PUBLISHED = {
    "ip-adapter_sd15": (lambda: LinearProjection(1024, 768), SD15, 3_150_336, 22_319_616),
    "ip-adapter_sd15_vit-G": (lambda: LinearProjection(1280, 768), SD15, 3_936_768, 23_106_048),
    "ip-adapter-plus_sd15": (lambda: Resampler(1280, 768), SD15, 29_918_208, 49_087_488),
    "ip-adapter-full-face_sd15": (lambda: MLPProjection(1280, 768), SD15, 2_625_024, 21_794_304),
    "ip-adapter_sdxl": (lambda: LinearProjection(1280, 2048), SDXL, 10_498_048, 351_285_248),
    "ip-adapter_sdxl_vit-h": (lambda: LinearProjection(1024, 2048), SDXL, 8_400_896, 349_188_096),
    "ip-adapter-plus_sdxl_vit-h": (
        lambda: Resampler(1280, 2048, width=1280, heads=20),
        SDXL,
        82_961_664,
        423_748_864,
    ),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    """Law 8, on the meta device: no memory, exact numbers."""
    build, widths, in_projection, total = PUBLISHED[name]
    with torch.device("meta"):
        adapter = ImageAdapter(build(), widths)
    assert count(adapter.projection) == in_projection
    assert count(adapter) == total
    assert adapter.layer_widths == tuple(widths)
    assert all(parameter.is_meta for parameter in adapter.parameters())


def test_resampler_has_the_published_keys() -> None:
    with torch.device("meta"):
        shapes = {k: tuple(t.shape) for k, t in Resampler(1280, 768).state_dict().items()}
    expected = {
        "latents": (1, 16, 768),
        "proj_in.weight": (768, 1280), "proj_in.bias": (768,),
        "proj_out.weight": (768, 768), "proj_out.bias": (768,),
        "norm_out.weight": (768,), "norm_out.bias": (768,),
    }  # fmt: skip
    for i in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            expected |= {f"layers.{i}.{norm}.{part}": (768,) for part in ("weight", "bias")}
        expected |= {
            f"layers.{i}.0.to_q.weight": (768, 768),
            f"layers.{i}.0.to_kv.weight": (1536, 768),
            f"layers.{i}.0.to_out.weight": (768, 768),
            f"layers.{i}.1.1.weight": (3072, 768),
            f"layers.{i}.1.3.weight": (768, 3072),
        }
    assert shapes == expected


def test_linear_projection_equals_diffusers() -> None:
    with seeded(0):
        ours = LinearProjection(EMBED_DIM, CROSS_DIM, tokens=3)
        randomise(ours)
    theirs = ImageProjection(EMBED_DIM, CROSS_DIM, num_image_text_embeds=3)
    theirs.load_state_dict(
        {key.replace("proj", "image_embeds"): t for key, t in ours.state_dict().items()}
    )
    embeds = noise(1, 2, EMBED_DIM)
    assert ours(embeds).shape == (2, 3, CROSS_DIM)
    torch.testing.assert_close(ours(embeds), theirs(embeds), rtol=0, atol=1e-6)


def test_resampler_equals_diffusers() -> None:
    """On weights converted by diffusers itself."""
    with seeded(0):
        ours = Resampler(VISION_WIDTH, CROSS_DIM, tokens=5, width=64, heads=2)
        randomise(ours)
    theirs = tiny_unet()._convert_ip_adapter_image_proj_to_diffusers(
        ours.state_dict(), low_cpu_mem_usage=False
    )
    hidden_states = noise(1, 2, 9, VISION_WIDTH)
    assert ours(hidden_states).shape == (2, 5, CROSS_DIM)
    torch.testing.assert_close(ours(hidden_states), theirs(hidden_states), rtol=0, atol=1e-5)


def test_the_full_projection_has_the_published_keys() -> None:
    with torch.device("meta"):
        shapes = {k: tuple(t.shape) for k, t in MLPProjection(1280, 768).state_dict().items()}
    assert shapes == {
        "proj.0.weight": (1280, 1280), "proj.0.bias": (1280,),
        "proj.2.weight": (768, 1280), "proj.2.bias": (768,),
        "proj.3.weight": (768,), "proj.3.bias": (768,),
    }  # fmt: skip


def test_the_full_projection_equals_diffusers() -> None:
    """On weights converted by diffusers itself; a token for each of the encoder's states."""
    with seeded(0):
        ours = MLPProjection(VISION_WIDTH, CROSS_DIM)
        randomise(ours)
    theirs = tiny_unet()._convert_ip_adapter_image_proj_to_diffusers(
        ours.state_dict(), low_cpu_mem_usage=False
    )
    hidden_states = noise(1, 2, 257, VISION_WIDTH)
    assert ours(hidden_states).shape == (2, 257, CROSS_DIM)
    torch.testing.assert_close(ours(hidden_states), theirs(hidden_states), rtol=0, atol=1e-6)


def test_tokens_of_one_picture() -> None:
    """The full variant has as many as its encoder gives: 257 of ViT-H/14."""
    unet, encoder = tiny_unet(), tiny_vision_encoder()
    with torch.device("meta"):
        vit_h = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=1280,
                num_hidden_layers=2,
                num_attention_heads=16,
                patch_size=14,
                image_size=224,
                projection_dim=1024,
            )
        )
        full = ImageAdapter(MLPProjection(1280, 768), SD15)
        seen = full.embeds_from_clip_pixels(torch.zeros(1, 3, 224, 224), vit_h)
        assert full.tokens_from_embeds(seen).shape == (1, 257, 768)
    assert full.tokens_a_picture(vit_h) == 257
    for variant, tokens in (("base", 4), ("plus", 5), ("full", 5)):  # 5: a class, 2 x 2 patches
        adapter = tiny_adapter(unet, variant)
        embeds = adapter.embeds_from_clip_pixels(noise(1, 1, 3, 16, 16), encoder)
        assert adapter.tokens_from_embeds(embeds).shape == (1, tokens, CROSS_DIM)
        assert adapter.tokens_a_picture(encoder) == tokens


def test_new_adapters_start_from_the_text_weights() -> None:
    unet = tiny_unet()
    before = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    adapter = ImageAdapter.for_unet(unet, LinearProjection(EMBED_DIM, CROSS_DIM))
    layers = list(cross_attention_layers(unet).values())
    assert len(adapter.layers) == len(layers) == 7
    for pair, attn in zip(adapter.layers, layers, strict=True):
        assert torch.equal(pair.to_k_ip.weight, attn.to_k.weight)
        assert torch.equal(pair.to_v_ip.weight, attn.to_v.weight)
    with torch.no_grad():  # copies, not the UNet's own tensors
        for parameter in adapter.parameters():
            parameter.zero_()
    after = unet.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(parameter.requires_grad for parameter in adapter.parameters())


@pytest.mark.parametrize(
    ("cross_dim", "hidden", "width", "heads"),
    [
        (768, 1280, 768, 12),
        (768, 1664, 768, 12),
        (2048, 1664, 1280, 20),
        (2048, 1024, 1024, 16),
        (768, 192, 192, 3),
        (CROSS_DIM, VISION_WIDTH, VISION_WIDTH, 1),
    ],
)
def test_a_new_resampler_is_as_wide_as_the_published_ones_or_its_encoder(
    cross_dim: int, hidden: int, width: int, heads: int
) -> None:
    config = CLIPVisionConfig(hidden_size=hidden, num_attention_heads=16, projection_dim=1024)
    with torch.device("meta"):
        made = [Resampler.for_encoder(config, cross_dim, tokens) for tokens in (None, 5)]
    assert [projection.num_tokens for projection in made] == [16, 5]
    for projection, tokens in zip(made, (16, 5), strict=True):
        assert (projection.embed_dim, projection.cross_dim) == (hidden, cross_dim)
        assert projection.latents.shape == (1, tokens, width)
        assert {block[0].heads for block in projection.layers} == {heads}
        assert projection.lost_in_checkpoint("a.bin") is None


def test_new_projections_of_the_other_variants_read_their_encoder() -> None:
    config = CLIPVisionConfig(hidden_size=1280, num_attention_heads=16, projection_dim=1024)
    with torch.device("meta"):
        base = [LinearProjection.for_encoder(config, 768, tokens) for tokens in (None, 7)]
        full = MLPProjection.for_encoder(config, 768)
    assert [(p.embed_dim, p.cross_dim, p.num_tokens) for p in base] == [
        (1024, 768, 4),
        (1024, 768, 7),
    ]
    assert (full.embed_dim, full.cross_dim, full.num_tokens) == (1280, 768, None)


def test_a_projection_of_another_width_is_refused() -> None:
    with pytest.raises(ModelError, match=r"tokens 768 wide, the UNet's down_blocks.* reads 24"):
        ImageAdapter.for_unet(tiny_unet(), LinearProjection(EMBED_DIM, 768))


def test_properties_tell_the_variants_apart() -> None:
    unet, encoder = tiny_unet(), tiny_vision_encoder()
    base, plus, full = (tiny_adapter(unet, variant) for variant in ("base", "plus", "full"))
    assert (base.variant, base.num_tokens, base.encoder_width) == ("linear", 4, EMBED_DIM)
    assert (plus.variant, plus.num_tokens, plus.encoder_width) == ("plus", 5, VISION_WIDTH)
    assert (full.variant, full.num_tokens, full.encoder_width) == ("full", None, VISION_WIDTH)
    assert base.cross_dim == plus.cross_dim == full.cross_dim == CROSS_DIM
    assert base.width_read_from(encoder) == EMBED_DIM
    assert plus.width_read_from(encoder) == full.width_read_from(encoder) == VISION_WIDTH


def test_tokens_follow_the_precision_of_the_adapter() -> None:
    adapter = tiny_adapter(tiny_unet()).to(torch.bfloat16)
    assert adapter.tokens_from_embeds(noise(1, 2, EMBED_DIM)).dtype == torch.bfloat16
    assert adapter.empty_embeds(1).dtype == torch.bfloat16


@pytest.mark.parametrize("variant", ["plus", "full"])
def test_the_empty_picture_has_the_precision_of_the_encoder(variant: str) -> None:
    pipeline = tiny_pipeline()
    encoder = pipeline.image_encoder.to(torch.bfloat16)
    assert tiny_adapter(pipeline.unet, variant).empty_embeds(1, encoder).dtype == torch.bfloat16


@pytest.mark.parametrize("variant", ["base", "plus", "full"])
def test_conditional_and_empty_embeds_equal_diffusers(variant: str) -> None:
    """Trap 1: base takes zero embeddings, Plus the encoder's view of zeroed normalised pixels."""
    pipeline = tiny_pipeline()
    encoder = pipeline.image_encoder
    adapter = tiny_adapter(pipeline.unet, variant)
    clip_pixels = noise(1, 2, 3, 16, 16)
    theirs, theirs_empty = pipeline.encode_image(
        clip_pixels, "cpu", 1, output_hidden_states=None if variant == "base" else True
    )
    assert torch.equal(adapter.embeds_from_clip_pixels(clip_pixels, encoder), theirs)
    empty = adapter.empty_embeds(2, encoder)
    torch.testing.assert_close(empty, theirs_empty, rtol=0, atol=1e-6)
    assert adapter.tokens_from_embeds(empty).abs().max() > 0.01


@pytest.mark.parametrize("variant", ["plus", "full"])
def test_patches_are_the_states_before_the_last_layer(variant: str) -> None:
    encoder = tiny_vision_encoder(layers=5)
    adapter = tiny_adapter(tiny_unet(), variant)
    clip_pixels = noise(1, 2, 3, 16, 16)
    states = encoder(clip_pixels, output_hidden_states=True).hidden_states
    assert torch.equal(adapter.embeds_from_clip_pixels(clip_pixels, encoder), states[4])
    empty = adapter.empty_embeds(3, encoder)
    nothing = encoder(torch.zeros(1, 3, 16, 16), output_hidden_states=True).hidden_states[4]
    assert torch.equal(empty, nothing.expand(3, -1, -1))
    half = encoder.to(torch.bfloat16)
    assert adapter.empty_embeds(1, half).dtype == torch.bfloat16
    elsewhere = encoder.to("meta")  # which refuses to be mixed with the CPU
    assert adapter.empty_embeds(1, elsewhere).is_meta


def test_layers_have_the_precision_and_place_of_their_projection() -> None:
    half = LinearProjection(EMBED_DIM, CROSS_DIM).bfloat16()
    adapter = ImageAdapter(half, [8, 16])
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.bfloat16}
    assert all(p.is_meta for p in ImageAdapter(half.to("meta"), [8]).parameters())


def test_shapes_are_read_strictly() -> None:
    shapes = Shapes(
        {"b": torch.ones(2, 3), "b.12.x": torch.ones(0), "b.3.x": torch.ones(1)}, "a.bin"
    )
    assert shapes.of("b", 2) == (2, 3)
    assert ("b" in shapes, "c" in shapes) == (True, False)
    assert shapes.numbers(r"b\.(\d+)\.") == [3, 12]
    for key, axes, said in (
        ("c", 1, "a.bin: missing ['c'], unexpected []"),
        ("b", 1, "a.bin: b has shape (2, 3), not 1 dimensions"),
        ("b.12.x", 1, "a.bin: b.12.x has shape (0,), not 1 dimensions"),
    ):
        with pytest.raises(CheckpointError) as refusal:
            shapes.of(key, axes)
        assert str(refusal.value) == said


def test_tokens_of_patches_that_do_not_fill_the_picture() -> None:
    config = CLIPVisionConfig(
        hidden_size=VISION_WIDTH, num_attention_heads=2, image_size=20, patch_size=8
    )
    assert MLPProjection(VISION_WIDTH, CROSS_DIM).tokens_of(config) == 5


def test_new_queries_of_a_resampler_are_of_length_one() -> None:
    with seeded(0):
        latents = Resampler(VISION_WIDTH, CROSS_DIM, 32, width=256, depth=1, heads=1).latents
    lengths = latents[0].norm(dim=-1)
    assert 0.8 < lengths.min() < lengths.max() < 1.2


def test_a_number_of_tokens_and_a_width_within_are_read_from_the_shapes() -> None:
    """Those that no published file has."""
    with torch.device("meta"):
        base = LinearProjection(EMBED_DIM, CROSS_DIM, tokens=3)
        plus = Resampler(VISION_WIDTH, CROSS_DIM, 5, width=64, depth=2, heads=2, ff_mult=3)
        for projection in (base, plus):
            state = {f"image_proj.{key}": t for key, t in projection.state_dict().items()}
            found = projections.projection_from_shapes(Shapes(state, "a.bin"))
            assert found.num_tokens == projection.num_tokens
            assert {k: t.shape for k, t in found.state_dict().items()} == {
                k: t.shape for k, t in projection.state_dict().items()
            }


def test_an_unknown_projection_is_described() -> None:
    tensors = {f"image_proj.{key}": torch.ones(1) for key in "dcba"}
    shapes = Shapes(tensors | {"ip_adapter.1.to_k_ip.weight": torch.ones(1)}, "a.bin")
    with pytest.raises(CheckpointError) as refusal:
        projections.projection_from_shapes(shapes)
    assert str(refusal.value) == (
        "a.bin: neither a base, a Plus, a full, a FaceID Plus, a FaceID nor T2I-Adapter's style "
        "adapter; image_proj holds ['a', 'b', 'c']"
    )


@pytest.mark.parametrize("variant", ["plus", "full"])
def test_an_empty_prompt_from_patches_needs_the_encoder(variant: str) -> None:
    with pytest.raises(ModelError, match=f"a {variant} adapter needs its image encoder"):
        tiny_adapter(tiny_unet(), variant).empty_embeds(1)


class Scaled(LinearProjection):
    """A variant of its own: the linear one with a learned factor."""

    variant = "scaled"

    def __init__(self, embed_dim: int, cross_dim: int, tokens: int = 4) -> None:
        super().__init__(embed_dim, cross_dim, tokens)
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, image_embeds: Tensor) -> Tensor:
        return self.factor * super().forward(image_embeds)

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Scaled | None:
        return super().from_shapes(shapes) if "image_proj.factor" in shapes else None


def test_a_variant_is_a_class_and_a_line_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections, "PROJECTIONS", (Scaled, *projections.PROJECTIONS))
    adapter = ImageAdapter.for_unet(tiny_unet(), Scaled(EMBED_DIM, CROSS_DIM, tokens=3))
    with torch.no_grad():
        adapter.projection.factor.fill_(2.0)
    save_image_adapter(adapter, tmp_path / "scaled.safetensors")
    loaded = load_image_adapter(tmp_path / "scaled.safetensors")
    assert (loaded.variant, loaded.num_tokens) == ("scaled", 3)
    embeds = noise(1, 2, EMBED_DIM)
    assert torch.equal(loaded.tokens_from_embeds(embeds), adapter.tokens_from_embeds(embeds))
    assert loaded.tokens_a_picture(tiny_vision_encoder()) == 3
    assert torch.equal(loaded.empty_embeds(1), torch.zeros(1, EMBED_DIM))
