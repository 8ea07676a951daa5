"""Trainings in processes of their own, forked from one that has imported what a training needs."""

from __future__ import annotations

import os
import resource
import signal
import sys
from multiprocessing import get_context, set_start_method
from multiprocessing.process import BaseProcess
from pathlib import Path

_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "ipadapter_demo.training.image_adapter",
        "torch.utils.tensorboard",
        "transformers.models.clip.modeling_clip",
        __name__,
    ]
)


def started(config: Path, full_at: int = 0, **variables: str) -> BaseProcess:
    """A training by the command line's own function, in a process group of its own; its output is
    in the .log beside the config. From step `full_at` on no file can grow, as on a full disk."""
    process = _FORKS.Process(target=_train, args=(config, full_at, variables))
    process.start()
    return process


def _train(config: Path, full_at: int, variables: dict[str, str]) -> None:
    import torch

    from ipadapter_demo.training import checkpoints
    from ipadapter_demo.training.cli import main
    from ipadapter_demo.training.config import ImageAdapterConfig
    from ipadapter_demo.training.image_adapter import train_image_adapter

    os.setsid()
    set_start_method("fork", force=True)  # the loaders' own, and not this one's
    os.environ.update(variables)
    torch.set_num_threads(1)
    output = os.open(config.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    if full_at:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        save = checkpoints.Checkpoints.save

        def save_on_a_full_disk(
            self: checkpoints.Checkpoints, progress: checkpoints.Progress
        ) -> None:
            if progress.step == full_at:
                resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, resource.RLIM_INFINITY))
            save(self, progress)

        checkpoints.Checkpoints.save = save_on_a_full_disk  # type: ignore[method-assign]
    sys.argv = ["train", "--config", str(config)]
    main("", ImageAdapterConfig, train_image_adapter)
