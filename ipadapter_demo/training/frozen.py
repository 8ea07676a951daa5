"""Training beside a frozen base, all that such trainings share: shards in, noise on latents, the
base's own objective, what was learnt out.

A `Task` is what differs: what learns, what it gives to the UNet, what a preview asks for and what
is written at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.text import TextStates
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.training.bases import frozen_base
from ipadapter_demo.training.cache import broken_in, encoded, without_pictures
from ipadapter_demo.training.checkpoints import last_checkpoint
from ipadapter_demo.training.config import TrainingConfig, plain
from ipadapter_demo.training.examples import Example, Preparer
from ipadapter_demo.training.feed import Batch, ShardFeed
from ipadapter_demo.training.held_out import HeldOut
from ipadapter_demo.training.loop import Look, Run, accelerator_of, fit
from ipadapter_demo.training.noise import Diffusion
from ipadapter_demo.training.shards import shards_of


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What a batch tells the UNet."""

    texts: Sequence[str]
    unconditional: Sequence[bool]  # samples that lost everything, as the half without guidance
    # (noisy latents, time steps, text states, what SDXL wants besides) -> what the UNet takes
    # besides the first two and the last
    arguments: Callable[[Tensor, Tensor, Tensor, dict[str, Tensor] | None], dict[str, Any]]


class Task(Protocol):
    """What a training beside a frozen base is about."""

    @property
    def trained(self) -> nn.Module:
        """All that learns."""
        ...

    @property
    def preparer(self) -> Preparer: ...

    @property
    def drawing(self) -> BaseModel:
        """The base with `trained` in its place."""
        ...

    def embeds(self, examples: Sequence[Example]) -> Tensor | None:
        """What the image encoder says of them, if it is asked."""
        ...

    def given(self, batch: Batch) -> Given: ...

    def request(self, image: Image.Image, caption: str) -> GenerateRequest:
        """What a preview asks for, with a held-out picture in hand."""
        ...

    def save(self, folder: Path, card: dict[str, Any]) -> list[Path]:
        """Write what was learnt, with its facts beside it."""
        ...


