"""Training a method, and drawing with it: the same for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ipadapter_demo.claims.methods import Method
from ipadapter_demo.claims.testbed import SIDE, EvalSet, Testbed
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.training.card import Provenance
from ipadapter_demo.training.config import ImageAdapterConfig
from ipadapter_demo.training.data.batch_source import Batch
from ipadapter_demo.training.data.examples import Example, Preparer
from ipadapter_demo.training.finetune import train
from ipadapter_demo.training.image_adapter import lost
from ipadapter_demo.training.objective import Conditions
from ipadapter_demo.training.tabletop.adapters import config_of
from ipadapter_demo.training.tabletop.latents import sample_latents

BATCH, STEPS, METRICS_EVERY = 32, 800, 200
METRICS_SCENES = 96  # of the evaluations on the way
_AT_ONCE = 32  # pictures drawn together


def run_folder(testbed: Testbed, method: Method, seed: int, pictures: int) -> Path:
    name = method.name.replace(",", "").replace(" ", "-").lower()
    return testbed.runs / f"{name}-{method.lr:g}-{pictures}-{seed}"


class MethodTask:
    """A method as the trainer wants it: like the image adapter's task, but for what is read of the
    picture and how it reaches the UNet."""

    def __init__(
        self, config: ImageAdapterConfig, testbed: Testbed, method: Method, base: BaseModel
    ) -> None:
        self.config, self.testbed, self.method = config, testbed, method
        self.trained, self.reads = method.trained, config.variant
        self.drawing = replace(base, unet=method.unet)
        self.preparer = Preparer(
            config.size, base.image_processor, own_pictures=config.own_pictures
        )

    def embeds(self, examples: Sequence[Example]) -> Tensor:
        seen = torch.stack([e.clip_pixels for e in examples if e.clip_pixels is not None])
        return self.testbed.read_by_encoder(self.method.reads, seen)

    def conditions(self, batch: Batch) -> Conditions:
        method, testbed = self.method, self.testbed
        no_image, no_text = lost(self.config, batch.sample_noise.drop)
        if method.reads == "shuffled":
            pixels = batch.stacked("pixels") / 127.5 - 1
            # a shuffle of its own for every sample, as everything else by chance
            read = torch.cat(
                [
                    testbed.read(
                        "shuffled", pixels[i : i + 1], torch.Generator().manual_seed(int(key))
                    )
                    for i, key in enumerate((batch.sample_noise.drop.double() * 2**24).long())
                ]
            )
        else:
            read = batch.stacked("embeds")
        read[no_image] = testbed.nothing(method.reads, 1)
        texts = batch.captions(lost=no_text)

        def arguments(
            noisy: Tensor, timesteps: Tensor, text: Tensor, added: dict[str, Tensor] | None
        ) -> dict[str, object]:
            return method.arguments(read, text, noisy, timesteps, 1.0)

        return Conditions(texts, [False] * len(texts), arguments)

    def save(self, folder: Path, card: Provenance) -> list[Path]:
        return []  # the checkpoint is all that a study needs


def trained(
    testbed: Testbed, build: Callable[[Testbed], Method], seed: int, pictures: int | None = None
) -> Method:
    """A method after its STEPS of BATCH on the first `pictures`, resuming where it was interrupted.

    By the trainer, with the settings of the image adapter's own recipe. Every METRICS_EVERY steps
    the EMA weights are evaluated; see `metrics_of`.
    """
    torch.manual_seed(seed)
    method = build(testbed)
    count = pictures or len(testbed.pictures)
    folder = run_folder(testbed, method, seed, count)
    config = recipe(testbed, method, folder, seed, count)

    def evaluate(path: Path) -> dict[str, float]:
        eval_set = EvalSet.of(testbed, METRICS_SCENES)
        metrics = eval_set.metrics(testbed, variations(testbed, method, eval_set, seed))
        step = int(path.stem.removeprefix("preview-"))
        (folder / f"metrics-{step:06d}.json").write_text(json.dumps(metrics))
        return metrics

    train(config, lambda base: MethodTask(config, testbed, method, base), lambda *_: evaluate)
    method.trained.eval()
    return method


def recipe(
    testbed: Testbed, method: Method, folder: Path, seed: int, count: int
) -> ImageAdapterConfig:
    """The tabletop adapter's, at half size, but every method is shown the very picture, as in the
    paper. What a shuffle reads cannot be encoded beforehand."""
    more = {"cache": None} if method.reads == "shuffled" else {}
    return config_of(
        ImageAdapterConfig,
        folder,
        testbed.pictures[:count],
        base=str(testbed.base),
        size=4 * SIDE,
        batch=BATCH,
        steps=STEPS,
        lr=method.lr,
        seed=100 + seed,
        preview_every=METRICS_EVERY,
        variant="plus" if method.reads == "patches" else "base",
        own_pictures=True,
        device="cpu",
        **more,
    )


def metrics_of(folder: Path) -> dict[int, dict[str, float]]:
    """The metrics that `trained` wrote on the way, by step."""
    return {
        int(path.stem.removeprefix("metrics-")): json.loads(path.read_text())
        for path in sorted(folder.glob("metrics-*.json"))
    }


def variations(testbed: Testbed, method: Method, eval_set: EvalSet, seed: int) -> Tensor:
    """A picture of each of an evaluation set's references: no words, λ = 1."""
    return drawn(testbed, method, eval_set.references, [""] * len(eval_set.references), 1.0, seed)


@torch.no_grad()
def drawn(
    testbed: Testbed,
    method: Method,
    references: Tensor,
    texts: Sequence[str],
    scale: float,
    seed: int,
) -> Tensor:
    """Pictures (N, 3, 64, 64), guided, one of each reference and text."""
    parts = []
    generator = torch.Generator().manual_seed(seed)
    for rows in torch.arange(len(references)).split(_AT_ONCE):
        inputs = testbed.read(method.reads, references[rows], generator)
        inputs = torch.cat([testbed.nothing(method.reads, len(rows)), inputs])
        states = testbed.frozen.text_states([""] * len(rows) + [texts[i] for i in rows], "cpu")

        def arguments(
            noisy: Tensor, t: Tensor, inputs: Tensor = inputs, states: Tensor = states
        ) -> dict:
            return method.arguments(inputs, states, noisy, t, scale)

        noise = torch.randn(len(rows), 4, SIDE, SIDE, generator=generator)
        parts.append(testbed.frozen.pixels(sample_latents(method.unet, noise, arguments)))
    return torch.cat(parts)
