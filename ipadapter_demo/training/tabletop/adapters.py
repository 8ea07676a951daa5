"""The tabletop model's adapters: the trainings that anybody's pictures get, on rendered shards."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from PIL import Image

from ipadapter_demo.assets import asset
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.tabletop.caption import POOR, RICH, CaptionStyle
from ipadapter_demo.tabletop.files import write_shards
from ipadapter_demo.tabletop.scene import HELD_OUT_SEED
from ipadapter_demo.training.card import LORA, Provenance
from ipadapter_demo.training.config import (
    FewStepConfig,
    ImageAdapterConfig,
    StructureConfig,
    TrainingConfig,
)
from ipadapter_demo.training.config_reading import config_from, values_from_file
from ipadapter_demo.training.few_step import train_few_step
from ipadapter_demo.training.image_adapter import NAME, train_image_adapter
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.structure import train_structure
from ipadapter_demo.training.tabletop.pictures import SIZE, TRAIN_SEED, Pictures

CONFIGS = asset("configs")
HELD_OUT_COUNT = 16
FEW_STEP = "lcm-lora.safetensors"
RANK = 18  # of the LoRA: a file below 3 MB

Kind = TypeVar("Kind", bound=TrainingConfig)


def image_adapter(
    run: Run,
    pictures: Pictures,
    held_out: Pictures,
    out: Path,
    variant: str = "base",
    **fields: object,
) -> dict[str, object]:
    """Train on `out/unet` and write the adapter's file into `out`."""
    config = config_of(
        ImageAdapterConfig,
        run.folder,
        pictures,
        held_out,
        **_of_recipe(run, out) | {"variant": variant} | fields,
    )
    provenance = train_image_adapter(config)
    shutil.copyfile(config.out / f"{NAME}.safetensors", out / TABLETOP.adapters[variant])
    return _provenance(provenance)


def structure(
    run: Run,
    pictures: Pictures,
    held_out: Pictures,
    out: Path,
    network: str,
    annotator: str,
    small: bool = False,
    start: Path | None = None,
) -> dict[str, object]:
    """Train a ControlNet or a T2I-Adapter: `out/controlnet-canny`, `out/t2i-palette`, ...
    `small` is the stage on pictures of half the size."""
    config = config_of(
        StructureConfig,
        run.folder,
        pictures,
        held_out,
        **_of_recipe(run, out, small),
        network=network,
        annotator=annotator,
        start=start,
        timesteps="cubic" if network == "t2i-adapter" else "uniform",
    )
    provenance = train_structure(config)
    folder = out / f"{network.removesuffix('-adapter')}-{annotator}"
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        shutil.copyfile(config.out / name, folder / name)
    return _provenance(provenance)


def few_step(
    run: Run, pictures: Pictures, held_out: Pictures, out: Path, **fields: object
) -> dict[str, object]:
    """Distil `out/unet`, under its first image adapter, into the file of a LoRA. Half of the
    captions leave much to the image prompt, half name almost everything."""
    half, data = len(pictures) // 2, run.folder.parent / "data"
    named = _shards(data, pictures[half:], TRAIN_SEED, RICH)
    config = config_of(
        FewStepConfig,
        run.folder,
        pictures[:half],
        held_out,
        **_of_recipe(run, out)
        | {
            "data": (
                str(_shards(data, pictures[:half], TRAIN_SEED) / "*.tar"),
                str(named / "*.tar"),
            ),
            "timesteps": "uniform",
            "truncated_snr": 0,
            "rank": RANK,
            "teacher_guidance": TABLETOP.recommended.guidance,
        }
        | fields,
    )
    provenance = train_few_step(config)
    shutil.copyfile(config.out / LORA, out / FEW_STEP)
    return _provenance(provenance)


def config_of(
    kind: type[Kind],
    folder: Path,
    pictures: Pictures,
    held_out: Pictures | None = None,
    **fields: object,
) -> Kind:
    """configs/tabletop.yaml for a run in `folder`, on these pictures; data and cache beside it."""
    data = folder.parent / "data"
    own: dict[str, object] = {
        "data": str(_shards(data, pictures, TRAIN_SEED) / "*.tar"),
        "held_out": (),
        "run": folder,
        "out": folder / "result",
        "cache": folder.parent / "cache",
        "resume": True,
    }
    if held_out is not None:
        own["held_out"] = str(_shards(data, held_out, HELD_OUT_SEED) / "*.tar")
        own["held_out_count"] = min(HELD_OUT_COUNT, len(held_out))
    return config_from(kind, values_from_file(CONFIGS / "tabletop.yaml") | own | fields)


def _of_recipe(run: Run, out: Path, small: bool = False) -> dict[str, object]:
    same = ("batch", "steps", "lr", "seed", "save_every", "preview_every", "log_every")
    return {name: getattr(run, name) for name in same} | {
        "base": str(out),
        "size": SIZE // 2 if small else SIZE,
        "device": "cpu" if run.device == "cpu" else "",
    }


def _shards(data: Path, pictures: Pictures, seed: int, style: CaptionStyle = POOR) -> Path:
    """The folder of shards of pictures that were rendered."""
    name = "shards" if style == POOR else "shards-named"
    folder = data / f"{name}-{seed}-{len(pictures)}"
    done = folder / "done"
    if not done.exists():
        write_shards(folder, pictures.scenes, _images(pictures), seed, style=style)
        done.touch()
    return folder


def _images(pictures: Pictures) -> Iterator[Image.Image]:
    for pixels in pictures.images:
        yield Image.fromarray(pixels.transpose(1, 2, 0))


def _provenance(provenance: Provenance) -> dict[str, object]:
    """The provenance without the config: the recipe says the rest, and folders are a run's own."""
    wanted = ("steps", "samples", "hours", "loss", "parameters")
    return {name: value for name, value in provenance.items() if name in wanted}
