"""The one training loop: AdamW on one device or many, resumable at any step, logged, previewed.

Scale-out is accelerate's: one process or several, DeepSpeed or not, is decided by what launched the
program. A step is a pure function of the weights and its number, since its batch follows from that
number; so an interrupted run goes on as if nothing had happened.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor, nn

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.files import write_file
from ipadapter_demo.models.memory import has_bfloat16
from ipadapter_demo.settings import resolved_device
from ipadapter_demo.training.checkpoints import Checkpoints, Progress, State
from ipadapter_demo.training.ema import EMA
from ipadapter_demo.training.failures import explained
from ipadapter_demo.training.run import Outcome, Run

log = logging.getLogger(__name__)


class BatchSource(Protocol):
    """The batches of a run, step by step."""

    def take(self, step: int) -> Sequence[tuple[object, ...]]:
        """The arguments of `loss_of` for this process, one tuple a round of `accumulate`."""
        ...

    def state(self) -> State:
        """Its position, as JSON has it, for a run to go on from; of all processes."""
        ...


LossOf = Callable[..., Tensor]
EvalCallback = Callable[[Path], dict[str, float] | None]


class SeededBatchSource:
    """The recipes' own: a generator seeded with the step, and how many samples to draw."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def take(self, step: int) -> list[tuple[torch.Generator, int]]:
        generator = torch.Generator().manual_seed(self.run.seed * 1_000_003 + step)
        return [(generator, self.run.batch)] * self.run.accumulate

    def state(self) -> State:
        return {}


def accelerator_of(run: Run) -> Accelerator:
    """The accelerator of this process. Its state is global and outlives a run, so another precision
    starts anew.

    Raises TrainingError where several processes were launched that would not know of each other."""
    precision = run.precision
    if precision == "auto":
        precision = "bf16" if has_bfloat16(resolved_device(run.device or None)) else "no"
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
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != processes:  # accelerate says nothing, and each trains alone
        raise TrainingError(
            f"device: {processes} processes were launched and there are no GPUs for "
            "them; on CPUs it is --device cpu"
        )
    return accelerator


def fit(
    run: Run,
    model: nn.Module,
    loss_of: LossOf,
    eval_callback: EvalCallback,
    batches_from: Callable[[State], BatchSource] | None = None,
    accelerator: Accelerator | None = None,
) -> Outcome:
    """Train `model` (its parameters that require gradients) and leave it with the EMA weights.

    `loss_of(*arguments)` takes a batch of the source and returns a scalar. `batches_from(state)`
    opens the source where the run stands. `eval_callback(path)` draws a preview sheet with the
    model as it is, at `path`, and may return figures to log. An `accelerator` that is passed in is
    for its owner to end.

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
    ema = EMA(run.ema, parameters)
    checkpoints = Checkpoints(run.folder, accelerator, ema)
    progress = checkpoints.restored()
    source = batches_from(progress.feed) if batches_from else SeededBatchSource(run)
    clock = _Clock(progress.seconds)
    accelerator.init_trackers("log")
    missed = _is_evaluated(run, progress.step) and _last_evaluated(run) < progress.step
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _forget_lines_after(run, progress.step)
    if missed:  # it was stopped meanwhile
        with explained(run, progress.step, checkpoints):
            _evaluate(run, accelerator, progress, ema, eval_callback)
    while progress.step < run.steps:
        with explained(run, progress.step, checkpoints):
            _step(run, accelerator, prepared, optimiser, source, progress)
            ema.update(progress.step)
            if progress.step % run.log_every == 0:
                _log(run, accelerator, progress, clock.seconds())
            if progress.step % run.save_every == 0 or progress.step == run.steps:
                progress.seconds, progress.feed = clock.seconds(), source.state()
                checkpoints.save(progress)
            if _is_evaluated(run, progress.step):
                _evaluate(run, accelerator, progress, ema, eval_callback)
    ema.copy_to_model()
    if own:
        accelerator.end_training()
    samples = progress.step * run.batch * run.accumulate * accelerator.num_processes
    return Outcome(
        progress.step, samples, round(clock.seconds() / 3600, 3), round(progress.loss, 5)
    )


class _Loss(nn.Module):
    """The trained network with its loss, as one module, so that whoever wraps it for several
    processes sees every gradient."""

    def __init__(self, model: nn.Module, loss_of: LossOf) -> None:
        super().__init__()
        self.model, self._loss_of = model, loss_of

    def forward(self, *arguments: object) -> Tensor:
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
    optimiser: torch.optim.Optimizer,
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


def _is_evaluated(run: Run, step: int) -> bool:
    """Whether there are previews and figures of this step."""
    every = run.preview_every
    return bool(every and step) and (step % every == 0 or step == run.steps)


def _last_evaluated(run: Run) -> int:
    path = run.folder / "evaluated"
    return int(path.read_text()) if path.is_file() else 0


def _forget_lines_after(run: Run, step: int) -> None:
    """What was logged of steps that are taken again."""
    for name in ("log.jsonl", "held-out.jsonl"):
        path = run.folder / name
        if path.is_file():
            lines = path.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            if len(kept) < len(lines):
                write_file(path, "".join(f"{line}\n" for line in kept).encode())


def _step_of(line: str) -> float:
    """Of a log; a line that was cut short is of none that counts."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def _evaluate(
    run: Run, accelerator: Accelerator, progress: Progress, ema: EMA, eval_callback: EvalCallback
) -> None:
    """By one process, the others wait."""
    if accelerator.is_main_process:
        with ema.swapped_in(), torch.no_grad():
            figures = eval_callback(run.folder / f"preview-{progress.step:06d}.png")
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
        write_file(run.folder / "evaluated", str(progress.step).encode())
    accelerator.wait_for_everyone()


class _Clock:
    """Seconds of this run, over all its interruptions."""

    def __init__(self, before: float) -> None:
        self._began = time.monotonic() - before

    def seconds(self) -> float:
        return time.monotonic() - self._began
