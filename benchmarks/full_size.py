"""Full-size SD 1.5 with an image prompt, 512 x 512: seconds a step and peak memory, this pipeline
against diffusers' own on the same weights.

    python benchmarks/full_size.py [--folder DIR] [--device cpu] [--dtype bfloat16] [--steps 4]

The weights are random and written once, in the published layout, below --folder: 5 GB. Each side
runs in a process of its own; they take turns, and the ratio is of the faster of two rounds.
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

from ipadapter_demo.models.published import PUBLISHED

MODEL = PUBLISHED["sd15"]
GUIDANCE = 7.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "random-sd15")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--side", choices=("ours", "diffusers"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.side is not None:
        print(json.dumps(_measured(arguments)))
        return
    if not (arguments.folder / "done").exists():
        _write(arguments.folder)
        (arguments.folder / "done").touch()
    rounds = [{side: _elsewhere(side, arguments) for side in ("ours", "diffusers")}
              for _ in range(2)]
    best = {side: {name: min(r[side][name] for r in rounds) for name in rounds[0][side]}
            for side in rounds[0]}
    print(json.dumps({
        "device": arguments.device, "dtype": arguments.dtype, "threads": torch.get_num_threads(),
        **best,
        "ratio_seconds": round(best["ours"]["seconds_a_step"]
                               / best["diffusers"]["seconds_a_step"], 3),
        "ratio_memory": round(best["ours"]["peak_gib"] / best["diffusers"]["peak_gib"], 3),
    }))


def _elsewhere(side: str, arguments: argparse.Namespace) -> dict[str, float]:
    words = [sys.executable, __file__, "--side", side, "--folder", str(arguments.folder),
             "--device", arguments.device, "--dtype", arguments.dtype,
             "--steps", str(arguments.steps)]
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
    return {"seconds_a_step": round((seconds[1] - seconds[0]) / arguments.steps, 3),
            "peak_gib": round(peak, 2)}


def _ours(arguments: argparse.Namespace) -> Callable[[int], object]:
    import ipadapter_demo as ip

    pipeline = ip.load("sd15", device=arguments.device, dtype=arguments.dtype,
                       models=arguments.folder)
    reference = ip.Reference(image=_picture())
    return lambda steps: pipeline.generate(ip.GenerateRequest(
        prompt="a cat", references=(reference,), guidance=GUIDANCE, steps=steps, sampler="ddim"))


def _diffusers(arguments: argparse.Namespace) -> Callable[[int], object]:
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPVisionModelWithProjection

    dtype = getattr(torch, arguments.dtype)
    folder = arguments.folder
    encoder = CLIPVisionModelWithProjection.from_pretrained(
        folder / MODEL.image_encoder.repo / MODEL.image_encoder.folder, dtype=dtype)
    pipe = StableDiffusionPipeline.from_pretrained(
        folder / MODEL.base.repo, image_encoder=encoder, variant="fp16", dtype=dtype,
        safety_checker=None, requires_safety_checker=False)
    pipe.load_ip_adapter(str(folder / MODEL.adapter.repo), subfolder="models",
                         weight_name=MODEL.adapter.files[0])
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.to(arguments.device)
    pipe.set_progress_bar_config(disable=True)
    return lambda steps: pipe("a cat", ip_adapter_image=_picture(), guidance_scale=GUIDANCE,
                              num_inference_steps=steps)


def _picture() -> Image.Image:
    return Image.effect_noise((512, 512), 80).convert("RGB")


def _write(folder: Path) -> None:
    """Random weights of the published sizes, under the published names."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    from ipadapter_demo.adapter import ImageAdapter, LinearProjection, save_image_adapter

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>",
              "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[],
                              model_max_length=77)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, projection_dim=768,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id))
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=512, scaling_factor=0.18215)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                              clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    base = folder / MODEL.base.repo
    StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=CLIPImageProcessor(),
        requires_safety_checker=False,
    ).save_pretrained(base, variant="fp16")
    _write_tokenizer(tokenizer, base / "tokenizer")
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16,
        patch_size=14, projection_dim=1024))
    encoder.save_pretrained(folder / MODEL.image_encoder.repo / MODEL.image_encoder.folder)
    adapter = ImageAdapter.for_unet(unet, LinearProjection(1024, 768))
    save_image_adapter(adapter, folder / MODEL.adapter.repo / MODEL.adapter.paths[0])


def _write_tokenizer(tokenizer: Any, folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    start, end = "<|startoftext|>", "<|endoftext|>"
    specials = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        specials | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}))


if __name__ == "__main__":
    main()
