"""Seconds for one picture: this pipeline against diffusers' own on the same weights, in one run.

    python -m benchmarks.speed [--repeats 5]

The two take turns; medians and their ratio are printed as JSON. λ = 1, guidance 4, 20 steps, the
same sampler, float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

import ipadapter_demo as ip
from ipadapter_demo.models.catalog import TABLETOP

STEPS, GUIDANCE = 20, 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    warnings.filterwarnings("ignore")
    picture = Image.effect_noise((128, 128), 80).convert("RGB")
    ours, theirs = _ours(picture), _diffusers(picture)
    ours(), theirs()  # warm up
    timed = [(_seconds(ours), _seconds(theirs)) for _ in range(repeats)]
    print(
        json.dumps(
            {
                "threads": torch.get_num_threads(),
                "seconds": round(statistics.median(a for a, _ in timed), 3),
                "diffusers_seconds": round(statistics.median(b for _, b in timed), 3),
                "ratio": round(statistics.median(a / b for a, b in timed), 3),
            }
        )
    )


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _ours(picture: Image.Image) -> Callable[[], object]:
    pipeline = ip.load("tabletop", device="cpu", dtype="float32")
    request = ip.GenerateRequest(
        references=(ip.Reference(image=picture),), guidance=GUIDANCE, steps=STEPS
    )
    return lambda: pipeline.generate(request)


def _diffusers(picture: Image.Image) -> Callable[[], object]:
    pipe = StableDiffusionPipeline.from_pretrained(TABLETOP.folder, torch_dtype=torch.float32)
    pipe.load_ip_adapter(
        str(TABLETOP.folder),
        subfolder="",
        weight_name=TABLETOP.adapters["base"],
        image_encoder_folder=None,
    )
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return lambda: pipe(
        "",
        ip_adapter_image=picture,
        guidance_scale=GUIDANCE,
        num_inference_steps=STEPS,
        height=128,
        width=128,
    )


if __name__ == "__main__":
    main()
