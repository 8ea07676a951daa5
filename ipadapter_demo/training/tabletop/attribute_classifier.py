"""Attribute classifier recipe: rendered truth, hardened against soft pictures.

Cross-entropy for attributes; for hues and places the distance between points.

Generated pictures are softer than rendered ones, so pictures are blurred, noised and shifted in
brightness at random: the classifier must not mistake softness for a missing texture.
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

from ipadapter_demo.evaluation.attribute_classifier import (
    ATTRIBUTES,
    HUES,
    PLACES,
    AttributeClassifier,
    degrees,
    hue_error,
    measures_of_scenes,
    truth_of_scenes,
)
from ipadapter_demo.training.loop import fit
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.appearance import circle
from ipadapter_demo.training.tabletop.pictures import Pictures


def train_attribute_classifier(run: Run, pictures: Pictures, held_out: Pictures, out: Path) -> dict:
    """Train and write `out/attribute_classifier.safetensors`."""
    torch.manual_seed(run.seed)
    classifier = AttributeClassifier().to(run.device)
    truth, exists = truth_of_scenes(pictures.scenes)
    points, there = measures_of_scenes(pictures.scenes)
    points |= {name: circle(points[name]) for name in HUES}
    exists |= there

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        indices = torch.randint(len(pictures), (batch,), generator=generator)
        pixels = _softened(pictures.pixels(indices), generator).to(run.device)
        outputs = classifier(pixels.contiguous(memory_format=torch.channels_last))
        losses = []
        for name, output in outputs.items():
            keep = exists[name][indices].to(run.device)
            if name in ATTRIBUTES:
                wrong = F.cross_entropy(
                    output.float(), truth[name][indices].to(run.device), reduction="none"
                )
            else:
                off = output.float() - points[name][indices].to(run.device)
                wrong = F.smooth_l1_loss(
                    off, torch.zeros_like(off), beta=0.1, reduction="none"
                ).sum(1)
            losses.append((wrong * keep).sum() / keep.sum().clamp(min=1))
        return torch.stack(losses).mean()

    def preview(path: Path) -> None:
        print(path.stem, measured(classifier, held_out, 1024), flush=True)
        pixels = _softened(
            held_out.pixels(torch.arange(len(held_out))[:16]), torch.Generator().manual_seed(0)
        )
        save_image(pixels, path, nrow=8, normalize=True)

    outcome = fit(run, classifier, loss_of, preview)
    save_file(
        {n: t.half().contiguous() for n, t in classifier.state_dict().items()},
        out / "attribute_classifier.safetensors",
    )
    return asdict(outcome) | measured(classifier, held_out, len(held_out))


@torch.no_grad()
def measured(
    classifier: AttributeClassifier, held_out: Pictures, count: int
) -> dict[str, dict[str, float]]:
    """Held-out share right of every attribute; median error of hues in degrees, and of places in
    widths of the picture."""
    device = next(classifier.parameters()).device
    count = min(count, len(held_out))
    parts = [
        classifier(held_out.pixels(indices).to(device)) for indices in torch.arange(count).split(64)
    ]
    outputs = {name: torch.cat([part[name] for part in parts]).float().cpu() for name in parts[0]}
    truth, exists = truth_of_scenes(held_out.scenes[:count])
    points, there = measures_of_scenes(held_out.scenes[:count])
    right = {
        name: (outputs[name].argmax(1) == truth[name])[exists[name]].float().mean()
        for name in truth
    }
    off = {name: hue_error(degrees(outputs[name]), points[name]) for name in HUES}
    off |= {name: (outputs[name] - points[name]).norm(dim=1) / 2 for name in PLACES}
    return {
        "held_out_accuracy": {name: round(share.item(), 4) for name, share in right.items()},
        "held_out_median_error": {
            name: round(error[there[name]].median().item(), 4) for name, error in off.items()
        },
    }


def _softened(pixels: Tensor, generator: torch.Generator) -> Tensor:
    draw = torch.rand(3, generator=generator).tolist()
    if draw[0] < 0.5:
        pixels = gaussian_blur(pixels, [5, 5], [0.3 + 1.0 * draw[1]] * 2)
    noise = torch.randn(pixels.shape, generator=generator)
    return (pixels * (0.9 + 0.2 * draw[2]) + 0.04 * noise).clamp(-1, 1)
