"""Published models in small: the very folders and file names of the hub, with tiny weights."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from safetensors.torch import save_file

from benchmarks.full_size import write_tokenizer
from ipadapter_demo.adapter import save_image_adapter
from ipadapter_demo.models.published import PUBLISHED, Published
from ipadapter_demo.models.sources import Hub
from tests.faces import write_face_adapter
from tests.style import style_state
from tests.tiny import (
    seeded,
    tiny_adapter,
    tiny_controlnet,
    tiny_image_processor,
    tiny_sdxl_text_encoder,
    tiny_sdxl_unet,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_unet,
    tiny_vision_encoder,
)


def write_published(models: Path, name: str) -> Published:
    """Everything that a first picture of `name` takes, below `models` as the hub has it."""
    model = PUBLISHED[name]
    unet = tiny_sdxl_unet() if name.startswith("sdxl") else tiny_sd15_unet()
    _write_base(models / model.base.repo, unet, xl=name.startswith("sdxl"))
    if model.unet is not None:
        own = models / model.unet.repo / model.unet.files[0]
        own.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: t.contiguous() for key, t in unet.half().state_dict().items()}, own)
    encoder = models / model.image_encoder.repo / model.image_encoder.folder
    tiny_vision_encoder().save_pretrained(encoder)
    path = models / model.adapter.repo / model.adapter.paths[0]
    if "faceid" in name:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_face_adapter(path.parent, unet, path.name)
    elif "style" in name:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(style_state(unet.config.cross_attention_dim), path)
    else:
        save_image_adapter(tiny_adapter(unet, variant_of(model)), path)
    return model


def variant_of(model: Published) -> str:
    """As the file's name tells it: composition adapters are Plus ones, `ip_plus_composition`."""
    (file,) = model.adapter.files
    return next((v for v in ("plus", "full") if v in file), "base")


def write_structure(models: Path, hub: Hub, unet: UNet2DConditionModel, network: str) -> None:
    folder = models / hub.repo
    safe = hub.files[-1].endswith(".safetensors")
    variant = "fp16" if ".fp16." in hub.files[-1] else None
    if network == "controlnet":
        net = tiny_controlnet(unet, factor=8)
        net.half().save_pretrained(folder, variant=variant)
    else:
        kind, factor = ("full_adapter_xl", 16) if "sdxl" in hub.repo else ("full_adapter", 8)
        with seeded(6):
            widths = list(unet.config.block_out_channels)
            widths += widths[-1:] if factor == 16 else []  # the middle block's, as published
            net = T2IAdapter(
                channels=widths, num_res_blocks=1, downscale_factor=factor, adapter_type=kind
            )
        net.half().save_pretrained(folder, variant=variant, safe_serialization=safe)


def tiny_sd15_unet(seed: int = 30) -> UNet2DConditionModel:
    """SD 1.5's topology: 16 cross-attention layers in four levels, none at the lowest."""
    return tiny_unet(
        seed,
        sample_size=16,
        layers_per_block=2,
        block_out_channels=(8, 16, 24, 24),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=2,
    )


def tiny_kl() -> AutoencoderKL:
    """The published autoencoder's class and depth: factor 8."""
    with seeded(31):
        return (
            AutoencoderKL(
                block_out_channels=(4, 4, 8, 8),
                norm_num_groups=4,
                scaling_factor=0.18215,
                latent_channels=4,
                layers_per_block=1,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            )
            .eval()
            .requires_grad_(False)
        )


def _write_base(folder: Path, unet: UNet2DConditionModel, xl: bool) -> None:
    betas = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    if xl:
        pipeline = StableDiffusionXLPipeline(
            vae=tiny_kl(),
            unet=unet,
            scheduler=EulerDiscreteScheduler(**betas),
            text_encoder=tiny_sdxl_text_encoder(21, second=False),
            text_encoder_2=tiny_sdxl_text_encoder(22, second=True),
            tokenizer=tiny_tokenizer(),
            tokenizer_2=tiny_tokenizer(),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )
    else:
        pipeline = StableDiffusionPipeline(
            vae=tiny_kl(),
            unet=unet,
            text_encoder=tiny_text_encoder(),
            tokenizer=tiny_tokenizer(),
            safety_checker=None,
            requires_safety_checker=False,
            scheduler=PNDMScheduler(**betas, skip_prk_steps=True, set_alpha_to_one=False),
            feature_extractor=tiny_image_processor(),
        )
    pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")
    for tokens in folder.glob("tokenizer*"):
        write_tokenizer(tiny_tokenizer(), tokens)