def train(config: TrainingConfig, task_on: Callable[[BaseModel], Task],
          look: Look | None = None) -> dict[str, Any]:
    """Train what `task_on` makes of the base and write it into `config.out`. Returns the facts.

    `look` takes the place of a look at held-out pictures. Raises TrainingError, ModelError or
    CheckpointError.
    """
    left = last_checkpoint(config.run)
    if left is not None and not config.resume:
        raise TrainingError(f"run: {config.run} holds a run at {left.name}; go on with --resume, "
                            "or name another folder")
    run = run_of(config)
    accelerator = accelerator_of(run)
    torch.manual_seed(config.seed)
    device = str(accelerator.device)
    base = frozen_base(config, device, accelerator.mixed_precision)
    task = task_on(base)
    task.trained.requires_grad_(True).to(accelerator.device)
    objective = Objective(config, base, task)
    shards = shards_of(config.data)
    if config.cache is not None:
        shards = encoded(shards, config.cache, _identity(config, base, task), task.preparer,
                         accelerator.autocast()(objective.encoded), accelerator)
    side = config.size // base.codec.factor
    held_out = HeldOut.of(config, task.preparer) if config.held_out else None

    def usual(path: Path) -> dict[str, float] | None:
        return held_out.look(path, task, objective) if held_out else None

    outcome = fit(
        run, task.trained, objective.loss, look or usual, accelerator=accelerator,
        feed=lambda state: ShardFeed(config, accelerator, shards, task.preparer,
                                     (base.codec.channels, side, side), state),
    )
    facts = asdict(outcome) | {
        "parameters": sum(p.numel() for p in task.trained.parameters()),
        "processes": accelerator.num_processes, "precision": accelerator.mixed_precision,
        "device": device.split(":")[0], "config": plain(config),
    }
    if accelerator.is_main_process:
        config.out.mkdir(parents=True, exist_ok=True)
        task.trained.eval()
        facts["broken_rows"] = broken_in(shards) + _broken(config.run)
        facts["files"] = [path.name for path in task.save(config.out, facts)]
        (config.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return facts


class Objective:
    """The loss of a batch: the base's own objective, given what the task gives."""

    def __init__(self, config: TrainingConfig, base: BaseModel, task: Task) -> None:
        self.config, self.base, self.task = config, base, task
        self.diffusion = Diffusion(base.scheduler_config, base.device)

    def loss(self, batch: Batch) -> Tensor:
        config, base = self.config, self.base
        latents = self.latents(batch.examples)
        noise = batch.draws.noise.to(latents)
        if config.noise_offset:
            noise = noise + config.noise_offset * batch.draws.offset.to(latents)
        timesteps = self.diffusion.timesteps(batch.draws.time, config.timesteps)
        noisy = self.diffusion.noisy(latents, noise, timesteps)
        given = self.task.given(batch)
        text = base.text.read_all(given.texts, given.unconditional)
        added = _sizes(batch.examples, text, config.size)
        arguments = given.arguments(noisy, timesteps, text.states, added)
        noisy = noisy.to(base.dtype, memory_format=torch.channels_last)
        unet = self.task.drawing.unet
        predicted = unet(noisy, timesteps, added_cond_kwargs=added, **arguments).sample
        return self.diffusion.loss(predicted, self.diffusion.target(latents, noise, timesteps),
                                   timesteps, config.min_snr, config.truncated_snr)

    @torch.no_grad()
    def latents(self, examples: Sequence[Example]) -> Tensor:
        """(B, C, h, w) in float32, encoded unless they were."""
        if examples[0].latents is not None:
            # in float32 before they are stacked: autocast on a CPU refuses to see halves
            kept = [e.latents.float() for e in examples if e.latents is not None]
            return torch.stack(kept).to(self.base.device)
        pixels = torch.stack([e.pixels for e in examples if e.pixels is not None]) / 127.5 - 1
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        kind = self.base.device.type
        half = torch.get_autocast_dtype(kind)  # never fp16, in which SDXL's overflows
        with torch.autocast(kind, half, enabled=torch.is_autocast_enabled(kind)
                            and half != torch.float16):
            return self.base.codec.latents_from_pixels(pixels).float()

    def encoded(self, examples: Sequence[Example]) -> list[Example]:
        """What a cache keeps of them."""
        embeds = self.task.embeds(examples)
        return [without_pictures(example, latents, None if embeds is None else embeds[i])
                for i, (example, latents) in
                enumerate(zip(examples, self.latents(examples), strict=True))]


def run_of(config: TrainingConfig) -> Run:
    """The loop's half of a config."""
    same = ("steps", "batch", "accumulate", "lr", "weight_decay", "warmup", "ema", "clip_grad",
            "adam_8bit", "precision", "seed", "device", "log_every", "save_every", "preview_every")
    return Run(folder=config.run, final_lr=0.05 if config.lr_schedule == "cosine" else 1.0,
               betas=(0.9, 0.999), **{name: getattr(config, name) for name in same})


def _sizes(examples: Sequence[Example], text: TextStates,
           size: int) -> dict[str, Tensor] | None:
    """SDXL's size conditioning (arXiv 2307.01952, section 2.2): original size, crop, target."""
    if text.pooled is None:
        return None
    times = torch.tensor([[*e.original, *e.crop, size, size] for e in examples])
    return {"text_embeds": text.pooled, "time_ids": times.to(text.pooled)}


def _broken(run: Path) -> int:
    """How many broken rows a run met."""
    path = last_checkpoint(run)
    assert path is not None, "a run ends with a checkpoint"
    return json.loads((path / "progress.json").read_text())["feed"]["broken"]


def _identity(config: TrainingConfig, base: BaseModel, task: Task) -> str:
    """What decides the encoded pictures: the weights that encode, the size, the map."""
    tell = {"size": config.size, "annotator": task.preparer.annotator,
            "reads": getattr(config, "variant", None)}
    for name, network in (("vae", base.codec.vae), ("encoder", base.vision)):
        if network is not None:
            tell[name] = _fingerprint(network)
    return json.dumps(tell, sort_keys=True)


def _fingerprint(network: nn.Module) -> str:
    """Of the sums of its weights, which differ where weights do."""
    sums = [float(p.detach().double().sum()) for p in network.parameters()]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()[:16]

