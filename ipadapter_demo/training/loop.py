"""The one training loop: AdamW, EMA, bf16 autocast, resumable at any step, logged, previewed.

A step is a pure function of (weights, step number): the samples and the noise of step n come from a
generator seeded with n, so an interrupted run continues with the samples it would have seen.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

EMA_DECAY = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where a run lives and how long it lasts."""

    folder: Path
    steps: int
    batch: int
    lr: float
    weight_decay: float = 0.01
    warmup: int = 100
    final_lr: float = 0.05  # cosine decay to this fraction of lr
    seed: int = 0
    device: str = "cpu"
    log_every: int = 50
    save_every: int = 250
    preview_every: int = 1000  # 0: never

    def lr_at(self, step: int) -> float:
        rise = min(1.0, (step + 1) / self.warmup)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return self.lr * rise * (self.final_lr + (1 - self.final_lr) * fall)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Facts of a finished run, for the provenance file."""

    steps: int
    samples: int
    hours: float
    loss: float


LossOf = Callable[[torch.Generator, int], Tensor]


def fit(run: Run, model: nn.Module, loss_of: LossOf, preview: Callable[[Path], None]) -> Outcome:
    """Train `model` (its parameters that require gradients) and leave it with the averaged weights.

    `loss_of(generator, batch)` draws its samples and noise from `generator` and returns a scalar.
    `preview(path)` draws a sheet with the model as it is.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=run.lr, weight_decay=run.weight_decay, betas=(0.9, 0.99)
    )
    average = {n: p.detach().clone() for n, p in parameters.items()}
    step, seconds, smooth = _resume(run, parameters, average, optimiser)
    started = time.monotonic() - seconds
    while step < run.steps:
        for group in optimiser.param_groups:
            group["lr"] = run.lr_at(step)
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
        with torch.autocast(run.device, torch.bfloat16):
            loss = loss_of(generator, run.batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{run.folder.name}: loss is {loss.item()} at step {step}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
        step += 1
        _average(average, parameters, step)
        smooth = loss.item() if step == 1 else 0.98 * smooth + 0.02 * loss.item()
        if step % run.log_every == 0:
            seconds = time.monotonic() - started
            _log(run, step, smooth, seconds)
        if step % run.save_every == 0 or step == run.steps:
            seconds = time.monotonic() - started
            _save(run, step, seconds, smooth, parameters, average, optimiser)
        if run.preview_every and (step % run.preview_every == 0 or step == run.steps):
            with _averaged(parameters, average), torch.no_grad():
                preview(run.folder / f"preview-{step:06d}.png")
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(average[name])
    return Outcome(step, step * run.batch, round(seconds / 3600, 3), round(smooth, 5))


def _average(average: dict[str, Tensor], parameters: dict[str, nn.Parameter], step: int) -> None:
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in parameters.values()],
                             1 - decay)


class _averaged:
    """The model wears its averaged weights inside the block."""

    def __init__(self, parameters: dict[str, nn.Parameter], average: dict[str, Tensor]) -> None:
        self.parameters, self.average = parameters, average

    def __enter__(self) -> None:
        self.kept = {n: p.detach().clone() for n, p in self.parameters.items()}
        self._load(self.average)

    def __exit__(self, *_: object) -> None:
        self._load(self.kept)

    def _load(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(weights[name])


def _log(run: Run, step: int, loss: float, seconds: float) -> None:
    rate = step * run.batch / max(seconds, 1e-9)
    left = (run.steps - step) * run.batch / rate / 60
    row = {"step": step, "loss": round(loss, 5), "lr": run.lr_at(step), "seconds": round(seconds),
           "samples_per_second": round(rate, 1)}
    with (run.folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    log.info("%s %d/%d loss %.4f %.1f/s %.1f min left",
             run.folder.name, step, run.steps, loss, rate, left)


def _save(run: Run, step: int, seconds: float, smooth: float, parameters: dict[str, nn.Parameter],
          average: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
    state = {
        "step": step, "seconds": seconds, "smooth": smooth,
        "run": {k: str(v) for k, v in asdict(run).items()},
        "parameters": {n: p.detach() for n, p in parameters.items()},
        "average": average, "optimiser": optimiser.state_dict(),
    }
    temporary = run.folder / "last.pt.tmp"
    torch.save(state, temporary)
    os.replace(temporary, run.folder / "last.pt")  # a kill leaves the old or the new, never half


def _resume(run: Run, parameters: dict[str, nn.Parameter], average: dict[str, Tensor],
            optimiser: torch.optim.Optimizer) -> tuple[int, float, float]:
    path = run.folder / "last.pt"
    if not path.exists():
        return 0, 0.0, 0.0
    state = torch.load(path, map_location=run.device, weights_only=True)
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(state["parameters"][name])
            average[name].copy_(state["average"][name])
    optimiser.load_state_dict(state["optimiser"])
    log.info("%s resumes at step %d", run.folder.name, state["step"])
    return state["step"], state["seconds"], state["smooth"]
