"""The one training loop: AdamW on one device or many, resumable at any step, logged, previewed.

Scale-out is accelerate's: one process or several, DeepSpeed or not, is decided by what launched the
program. A step is a pure function of the weights and its number, since what a step sees follows
from that number; so an interrupted run goes on as if nothing had happened.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor, nn

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.models.memory import has_bfloat16
from ipadapter_demo.training.checkpoints import Average, Checkpoints, Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where a run lives, how long it lasts, how it learns. Defaults are the tabletop recipes'."""

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


class BatchSource(Protocol):
    """What the steps of a run see."""

    def take(self, step: int) -> list[tuple[Any, ...]]:
        """The arguments of `loss_of` for this process, one tuple a round of `accumulate`."""
        ...

    def state(self) -> dict[str, Any]:
        """Where the feed stands, as JSON has it, for a run to go on from; of all processes."""
        ...


LossOf = Callable[..., Tensor]
EvalCallback = Callable[[Path], dict[str, float] | None]


class Seeded:
    """The feed of the recipes: a generator seeded with the step, and how many samples to draw."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def take(self, step: int) -> list[tuple[torch.Generator, int]]:
        generator = torch.Generator().manual_seed(self.run.seed * 1_000_003 + step)
        return [(generator, self.run.batch)] * self.run.accumulate

    def state(self) -> dict[str, Any]:
        return {}


def accelerator_of(run: Run) -> Accelerator:
    """Of this process. Its state is global and outlives a run, so another precision starts anew.

    Raises TrainingError where several processes were launched that would not know of each other."""
    precision = run.precision
    if precision == "auto":
        where = run.device or ("cuda" if torch.cuda.is_available() else "cpu")
        precision = "bf16" if has_bfloat16(where) else "no"
    if AcceleratorState._shared_state and precision not in (
        "",
        AcceleratorState().mixed_precision,
    ):
        AcceleratorState._reset_state(reset_partial_state=False)
    trackers = [name for name in ("tensorboard", "wandb") if find_spec(name)]
    accelerator = Accelerator(
        mixed_precision=precision or None,
        cpu=run.device == "cpu",
        gradient_accumulation_steps=run.accumulate,
        log_with=trackers,
        project_dir=run.folder,
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:  # accelerate says nothing, and each trains alone
        raise TrainingError(
            f"device: {launched} processes were launched and there are no GPUs for "
            "them; on CPUs it is --device cpu"
        )
    return accelerator


def fit(
    run: Run,
    model: nn.Module,
    loss_of: LossOf,
    preview: EvalCallback,
    feed: Callable[[dict[str, Any]], BatchSource] | None = None,
    accelerator: Accelerator | None = None,
) -> Outcome:
    """Train `model` (its parameters that require gradients) and leave it with the averaged weights.

    `loss_of(*arguments)` takes what the feed gives and returns a scalar. `feed(state)` opens it
    where the run stands. `preview(path)` draws a sheet with the model as it is, at `path`, and may
    return figures to log. An `accelerator` that is given is for its owner to end.

    Raises TrainingError; the last checkpoint is then usable.
    """
    own = accelerator is None
    accelerator = accelerator or accelerator_of(run)
    run.folder.mkdir(parents=True, exist_ok=True)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if accelerator.distributed_type == DistributedType.DEEPSPEED:  # there is no loader to ask
        accelerator.state.deepspeed_plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": run.batch,
            "gradient_accumulation_steps": run.accumulate,
            "gradient_clipping": run.clip_grad,
            "train_batch_size": run.batch * run.accumulate * accelerator.num_processes,
        }
    prepared, optimiser = accelerator.prepare(_Loss(model, loss_of), _optimiser(run, parameters))
    average = Average(run.ema, parameters)
    checkpoints = Checkpoints(run.folder, accelerator, average)
    progress = checkpoints.restored()
    source = feed(progress.feed) if feed else Seeded(run)
    clock = _Clock(progress.seconds)
    accelerator.init_trackers("log")
    while progress.step < run.steps:
        with _explained(run, progress.step, checkpoints):
            _step(run, accelerator, prepared, optimiser, source, progress)
            average.follow(progress.step)
            if progress.step % run.log_every == 0:
                _log(run, accelerator, progress, clock.seconds())
            if progress.step % run.save_every == 0 or progress.step == run.steps:
                progress.seconds, progress.feed = clock.seconds(), source.state()
                checkpoints.save(progress)
            if run.preview_every and (
                progress.step % run.preview_every == 0 or progress.step == run.steps
            ):
                _preview(run, accelerator, progress, average, preview)
    average.copy_to_model()
    if own:
        accelerator.end_training()
    samples = progress.step * run.batch * run.accumulate * accelerator.num_processes
    return Outcome(
        progress.step, samples, round(clock.seconds() / 3600, 3), round(progress.loss, 5)
    )


class _Loss(nn.Module):
    """What is trained, and how its loss comes about: one module, so that whoever wraps it for
    several processes sees every gradient."""

    def __init__(self, model: nn.Module, loss_of: LossOf) -> None:
        super().__init__()
        self.model, self._loss_of = model, loss_of

    def forward(self, *arguments: Any) -> Tensor:
        return self._loss_of(*arguments)


def _optimiser(run: Run, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    kind: type = torch.optim.AdamW
    if run.adam_8bit:
        if not find_spec("bitsandbytes"):
            raise TrainingError("adam_8bit needs bitsandbytes, which is not installed")
        kind = __import__("bitsandbytes").optim.AdamW8bit
    return kind(parameters.values(), lr=run.lr, weight_decay=run.weight_decay, betas=run.betas)


def _step(
    run: Run,
    accelerator: Accelerator,
    prepared: nn.Module,
    optimiser: Any,
    source: BatchSource,
    progress: Progress,
) -> None:
    for group in optimiser.param_groups:
        group["lr"] = run.lr_at(progress.step)
    total = 0.0
    for arguments in source.take(progress.step):
        with accelerator.accumulate(prepared):
            loss = prepared(*arguments)
            # of all processes, so that all of them stop where one has to
            mean = float(accelerator.reduce(loss.detach().float(), "mean"))
            if not math.isfinite(mean):
                raise FloatingPointError(f"the loss is {mean}")
            accelerator.backward(loss)
            if run.clip_grad and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(prepared.parameters(), run.clip_grad)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        total += mean / run.accumulate
    progress.step += 1
    progress.last = total
    progress.loss = total if progress.step == 1 else 0.98 * progress.loss + 0.02 * total


def _log(run: Run, accelerator: Accelerator, progress: Progress, seconds: float) -> None:
    if not accelerator.is_main_process:
        return
    size = run.batch * run.accumulate * accelerator.num_processes
    rate = progress.step * size / max(seconds, 1e-9)
    left = (run.steps - progress.step) * size / rate / 60
    row = {
        "step": progress.step,
        "loss": round(progress.loss, 5),
        "step_loss": progress.last,
        "lr": run.lr_at(progress.step),
        "seconds": round(seconds),
        "samples_per_second": round(rate, 1),
    }
    with (run.folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    accelerator.log({k: v for k, v in row.items() if k != "step"}, step=progress.step)
    log.info(
        "%s %d/%d loss %.4f %.1f/s %.1f min left",
        run.folder.name,
        progress.step,
        run.steps,
        progress.loss,
        rate,
        left,
    )


def _preview(
    run: Run, accelerator: Accelerator, progress: Progress, average: Average, preview: EvalCallback
) -> None:
    """By one process, the others wait."""
    if accelerator.is_main_process:
        with average.swapped_in(), torch.no_grad():
            figures = preview(run.folder / f"preview-{progress.step:06d}.png")
        if figures:
            with (run.folder / "held-out.jsonl").open("a") as file:
                file.write(json.dumps({"step": progress.step} | figures) + "\n")
            accelerator.log(figures, step=progress.step)
            log.info(
                "%s %d %s",
                run.folder.name,
                progress.step,
                " ".join(f"{name} {value:.4f}" for name, value in figures.items()),
            )
    accelerator.wait_for_everyone()


class _Clock:
    """Seconds of this run, over all its interruptions."""

    def __init__(self, before: float) -> None:
        self._began = time.monotonic() - before

    def seconds(self) -> float:
        return time.monotonic() - self._began


@contextmanager
def _explained(run: Run, step: int, checkpoints: Checkpoints) -> Iterator[None]:
    """Failures that a long run meets, in words that say what to do."""
    try:
        yield
    except FloatingPointError as error:
        raise TrainingError(
            f"{run.folder.name}: {error} at step {step}; lower lr (now {run.lr:g}) "
            f"or set clip_grad. {checkpoints.usable()}"
        ) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(run, step, checkpoints) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "the disk is full" if full else str(error)
        raise TrainingError(
            f"{run.folder.name}: step {step} could not be written down: {why}. "
            f"{checkpoints.usable()}"
        ) from error
    except RuntimeError as error:  # the CPU's allocator raises nothing finer
        if "can't allocate memory" in str(error):
            raise _out_of_memory(run, step, checkpoints) from error
        raise


def _out_of_memory(run: Run, step: int, checkpoints: Checkpoints) -> TrainingError:
    return TrainingError(
        f"{run.folder.name}: out of memory at step {step}, with batch {run.batch}. Lower batch and "
        "raise accumulate by as much, or set gradient_checkpointing, precision bf16 or adam_8bit. "
        f"{checkpoints.usable()}"
    )
