"""Inpainting recipe: a T2I-Adapter that reads what is left of a picture around a hole.

A base that never met a hole learns of the rest of the picture through its noise alone. Where that
is strongest, places, sizes and tints are settled, blind to the rest, and later steps can only make
the best of it. This network tells the base in every step, guided or not. It is trained on what it
is for: one solid of a scene is masked, with its shadow or without, and the image adapter, given
such a solid from a scene of another floor, wall and light, acts inside the mask alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import T2IAdapter
from torch import Tensor

from ipadapter_demo.adapter import ImagePrompt, attach, load_image_adapter
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.structure import T2IAdapterStructure, around_hole
from ipadapter_demo.training.base_models import frozen_base
from ipadapter_demo.training.checkpoints import State
from ipadapter_demo.training.config import ImageAdapterConfig
from ipadapter_demo.training.data.batch_source import Batch
from ipadapter_demo.training.data.examples import Example, Preparer
from ipadapter_demo.training.loop import SeededBatchSource, fit
from ipadapter_demo.training.noise import SampleNoise
from ipadapter_demo.training.objective import Conditions, Objective
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.base import MIN_SNR_GAMMA, MOST_WEIGHT
from ipadapter_demo.training.tabletop.holes import masked_pictures
from ipadapter_demo.training.tabletop.latents import image_embeds, scaled_latents
from ipadapter_demo.training.tabletop.pictures import SIZE, Pictures

_ROUNDS = 8  # of a batch, of which the held-out loss is the mean


class InpaintTask:
    """The network that reads around a hole, beside a frozen base and its image adapter."""

    reads = None  # the batch has its embeddings

    def __init__(self, base: BaseModel, adapter: Path, start: Path) -> None:
        self.base = self.drawing = base
        self.adapter = load_image_adapter(adapter).float().to(base.device).requires_grad_(False)
        attach(base.unet, self.adapter)
        self.trained = new_network(start).to(base.device)
        self.structure = T2IAdapterStructure(self.trained, channels=(4,))
        self.preparer = Preparer(SIZE)

    def embeds(self, examples: Sequence[Example]) -> None:
        return None

    def conditions(self, batch: Batch) -> Conditions:
        hole = batch.stacked("hole").to(self.base.device)
        pixels = batch.stacked("pixels").to(self.base.device) / 255
        control = self.structure.read(around_hole(pixels, hole))
        with torch.no_grad():
            embeds = batch.stacked("embeds").to(self.base.device)
            tokens = self.adapter.tokens_from_embeds(embeds)
        prompt = ImagePrompt(rows=slice(None), tokens=tokens, scale=1.0, mask=hole)

        def arguments(
            noisy: Tensor, timesteps: Tensor, text: Tensor, added: dict[str, Tensor] | None
        ) -> dict[str, object]:
            return {
                "encoder_hidden_states": text,
                "cross_attention_kwargs": {"ip_hidden_states": (prompt,)},
            } | control(noisy, timesteps, text, 1.0, added).unet_arguments()

        inside = F.adaptive_max_pool2d(hole, batch.sample_noise.noise.shape[-2:])
        weight = (inside / inside.mean(dim=(1, 2, 3), keepdim=True)).sqrt()
        texts = [example.caption for example in batch.examples]
        return Conditions(texts, [False] * len(texts), arguments, weight)

    def save(self, folder: Path, card: Mapping[str, object]) -> list[Path]:
        """A folder that diffusers' own class loads."""
        self.trained.half().save_pretrained(folder)
        return [folder / "config.json", folder / "diffusion_pytorch_model.safetensors"]


@dataclass(frozen=True, slots=True, eq=False)
class MaskedPictures:
    """Pictures to cut holes into, with what the frozen encoders say of each."""

    pictures: Pictures
    latents: Tensor  # (N, C, h, w)
    embeds: Tensor  # (N, K)

    @classmethod
    def of(cls, pictures: Pictures, base: BaseModel, cache: Path) -> MaskedPictures:
        return cls(
            pictures,
            scaled_latents(base.vae.autoencoder, pictures, cache),
            image_embeds(base.image_encoder, pictures),
        )

    def batch(self, generator: torch.Generator, count: int) -> Batch:
        """`count` pictures with a hole each. Where no picture says what was in it, the embedding is
        zero, as in the image adapter's own training."""
        masked = masked_pictures(self.pictures.scenes, count, generator)
        embeds = self.embeds[masked.others] * masked.by_picture[:, None]
        examples = [
            Example(
                text,
                (SIZE, SIZE),
                (0, 0),
                pixels=torch.from_numpy(self.pictures.images[index]),
                latents=self.latents[index],
                embeds=embeds[number],
                hole=masked.hole[number],
            )
            for number, (index, text) in enumerate(
                zip(masked.indices.tolist(), masked.texts, strict=True)
            )
        ]
        shape = self.latents.shape[1:]
        noise = torch.randn(count, *shape, generator=generator)
        time = torch.rand(count, generator=generator)
        unused = torch.zeros(count)  # conditions are dropped above, by what says what was there
        return Batch(examples, SampleNoise(noise, time, unused, unused.view(-1, 1, 1, 1), unused))


@dataclass(frozen=True, slots=True, eq=False)
class MaskedBatchSource:
    """Batches of masked pictures, drawn from the number of the step alone."""

    run: Run
    masked: MaskedPictures

    def take(self, step: int) -> list[tuple[Batch]]:
        return [(self.masked.batch(*drawn),) for drawn in SeededBatchSource(self.run).take(step)]

    def state(self) -> State:
        return {}


def train_inpaint(run: Run, pictures: Pictures, held_out: Pictures, out: Path, start: Path) -> dict:
    """Train beside `out/unet` and its image adapter, and write `out/t2i-inpaint`. `start` is a
    T2I-Adapter of colours to go on from."""
    config = ImageAdapterConfig(
        data=("rendered",),
        run=run.folder,
        out=out,
        base=str(out),
        size=SIZE,
        min_snr=MIN_SNR_GAMMA,
        truncated_snr=MOST_WEIGHT,
    )
    base = frozen_base(config, run.device, "no")
    task = InpaintTask(base, out / TABLETOP.adapters["base"], start)
    objective = Objective(config, base, task)
    cache = run.folder.parent / "cache"
    unseen = MaskedPictures.of(held_out, base, cache)

    def held_out_loss(path: Path) -> dict[str, float]:
        """The same holes and noise every time."""
        generator = torch.Generator().manual_seed(0)
        losses = [float(objective.loss(unseen.batch(generator, run.batch))) for _ in range(_ROUNDS)]
        return {"held_out_loss": sum(losses) / _ROUNDS}

    source = MaskedBatchSource(run, MaskedPictures.of(pictures, base, cache))
    outcome = fit(
        run, task.trained, objective.loss, held_out_loss, batches_from=lambda state: source
    )
    task.save(out / "t2i-inpaint", {})
    return asdict(outcome) | {"parameters": sum(p.numel() for p in task.trained.parameters())}


def new_network(start: Path) -> T2IAdapter:
    """That of `start`, with a fourth channel, of the hole, to which it is deaf at first."""
    known = T2IAdapter.from_pretrained(start).float()
    shape = {name: value for name, value in known.config.items() if not name.startswith("_")}
    net = T2IAdapter(**shape | {"in_channels": 4})  # without the name of the folder it came from
    name = "adapter.conv_in.weight"
    weights = known.state_dict()
    more = net.state_dict()[name].shape[1] - weights[name].shape[1]
    weights[name] = F.pad(weights[name], (0, 0, 0, 0, 0, more))
    net.load_state_dict(weights)
    return net
