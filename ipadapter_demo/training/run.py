"""A run of the training loop: its settings, and the facts it leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Folder, length and learning of a run. Defaults are the tabletop recipes'."""

    folder: Path
    steps: int
    batch: int  # pictures a step, process and round of `accumulate`
    lr: float
    accumulate: int = 1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 100
    final_lr: float = 0.05  # cosine decay to this fraction of lr; 1 is constant
    ema: float = 0.999  # 0: the weights as they are
    clip_grad: float = 1.0  # 0: off
    adam_8bit: bool = False
    precision: str = "auto"  # bf16 where the device has it; "": what accelerate was launched with
    seed: int = 0
    device: str = "cpu"
    log_every: int = 50
    save_every: int = 250
    preview_every: int = 1000  # 0: never

    def lr_at(self, step: int) -> float:
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return self.lr * rise * (self.final_lr + (1 - self.final_lr) * fall)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Facts of a finished run, for the provenance file and the model card."""

    steps: int
    samples: int
    hours: float
    loss: float
