"""Full-size SD 1.5 or SDXL with an image prompt, 512 x 512: seconds a step and peak memory, this
pipeline against diffusers' own on the same weights.

    python -m benchmarks.full_size [--model sdxl-bigg] [--folder DIR] [--dtype bfloat16] [--steps 4]

The weights are random and written once, in the published layout, below --folder: 3 GB, 11 GB for
SDXL. Each side runs in a process of its own; they take turns, and the ratio is of the faster of two
rounds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ipadapter_demo.models.hub_files import SDXL, VIT_BIGG
from ipadapter_demo.models.published import PUBLISHED, Published

SIDE, GUIDANCE = 512, 7.5


SD15_UNET: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="sd15", choices=("sd15", "sdxl", "sdxl-bigg"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "random")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--side", choices=("ours", "diffusers"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.side is not None:
        print(json.dumps(_measured(arguments)))
        return
    write_if_missing(arguments.folder, arguments.model)
    print(
        json.dumps(
            {
                "model": arguments.model,
                "device": arguments.device,
                "dtype": arguments.dtype,
                "threads": torch.get_num_threads(),
                **in_turns("diffusers", arguments.rounds, lambda side: _elsewhere(side, arguments)),
            }
        )
    )


def in_turns(other: str, rounds: int, measure: Callable[[str], dict[str, float]]) -> dict[str, Any]:
    """The best figures of "ours" and of the other side over rounds in which they take turns, and
    their ratios."""
    found = [{side: measure(side) for side in ("ours", other)} for _ in range(rounds)]
    best = {
        side: {name: min(r[side][name] for r in found) for name in found[0][side]}
        for side in found[0]
    }
    return best | {
        ratio: round(best["ours"][name] / best[other][name], 3)
        for ratio, name in (("ratio_seconds", "seconds_a_step"), ("ratio_memory", "peak_gib"))
    }


def write_if_missing(folder: Path, model: str) -> None:
    """Random weights of a published model below `folder`."""
    done = folder / f"{model}-done"
    if not done.exists():
        _write(folder, PUBLISHED[model])
        done.touch()


def _elsewhere(side: str, arguments: argparse.Namespace) -> dict[str, float]:
    words = [
        sys.executable,
        "-m",
        "benchmarks.full_size",
        "--side",
        side,
        "--folder",
        str(arguments.folder),
        "--model",
        arguments.model,
        "--device",
        arguments.device,
        "--dtype",
        arguments.dtype,
        "--steps",
        str(arguments.steps),
    ]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measured(arguments: argparse.Namespace) -> dict[str, float]:
    draw = (_ours if arguments.side == "ours" else _diffusers)(arguments)
    draw(1)  # warm up
    few, many = 1, 1 + arguments.steps
    seconds = []
    for steps in (few, many):
        began = time.perf_counter()
        draw(steps)
        seconds.append(time.perf_counter() - began)
    if arguments.device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "seconds_a_step": round((seconds[1] - seconds[0]) / arguments.steps, 3),
        "peak_gib": round(peak, 2),
    }


def _ours(arguments: argparse.Namespace) -> Callable[[int], object]:
    import ipadapter_demo as ip

    pipeline = ip.load(
        arguments.model, device=arguments.device, dtype=arguments.dtype, models_dir=arguments.folder
    )
    reference = ip.Reference(image=_picture())
    return lambda steps: pipeline.generate(
        ip.GenerateRequest(
            prompt="a cat",
            references=(reference,),
            guidance=GUIDANCE,
            steps=steps,
            sampler="ddim",
            width=SIDE,
            height=SIDE,
        )
    )


def _diffusers(arguments: argparse.Namespace) -> Callable[[int], object]:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    dtype, folder = getattr(torch, arguments.dtype), arguments.folder
    model = PUBLISHED[arguments.model]
    encoder = CLIPVisionModelWithProjection.from_pretrained(
        folder / model.image_encoder.repo / model.image_encoder.folder, dtype=dtype
    )
    kind = StableDiffusionXLPipeline if model.base == SDXL else StableDiffusionPipeline
    pipe = kind.from_pretrained(
        folder / model.base.repo,
        image_encoder=encoder,
        feature_extractor=CLIPImageProcessor(),
        variant="fp16",
        dtype=dtype,
    )
    pipe.load_ip_adapter(
        str(folder / model.adapter.repo),
        subfolder=model.adapter.folder,
        weight_name=model.adapter.files[0],
    )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.to(arguments.device)
    pipe.set_progress_bar_config(disable=True)
    return lambda steps: pipe(
        "a cat",
        ip_adapter_image=_picture(),
        guidance_scale=GUIDANCE,
        num_inference_steps=steps,
        width=SIDE,
        height=SIDE,
    )


def _picture() -> Image.Image:
    return Image.effect_noise((SIDE, SIDE), 80).convert("RGB")


def _write(folder: Path, model: Published) -> None:
    """Random weights of the published sizes, under the published names."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    from ipadapter_demo.adapter import ImageAdapter, LinearProjection, save_image_adapter

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    xl, large = model.base == SDXL, model.image_encoder == VIT_BIGG
    tokenizer = _tokenizer()
    ends = {
        "vocab_size": 49408,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    unet = UNet2DConditionModel(**(SDXL_UNET if xl else SD15_UNET))
    parts: dict[str, Any] = {
        "unet": unet,
        "vae": AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            sample_size=512,
            scaling_factor=0.18215,
        ),
        "scheduler": DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                **ends,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                projection_dim=768,
            )
        ),
    }
    if xl:
        parts["tokenizer_2"] = _tokenizer()
        parts["text_encoder_2"] = CLIPTextModelWithProjection(
            CLIPTextConfig(
                **ends,
                hidden_size=1280,
                intermediate_size=5120,
                num_hidden_layers=32,
                num_attention_heads=20,
                projection_dim=1280,
            )
        )
        pipe = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(
            **parts,
            safety_checker=None,
            feature_extractor=CLIPImageProcessor(),
            requires_safety_checker=False,
        )
    base = folder / model.base.repo
    pipe.save_pretrained(base, variant="fp16")
    for tokens in base.glob("tokenizer*"):
        write_tokenizer(tokenizer, tokens)
    width, layers, projected = (1664, 48, 1280) if large else (1280, 32, 1024)
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=8192 if large else 5120,
            num_hidden_layers=layers,
            num_attention_heads=16,
            patch_size=14,
            projection_dim=projected,
        )
    ).save_pretrained(folder / model.image_encoder.repo / model.image_encoder.folder)
    adapter = ImageAdapter.for_unet(unet, LinearProjection(projected, 2048 if xl else 768))
    save_image_adapter(adapter, folder / model.adapter.repo / model.adapter.paths[0])


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[], model_max_length=77)


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """As the published ones are: a vocabulary, merges and two small files, no tokenizer.json."""
    for path in folder.iterdir():
        path.unlink()
    start, end = "<|startoftext|>", "<|endoftext|>"
    specials = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            specials
            | {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.model_max_length}
        )
    )


if __name__ == "__main__":
    main()
