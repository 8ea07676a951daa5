"""One step of training an image adapter on SD 1.5 at 512 pixels: seconds and peak memory, this
project's trainer beside a plain loop in the manner of the reference's, on the same weights.

    python -m benchmarks.training [--folder DIR] [--batch 1] [--steps 3] [--device cuda]

The weights are random and of the published sizes, below --folder as benchmarks.full_size writes
them. Each side runs in a process of its own; they take turns, and the ratio is of the faster of two
rounds. The plain loop does what tutorial_train.py of the reference does in a step: encode, noise,
UNet with image tokens joined to the text's and split again in every layer, loss, backward, AdamW
(https://github.com/tencent-ailab/IP-Adapter/blob/62e4af9/tutorial_train.py).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.full_size import in_turns, write_if_missing

SIDE = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "random")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="no", choices=("no", "bf16"))
    parser.add_argument("--side", choices=("ours", "plain"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side is not None:
        print(json.dumps((_ours if arguments.side == "ours" else _plain)(arguments)))
        return
    write_if_missing(arguments.folder, "sd15")
    print(
        json.dumps(
            {
                "device": arguments.device,
                "precision": arguments.precision,
                "batch": arguments.batch,
                "threads": torch.get_num_threads(),
                **in_turns("plain", arguments.rounds, lambda side: _elsewhere(side, arguments)),
            }
        )
    )


def _elsewhere(side: str, arguments: argparse.Namespace) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.training", "--side", side]
    for name in ("folder", "batch", "steps", "device", "precision"):
        words += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _figures(seconds: float, device: str) -> dict[str, float]:
    peak = (
        torch.cuda.max_memory_allocated() / 2**30
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )
    return {"seconds_a_step": round(seconds, 3), "peak_gib": round(peak, 2)}


def _images(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(count)
    ]


def _ours(arguments: argparse.Namespace) -> dict[str, float]:
    """The trainer itself, on a folder of pictures; a step's time is read from its log."""
    from ipadapter_demo.training.config import ImageAdapterConfig
    from ipadapter_demo.training.image_adapter import train_image_adapter

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        lines = []
        for number, image in enumerate(_images(max(4, arguments.batch))):
            image.save(place / f"{number}.png")
            lines.append(json.dumps({"file_name": f"{number}.png", "text": "a cat"}))
        (place / "metadata.jsonl").write_text("\n".join(lines))
        stamps: list[float] = []
        from ipadapter_demo.training import loop

        step = loop._step

        def stamped(*values: object) -> None:
            step(*values)  # type: ignore[arg-type]
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            stamps.append(time.perf_counter())

        loop._step = stamped  # type: ignore[assignment]
        train_image_adapter(
            ImageAdapterConfig(
                data=(str(place),),
                run=place / "run",
                out=place / "out",
                base="sd15",
                models_dir=arguments.folder,
                batch=arguments.batch,
                steps=1 + arguments.steps,
                precision=arguments.precision,
                device="cpu" if arguments.device == "cpu" else "",
                workers=0,
                preview_every=0,
                save_every=10_000,
                log_every=10_000,
            )
        )
    return _figures((stamps[-1] - stamps[0]) / arguments.steps, arguments.device)


def _plain(arguments: argparse.Namespace) -> dict[str, float]:
    step = _plain_step(arguments)
    step()  # warm up, as the trainer's first
    began = time.perf_counter()
    for _ in range(arguments.steps):
        step()
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    return _figures((time.perf_counter() - began) / arguments.steps, arguments.device)


class _JoinedTokens(nn.Module):
    """Attention to text and image tokens that come joined, as the reference's processor does it."""

    def __init__(self, attn: nn.Module, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.to_k_ip = nn.Linear(attn.to_k.in_features, attn.to_k.out_features, bias=False)
        self.to_v_ip = nn.Linear(attn.to_v.in_features, attn.to_v.out_features, bias=False)
        self.to_k_ip.load_state_dict(attn.to_k.state_dict())
        self.to_v_ip.load_state_dict(attn.to_v.state_dict())

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        text = encoder_hidden_states[:, : -self.tokens]
        image = encoder_hidden_states[:, -self.tokens :]

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = heads(attn.to_q(hidden_states))
        attend = nn.functional.scaled_dot_product_attention
        out = attend(query, heads(attn.to_k(text)), heads(attn.to_v(text)))
        out = out + attend(query, heads(self.to_k_ip(image)), heads(self.to_v_ip(image)))
        out = out.transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


def _plain_step(arguments: argparse.Namespace) -> Callable[[], None]:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import (
        CLIPImageProcessor,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
    )

    from ipadapter_demo.models.published import PUBLISHED

    device, model = arguments.device, PUBLISHED["sd15"]
    half = torch.bfloat16 if arguments.precision == "bf16" and device == "cuda" else torch.float32
    base = arguments.folder / model.base.repo
    options = {"variant": "fp16", "torch_dtype": half}

    def frozen(part: nn.Module) -> nn.Module:
        return part.to(device).eval().requires_grad_(False)

    unet = frozen(UNet2DConditionModel.from_pretrained(base / "unet", **options))
    vae = frozen(AutoencoderKL.from_pretrained(base / "vae", **options))
    text = frozen(CLIPTextModel.from_pretrained(base / "text_encoder", **options))
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    encoder = frozen(
        CLIPVisionModelWithProjection.from_pretrained(
            arguments.folder / model.image_encoder.repo / model.image_encoder.folder, dtype=half
        )
    )
    processor, scheduler = (
        CLIPImageProcessor(),
        DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )
    tokens, width = 4, unet.config.cross_attention_dim
    projection = nn.ModuleList(
        [nn.Linear(encoder.config.projection_dim, tokens * width), nn.LayerNorm(width)]
    ).to(device)
    layers = nn.ModuleList()
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            layers.append(_JoinedTokens(module, tokens).to(device))
            module.set_processor(layers[-1])
    learnt = [
        *projection.requires_grad_(True).parameters(),
        *layers.requires_grad_(True).parameters(),
    ]
    optimiser = torch.optim.AdamW(learnt, lr=1e-4, weight_decay=0.01)
    images = _images(arguments.batch)

    def step() -> None:
        pixels = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in images])
        seen = processor(images, return_tensors="pt").pixel_values.to(device, half)
        with torch.no_grad():
            latents = vae.encode((pixels / 127.5 - 1).to(device, half)).latent_dist.sample()
            latents = latents * vae.config.scaling_factor
            embeds = encoder(seen).image_embeds
            ids = tokenizer(
                ["a cat"] * len(images),
                padding="max_length",
                truncation=True,
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids
            states = text(ids.to(device))[0]
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (len(images),), device=device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with torch.autocast(device, torch.bfloat16, enabled=arguments.precision == "bf16"):
            made = projection[1](projection[0](embeds.float()).unflatten(-1, (tokens, width)))
            joined = torch.cat([states.float(), made.float()], dim=1)
            predicted = unet(noisy, timesteps, joined.to(half)).sample
        loss = nn.functional.mse_loss(predicted.float(), noise.float())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


if __name__ == "__main__":
    main()
