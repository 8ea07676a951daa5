"""The failures that a long run meets, in words that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.training.checkpoints import Checkpoints
from ipadapter_demo.training.run import Run


@contextmanager
def explained(run: Run, step: int, checkpoints: Checkpoints) -> Iterator[None]:
    """The failures that a long run meets become TrainingErrors that say what to do."""
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
