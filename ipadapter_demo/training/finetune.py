"""Training beside a frozen base, from a config to files: shards in, weights out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.training.base_models import frozen_base, model_options
from ipadapter_demo.training.card import Provenance
from ipadapter_demo.training.checkpoints import as_os_error, last_checkpoint, last_progress
from ipadapter_demo.training.config import TrainingConfig
from ipadapter_demo.training.config_reading import plain
from ipadapter_demo.training.data.batch_source import ShardBatchSource
from ipadapter_demo.training.data.cache import broken_in, encoded
from ipadapter_demo.training.data.shards import shards_of
from ipadapter_demo.training.fingerprint import fingerprint
from ipadapter_demo.training.loop import EvalCallback, accelerator_of, fit
from ipadapter_demo.training.objective import Objective, Task
from ipadapter_demo.training.run import Run

AnyTask = TypeVar("AnyTask", bound=Task)


def train(
    config: TrainingConfig,
    task_on: Callable[[BaseModel], AnyTask],
    callback_of: Callable[[AnyTask, Objective], EvalCallback],
    objective_on: Callable[[TrainingConfig, BaseModel, AnyTask], Objective] = Objective,
) -> Provenance:
    """Train the network of `task_on(base)`, evaluate it by the callback now and then, and write it
    into `config.out`. Returns the provenance.

    Raises TrainingError, ModelError or CheckpointError.
    """
    left = last_checkpoint(config.run)
    if left is not None and not config.resume:
        raise TrainingError(
            f"run: {config.run} holds a run at {left.name}; go on with --resume, "
            "or name another folder"
        )
    _check_writable(config.out)
    run = run_of(config)
    accelerator = accelerator_of(run)
    torch.manual_seed(config.seed)
    # of several processes on a CPU each is on "cpu:0"
    device = "cpu" if accelerator.device.type == "cpu" else str(accelerator.device)
    base = frozen_base(config, device, accelerator.mixed_precision)
    task = task_on(base)
    task.trained.requires_grad_(True).to(accelerator.device)
    objective = objective_on(config, base, task)
    shards, left_out = shards_of(config.data), list[str]()
    if config.cache is not None:
        listed = [shard.name for shard in shards]
        shards = encoded(
            shards,
            config.cache,
            _identity(config, base, task),
            task.preparer,
            accelerator.autocast()(objective.encoded),
            accelerator,
        )
        # what a run to resume began without stays left out, though it can be read by now
        before = set(last_progress(config.run).feed.get("left_out", ()))
        shards = [shard for shard in shards if shard.name not in before]
        left_out = sorted({*listed} - {shard.name for shard in shards})
    outcome = fit(
        run,
        task.trained,
        objective.loss,
        callback_of(task, objective),
        accelerator=accelerator,
        batches_from=lambda state: ShardBatchSource(
            config, accelerator, shards, task.preparer, objective.latent_shape, state, left_out
        ),
    )
    provenance = Provenance(
        steps=outcome.steps,
        samples=outcome.samples,
        hours=outcome.hours,
        loss=outcome.loss,
        parameters=sum(p.numel() for p in task.trained.parameters()),
        processes=accelerator.num_processes,
        precision=accelerator.mixed_precision,
        device=device.split(":")[0],
        config=plain(config),
        model_options=model_options(config, base),
    )
    if accelerator.is_main_process:
        task.trained.eval()
        provenance["broken_rows"] = broken_in(shards) + last_progress(config.run).feed["broken"]
        try:
            provenance["files"] = [path.name for path in task.save(config.out, provenance)]
            (config.out / "training.json").write_text(json.dumps(provenance, indent=1) + "\n")
        except Exception as error:
            cause = as_os_error(error)
            if not isinstance(cause, OSError):
                raise
            raise TrainingError(
                f"out: {config.out} could not be written: {cause}. All steps "
                "are done: --resume with an --out that has room writes the files"
            ) from error
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return provenance


def _check_writable(out: Path) -> None:
    """Now, and not after all the steps."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise TrainingError(f"out: {out} cannot be written to: {error.strerror}") from error


def run_of(config: TrainingConfig) -> Run:
    """The loop's half of a config."""
    same = (
        "steps",
        "batch",
        "accumulate",
        "lr",
        "weight_decay",
        "warmup",
        "ema",
        "clip_grad",
        "adam_8bit",
        "precision",
        "seed",
        "device",
        "log_every",
        "save_every",
        "preview_every",
    )
    return Run(
        folder=config.run,
        final_lr=0.05 if config.lr_schedule == "cosine" else 1.0,
        betas=(0.9, 0.999),
        **{name: getattr(config, name) for name in same},
    )


def _identity(config: TrainingConfig, base: BaseModel, task: Task) -> str:
    """Everything that decides the encoded pictures: the weights that encode, the size, the map."""
    tell = {
        "size": config.size,
        "annotator": task.preparer.annotator,
        "reads": task.reads,
    }
    if task.preparer.own_pictures:
        tell["own_pictures"] = True
    for name, network in (("vae", base.vae.autoencoder), ("encoder", base.vision)):
        if network is not None:
            tell[name] = fingerprint(network)
    return json.dumps(tell, sort_keys=True)
