"""Tiny models of the real classes, random but the same every time, for tests of any layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from PIL import Image
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ipadapter_demo.adapter import (
    ImageAdapter,
    LinearProjection,
    MLPProjection,
    Projection,
    Resampler,
    save_image_adapter,
)
from ipadapter_demo.models.catalog import COLOURS, EDGES, CatalogEntry, StructureEntry
from ipadapter_demo.models.recommended import Recommended

CROSS_DIM = 24
EMBED_DIM = 20  # projected image embedding
VISION_WIDTH = 16  # hidden states of the vision encoder
TEXT_TOKENS = 6


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` without disturbing the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """Coarse random colours: something with edges and areas."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST)


def box_mask(box: tuple[int, int, int, int], width: int = 64, height: int = 64) -> Image.Image:
    """White inside (left, top, right, bottom)."""
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    return mask


def tiny_unet(seed: int = 0, **overrides: Any) -> UNet2DConditionModel:
    """7 cross-attention layers: 2 down, 4 up, 1 mid, of widths that tell the order apart."""
    config: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": CROSS_DIM,
        "attention_head_dim": 2,  # diffusers means the number of heads here
        "norm_num_groups": 4,
    }
    with seeded(seed):
        return UNet2DConditionModel(**{**config, **overrides}).eval().requires_grad_(False)


def tiny_adapter(
    unet: UNet2DConditionModel, variant: str = "base", seed: int = 1, depth: int = 4
) -> ImageAdapter:
    """An adapter with every weight random, norms and biases too, so that each one matters."""
    cross_dim = unet.config.cross_attention_dim
    make: dict[str, Callable[[], Projection]] = {
        "base": lambda: LinearProjection(EMBED_DIM, cross_dim),
        "plus": lambda: Resampler(VISION_WIDTH, cross_dim, 5, width=64, depth=depth, heads=2),
        "full": lambda: MLPProjection(VISION_WIDTH, cross_dim),
    }
    with seeded(seed):
        projection = make[variant]()
        adapter = ImageAdapter.for_unet(unet, projection)
        randomise(adapter)
    return adapter


def randomise(module: nn.Module) -> None:
    """Move every parameter away from its initial value; biases of zero hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


def tiny_vision_encoder(
    seed: int = 2, projection_dim: int = EMBED_DIM, layers: int = 3
) -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=projection_dim,
    )
    with seeded(seed):
        return CLIPVisionModelWithProjection(config).eval().requires_grad_(False)


def tiny_image_processor() -> CLIPImageProcessor:
    size = {"height": 16, "width": 16}
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size)


def tiny_tokenizer() -> CLIPTokenizer:
    """Single letters: enough to tell prompts apart."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def tiny_text_encoder(seed: int = 3, cross_dim: int = CROSS_DIM) -> CLIPTextModel:
    tokenizer = tiny_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=cross_dim,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=EMBED_DIM,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with seeded(seed):
        return CLIPTextModel(config).eval().requires_grad_(False)


def tiny_vae(seed: int = 4) -> AutoencoderTiny:
    """Factor 4, 4 latent channels. Its colours lie inside the range: clamping hides mistakes."""
    with seeded(seed):
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
            latent_channels=4,
        )
        last = vae.decoder.layers[-1]
        nn.init.normal_(last.weight, std=0.1)
        nn.init.constant_(last.bias, 0.5)
    return vae.eval().requires_grad_(False)


def tiny_pipeline(unet: UNet2DConditionModel | None = None) -> StableDiffusionPipeline:
    """diffusers' own pipeline over the tiny parts: the oracle for whole images."""
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(),
        tokenizer=tiny_tokenizer(),
        unet=unet if unet is not None else tiny_unet(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=tiny_image_processor(),
        image_encoder=tiny_vision_encoder(),
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_tabletop_unet(seed: int = 0, in_channels: int = 4) -> UNet2DConditionModel:
    """The tabletop UNet's topology, SDXL's: no attention at the finest level. Draws 64 pixels."""
    return tiny_unet(
        seed,
        in_channels=in_channels,
        sample_size=16,
        block_out_channels=(8, 16, 24),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2, 3),
    )


