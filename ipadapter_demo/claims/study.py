"""Training a method, and drawing with it: the same for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ipadapter_demo.claims.lab import SIDE, Exam, Lab
from ipadapter_demo.claims.methods import Method
from ipadapter_demo.tabletop.caption import POOR
from ipadapter_demo.training.image_adapter import DROP
from ipadapter_demo.training.latents import Noiser, captions, sample_latents
from ipadapter_demo.training.loop import Run, fit

BATCH, STEPS, MARKS_EVERY = 32, 800, 200
MARKS_SCENES = 96  # of the exams on the way
_AT_ONCE = 32  # pictures drawn together


def run_folder(lab: Lab, method: Method, seed: int, pictures: int) -> Path:
    name = method.name.replace(",", "").replace(" ", "-").lower()
    return lab.runs / f"{name}-{pictures}-{seed}"


def trained(lab: Lab, build: Callable[[Lab], Method], seed: int,
            pictures: int | None = None) -> Method:
    """A method after STEPS of BATCH on the first `pictures`, resuming where it was interrupted.

    The recipe is the image adapter's: poor captions, the image dropped 5 %, the text 5 %, both
    5 % of the time. Every MARKS_EVERY steps the averaged weights sit an exam; see `marks_of`.
    """
    torch.manual_seed(seed)
    method = build(lab)
    count = pictures or len(lab.pictures)
    noiser = Noiser("cpu")

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        indices = torch.randint(count, (batch,), generator=generator)
        draw = torch.rand(batch, generator=generator)
        no_image = (draw < DROP) | (draw > 1 - DROP)
        no_text = (draw >= DROP) & (draw < 2 * DROP) | (draw > 1 - DROP)
        texts = captions(lab.pictures, indices, POOR, generator)
        texts = ["" if drop else text for text, drop in zip(texts, no_text.tolist(), strict=True)]
        given = lab.read(method.reads, lab.pictures.pixels(indices), generator)
        given[no_image] = lab.nothing(method.reads, 1)
        noisy, noise, timesteps = noiser.noised(lab.latents[indices], generator)
        states = lab.frozen.text_states(texts, "cpu")
        predicted = method.unet(noisy, timesteps,
                                **method.arguments(given, states, noisy, timesteps, 1.0)).sample
        return (predicted.float() - noise).square().mean()

    folder = run_folder(lab, method, seed, count)
    run = Run(folder=folder, steps=STEPS, batch=BATCH, lr=method.lr, seed=100 + seed,
              preview_every=MARKS_EVERY)

    def preview(path: Path) -> None:
        exam = Exam.of(lab, MARKS_SCENES)
        marks = exam.marks(lab, variations(lab, method, exam, seed))
        step = int(path.stem.removeprefix("preview-"))
        (folder / f"marks-{step:06d}.json").write_text(json.dumps(marks))

    fit(run, method.trained, loss_of, preview)
    method.trained.eval()
    return method


def marks_of(folder: Path) -> dict[int, dict[str, float]]:
    """What `trained` noted on the way, by step."""
    return {int(path.stem.removeprefix("marks-")): json.loads(path.read_text())
            for path in sorted(folder.glob("marks-*.json"))}


def variations(lab: Lab, method: Method, exam: Exam, seed: int) -> Tensor:
    """A picture of each of the exam's references: no words, λ = 1."""
    return drawn(lab, method, exam.references, [""] * len(exam.references), 1.0, seed)


@torch.no_grad()
def drawn(lab: Lab, method: Method, references: Tensor, texts: Sequence[str], scale: float,
          seed: int) -> Tensor:
    """Pictures (N, 3, 64, 64), guided, one of each reference and text."""
    parts = []
    generator = torch.Generator().manual_seed(seed)
    for rows in torch.arange(len(references)).split(_AT_ONCE):
        given = lab.read(method.reads, references[rows], generator)
        given = torch.cat([given, lab.nothing(method.reads, len(rows))])
        states = lab.frozen.text_states([texts[i] for i in rows] + [""] * len(rows), "cpu")

        def arguments(noisy: Tensor, t: Tensor, given: Tensor = given,
                      states: Tensor = states) -> dict:
            return method.arguments(given, states, noisy, t, scale)

        noise = torch.randn(len(rows), 4, SIDE, SIDE, generator=generator)
        parts.append(lab.frozen.pixels(sample_latents(method.unet, noise, arguments)))
    return torch.cat(parts)
