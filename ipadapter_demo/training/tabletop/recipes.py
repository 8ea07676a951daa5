"""Recipes of the parts of the tabletop model, in the order in which they need each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ipadapter_demo.files import write_file
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.weight_hashes import record_hashes
from ipadapter_demo.tabletop.scene import HELD_OUT_SEED
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.adapters import FEW_STEP, few_step, image_adapter, structure
from ipadapter_demo.training.tabletop.attribute_classifier import train_attribute_classifier
from ipadapter_demo.training.tabletop.base import train_base
from ipadapter_demo.training.tabletop.clip import (
    train_clip,
    train_image_encoder,
    train_text_encoder,
)
from ipadapter_demo.training.tabletop.decoder import train_decoder
from ipadapter_demo.training.tabletop.finishes import train_finishes
from ipadapter_demo.training.tabletop.inpaint import train_inpaint
from ipadapter_demo.training.tabletop.light import train_light
from ipadapter_demo.training.tabletop.pictures import rendered_pictures
from ipadapter_demo.training.tabletop.solids import train_solids
from ipadapter_demo.training.tabletop.vae import train_vae
from ipadapter_demo.training.tabletop.words import train_words

PICTURES, HELD_OUT = 32768, 2048
OUT = TABLETOP.folder

# Makes the folder an ordinary diffusers pipeline: StableDiffusionPipeline.from_pretrained reads it.
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "vae": ["diffusers", "AutoencoderTiny"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A part's training function with its own steps, batch and lr; `seed` keeps draws apart."""

    train: Callable[..., dict]
    steps: int
    batch: int
    lr: float
    seed: int = 0
    options: Mapping[str, object] | None = None
    start_from: str | None = None  # a part of `out` to go on from


CONTROLNET = {"network": "controlnet", "annotator": "canny"}
T2I_CANNY = {"network": "t2i-adapter", "annotator": "canny"}
T2I_PALETTE = {"network": "t2i-adapter", "annotator": "palette"}

RECIPES = {
    "vae": Recipe(train_vae, 6100, 16, 1.2e-3),
    "clip": Recipe(train_clip, 1000, 64, 1e-3),
    "image-encoder": Recipe(train_image_encoder, 10_100, 64, 8e-4, seed=23),
    "text-encoder": Recipe(train_text_encoder, 900, 128, 1e-3, seed=7),
    "base-small": Recipe(train_base, 2250, 64, 1e-3, options={"small": True}),
    "controlnet-small": Recipe(
        structure, 1000, 32, 1e-3, seed=8, options=CONTROLNET | {"small": True}
    ),
    "t2i-palette-small": Recipe(
        structure, 2100, 32, 1e-3, seed=9, options=T2I_PALETTE | {"small": True}
    ),
    "base": Recipe(train_base, 12_600, 32, 7e-4, seed=14, start_from="unet"),
    "words": Recipe(train_words, 6000, 64, 1e-3, seed=41),
    "solids": Recipe(train_solids, 900, 10, 3e-4, seed=43),
    "image-adapter": Recipe(image_adapter, 2500, 32, 1e-3),
    # made to come close to a picture, its layout too
    "image-adapter-plus": Recipe(
        image_adapter, 2000, 32, 1e-3, seed=11, options={"variant": "plus", "own_pictures": True}
    ),
    "light": Recipe(train_light, 300, 16, 1e-3, seed=58),
    "controlnet": Recipe(
        structure, 1600, 16, 1e-3, seed=4, options=CONTROLNET, start_from="controlnet-canny"
    ),
    "t2i-palette": Recipe(
        structure, 1200, 16, 1e-3, seed=5, options=T2I_PALETTE, start_from="t2i-palette"
    ),
    "t2i-canny": Recipe(structure, 1600, 16, 1e-3, seed=13, options=T2I_CANNY),
    "t2i-inpaint": Recipe(train_inpaint, 4000, 16, 1e-3, seed=17, start_from="t2i-palette"),
    "finishes": Recipe(train_finishes, 2400, 16, 3e-4, seed=81),
    "vae-decoder": Recipe(train_decoder, 500, 8, 4e-4, seed=61),
    "few-step": Recipe(few_step, 3000, 16, 6e-4, seed=31),
    "few-step-own": Recipe(
        few_step, 500, 16, 2e-4, seed=32, options={"warmup": 10, "ema": 0.98}, start_from=FEW_STEP
    ),
    "attribute-classifier": Recipe(train_attribute_classifier, 2500, 64, 2e-3),
}


def train(
    part: str,
    runs: Path,
    out: Path,
    *,
    steps: int | None = None,
    batch: int | None = None,
    device: str = "cpu",
    pictures: int = PICTURES,
    preview_every: int = 1000,
    **fields: object,
) -> dict:
    """Train one part, resuming `runs/part` if it was interrupted; write its weights under `out` and
    its provenance into `out/provenance.json`. `fields` are those of a config, for parts that are
    trained beside a frozen base."""
    recipe = RECIPES[part]
    out.mkdir(parents=True, exist_ok=True)
    run = Run(
        folder=runs / part,
        steps=recipe.steps if steps is None else steps,
        batch=batch or recipe.batch,
        lr=recipe.lr,
        seed=recipe.seed,
        device=device,
        preview_every=preview_every,
    )
    training = rendered_pictures(runs / "data", pictures)
    held_out = rendered_pictures(runs / "data", min(HELD_OUT, pictures), HELD_OUT_SEED)
    options = dict(recipe.options or {})
    if recipe.start_from is not None:
        options["start"] = out / recipe.start_from
    provenance = recipe.train(run, training, held_out, out, **options, **fields)
    _forget_origins(out)
    (out / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
    command = f"python -m ipadapter_demo train {part} --steps {run.steps}"
    record(
        out,
        part,
        {
            "command": command,
            "batch": run.batch,
            "lr": run.lr,
            "seed": run.seed,
            "device": device,
            "pictures": len(training),
        }
        | provenance,
    )
    return provenance


def _forget_origins(out: Path) -> None:
    """diffusers writes into a config which folder of this machine the network came from."""
    for path in out.glob("*/config.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n")


def record(out: Path, part: str, provenance: dict) -> None:
    """Put the provenance of a finished part, and the hashes of all weights, into the provenance
    file, atomically."""
    path = out / "provenance.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[part] = provenance
    write_file(path, (json.dumps(known, indent=2) + "\n").encode())
    record_hashes(out)