def tiny_controlnet(unet: UNet2DConditionModel, seed: int = 5, factor: int = 4) -> ControlNetModel:
    """Zero convolutions that are not zero; `factor` is the autoencoder's."""
    halvings = factor.bit_length() - 1
    with seeded(seed):
        net = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=(8,) * (halvings + 1)
        )
        randomise(net)
    return net.eval().requires_grad_(False)


def tiny_t2i_adapter(unet: UNet2DConditionModel, seed: int = 6, in_channels: int = 3) -> T2IAdapter:
    with seeded(seed):
        net = T2IAdapter(
            in_channels=in_channels,
            channels=list(unet.config.block_out_channels),
            num_res_blocks=1,
            downscale_factor=8,
            adapter_type="full_adapter_xl",
        )
    return net.eval().requires_grad_(False)


def write_tiny_model(folder: Path) -> CatalogEntry:
    """A whole model folder, as `assets/tabletop` is one: diffusers' layout, the adapter files and
    the structure networks beside it."""
    unet = tiny_tabletop_unet()
    pipeline = tiny_pipeline(unet)
    pipeline.scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,  # without it diffusers warns, and sets it
        timestep_spacing="trailing",
    )
    pipeline.save_pretrained(folder)
    adapters = {"base": "ip-adapter.safetensors", "plus": "ip-adapter-plus.safetensors"}
    for variant, file in adapters.items():
        save_image_adapter(tiny_adapter(unet, variant), folder / file)
    tiny_controlnet(unet).save_pretrained(folder / "controlnet-canny")
    tiny_t2i_adapter(unet).save_pretrained(folder / "t2i-palette")
    tiny_t2i_adapter(unet, 7, in_channels=4).save_pretrained(folder / "t2i-inpaint")
    return replace(tiny_entry("tiny", folder), adapters=adapters, inpaint_adapter="t2i-inpaint")


def tiny_entry(name: str, folder: Path) -> CatalogEntry:
    return CatalogEntry(
        name=name,
        folder=folder,
        structures={
            "canny": StructureEntry(
                folder="controlnet-canny", network="controlnet", annotators=EDGES
            ),
            "palette": StructureEntry(
                folder="t2i-palette", network="t2i-adapter", annotators=COLOURS
            ),
        },
        recommended=Recommended(map_image_scale=0.8, guidance=3.0, paint_guidance=2.0, steps=3),
        small=True,
    )


def tiny_sdxl_unet(seed: int = 20) -> UNet2DConditionModel:
    """SDXL's topology: no attention at the finest level, two layers of transformer below; size and
    pooled text beside the time step."""
    return tiny_unet(
        seed,
        sample_size=16,
        block_out_channels=(8, 16, 24),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2, 3),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=EMBED_DIM + 6 * 8,
    )


def tiny_sdxl_text_encoder(seed: int, second: bool) -> CLIPTextModel:
    """A third and two thirds of the cross dim, as wide apart as the published ones; the second
    has a pooled output of EMBED_DIM."""
    kind = CLIPTextModelWithProjection if second else CLIPTextModel
    config = tiny_text_encoder(cross_dim=CROSS_DIM * (1 + second) // 3).config
    with seeded(seed):
        return kind(config).eval().requires_grad_(False)


def write_tiny_sdxl(folder: Path) -> CatalogEntry:
    """A whole SDXL folder, in the layout of the published base, and what stands beside it."""
    unet = tiny_sdxl_unet()
    StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_sdxl_text_encoder(21, second=False),
        text_encoder_2=tiny_sdxl_text_encoder(22, second=True),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    ).save_pretrained(folder)
    tiny_vision_encoder().save_pretrained(folder / "image_encoder")
    tiny_image_processor().save_pretrained(folder / "feature_extractor")
    adapters = {"base": "ip-adapter.safetensors", "plus": "ip-adapter-plus.safetensors"}
    for variant, file in adapters.items():
        save_image_adapter(tiny_adapter(unet, variant), folder / file)
    tiny_controlnet(unet).save_pretrained(folder / "controlnet-canny")
    tiny_t2i_adapter(unet).save_pretrained(folder / "t2i-palette")
    return replace(tiny_entry("tiny-xl", folder), adapters=adapters)
