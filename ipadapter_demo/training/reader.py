"""Attribute reader recipe: cross-entropy on rendered truth, hardened against soft pictures.

Generated pictures are softer than rendered ones, so pictures are blurred, noised and shifted in
brightness at random: the reader must not mistake softness for a missing texture.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur
from torchvision.utils import save_image

from ipadapter_demo.evaluation.reader import AttributeReader, truth_of_scenes
from ipadapter_demo.training.data import Pictures
from ipadapter_demo.training.loop import Run, fit


def train_reader(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Train and write `out/reader.safetensors`."""
    torch.manual_seed(run.seed)
    reader = AttributeReader().to(run.device)
    truth, exists = truth_of_scenes(pictures.scenes)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        indices = torch.randint(len(pictures), (batch,), generator=generator)
        pixels = _softened(pictures.pixels(indices), generator).to(run.device)
        logits = reader(pixels.contiguous(memory_format=torch.channels_last))
        losses = []
        for name, scores in logits.items():
            keep = exists[name][indices].to(run.device)
            wrong = F.cross_entropy(scores.float(), truth[name][indices].to(run.device),
                                    reduction="none")
            losses.append((wrong * keep).sum() / keep.sum().clamp(min=1))
        return torch.stack(losses).mean()

    def preview(path: Path) -> None:
        print(path.stem, accuracy(reader, held_out, 1024), flush=True)
        pixels = _softened(held_out.pixels(torch.arange(16)), torch.Generator().manual_seed(0))
        save_image(pixels, path, nrow=8, normalize=True)

    outcome = fit(run, reader, loss_of, preview)
    save_file({n: t.half().contiguous() for n, t in reader.state_dict().items()},
              out / "reader.safetensors")
    return asdict(outcome) | {"held_out_accuracy": accuracy(reader, held_out, len(held_out))}


@torch.no_grad()
def accuracy(reader: AttributeReader, held_out: Pictures, count: int) -> dict[str, float]:
    device = next(reader.parameters()).device
    truth, exists = truth_of_scenes(held_out.scenes)
    right: dict[str, list[Tensor]] = {name: [] for name in truth}
    for indices in torch.arange(min(count, len(held_out))).split(64):
        for name, scores in reader(held_out.pixels(indices).to(device)).items():
            hit = scores.argmax(1).cpu() == truth[name][indices]
            right[name].append(hit[exists[name][indices]])
    return {name: round(torch.cat(hits).float().mean().item(), 4) for name, hits in right.items()}


def _softened(pixels: Tensor, generator: torch.Generator) -> Tensor:
    draw = torch.rand(3, generator=generator).tolist()
    if draw[0] < 0.5:
        pixels = gaussian_blur(pixels, [5, 5], [0.3 + 1.0 * draw[1]] * 2)
    noise = torch.randn(pixels.shape, generator=generator)
    return (pixels * (0.9 + 0.2 * draw[2]) + 0.04 * noise).clamp(-1, 1)
