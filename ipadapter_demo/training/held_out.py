"""Evaluation on held-out pictures: a preview of each, the loss, and CLIP scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.evaluation.contact_sheet import contact_sheet
from ipadapter_demo.evaluation.similarity import Clip, NamedClip
from ipadapter_demo.imaging import fit_square
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.training.config import TrainingConfig
from ipadapter_demo.training.data.batch_source import Batch
from ipadapter_demo.training.data.examples import Example, Preparer
from ipadapter_demo.training.data.shards import shards_of
from ipadapter_demo.training.data.types import Pair, opened
from ipadapter_demo.training.loop import EvalCallback
from ipadapter_demo.training.noise import SampleNoise
from ipadapter_demo.training.objective import Objective, Task

SEED = 2**20  # draws of held-out losses, apart from those of training
ROUNDS = 4  # of noise for each picture
COLUMNS = 8


class PreviewedTask(Task, Protocol):
    """A task whose results can be drawn."""

    def request(self, image: Image.Image, caption: str) -> GenerateRequest:
        """The request of a preview from a held-out picture."""
        ...


def held_out_callback(
    config: TrainingConfig,
) -> Callable[[PreviewedTask, Objective], EvalCallback]:
    """Evaluation on the held-out pictures of a config; none where it names none."""

    def callback_of(task: PreviewedTask, objective: Objective) -> EvalCallback:
        if not config.held_out:
            return lambda path: None
        held_out = HeldOut.of(config, task.preparer)
        return lambda path: held_out.evaluate(path, task, objective)

    return callback_of


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """The first readable pictures of the held-out shards."""

    config: TrainingConfig
    pairs: Sequence[Pair]
    examples: Sequence[Example]
    clip: Clip | None

    @classmethod
    def of(cls, config: TrainingConfig, preparer: Preparer) -> HeldOut:
        """Raises TrainingError where there are fewer than asked for."""
        pairs: list[Pair] = []
        for shard in shards_of(config.held_out, "held_out"):
            if (rows := opened(shard)) is None:
                continue
            for index in range(len(rows)):
                try:
                    row = rows[index]
                except Exception:  # broken, as in stream.py
                    continue
                assert isinstance(row, Pair)  # nothing is encoded yet
                pairs.append(row)
                if len(pairs) == config.held_out_count:
                    clip = None if config.clip is None else NamedClip(config.clip)
                    return cls(config, pairs, [preparer(pair) for pair in pairs], clip)
        raise TrainingError(
            f"held_out_count is {config.held_out_count}, but held_out has only "
            f"{len(pairs)} readable pictures"
        )

    def evaluate(self, path: Path, task: PreviewedTask, objective: Objective) -> dict[str, float]:
        """Draw a sheet at `path`, sources over what was made of them, and return the figures."""
        base = task.drawing
        half = base.dtype if base.dtype != torch.float32 else None
        # what learns is in float32 beside a base in half precision
        with torch.autocast(base.device.type, half, enabled=half is not None):
            return self._evaluate(path, task, objective, half)

    def _evaluate(
        self, path: Path, task: PreviewedTask, objective: Objective, half: torch.dtype | None
    ) -> dict[str, float]:
        task.trained.eval()
        pipeline = ImagePromptPipeline(task.drawing, autocast=half)
        sources = [fit_square(pair.image, self.config.size, "crop") for pair in self.pairs]
        size = self.config.size
        made = [
            pipeline.generate(
                replace(task.request(image, pair.caption), seed=number, width=size, height=size)
            ).images[0]
            for number, (image, pair) in enumerate(zip(sources, self.pairs, strict=True))
        ]
        _sheet(sources, made, size).save(path)
        figures = {
            "held_out_loss": self._loss(objective),
            **self._scores(task, pipeline, sources, made),
        }
        task.trained.train()
        return figures

    def _loss(self, objective: Objective) -> float:
        """The same noise every time: differences are the weights' alone."""
        losses = []
        for round_ in range(ROUNDS):
            for start in range(0, len(self.examples), self.config.batch):
                part = self.examples[start : start + self.config.batch]
                positions = [round_ * len(self.examples) + start + i for i in range(len(part))]
                batch = Batch(part, SampleNoise.at(SEED, positions, objective.latent_shape))
                losses += [float(objective.loss(batch))] * len(part)
        return sum(losses) / len(losses)

    def _scores(
        self,
        task: PreviewedTask,
        pipeline: ImagePromptPipeline,
        sources: Sequence[Image.Image],
        made: Sequence[Image.Image],
    ) -> dict[str, float]:
        """CLIP-I and CLIP-T as cosines; CLIP-T only where a CLIP model is named."""
        if self.clip is not None:
            ours, theirs = self.clip.of_images(made), self.clip.of_images(sources)
        elif task.drawing.vision is not None:
            ours, theirs = pipeline.image_embeds(made), pipeline.image_embeds(sources)
        else:
            return {}
        figures = {"clip_i": float((ours * theirs).sum(1).mean())}
        words = self.clip.of_texts([p.caption for p in self.pairs]) if self.clip else None
        captioned = torch.tensor([bool(pair.caption) for pair in self.pairs])
        if words is not None and captioned.any():
            figures["clip_t"] = float((ours * words).sum(1)[captioned].mean())
        return figures


def _sheet(above: Sequence[Image.Image], below: Sequence[Image.Image], side: int) -> Image.Image:
    columns = min(COLUMNS, len(above))
    firsts = range(0, len(above), columns)
    rows = [images[k : k + columns] for k in firsts for images in (above, below)]
    return contact_sheet(rows, side)
