"""Checkpoints on disk, from which a run goes on: whole or not at all.

A checkpoint is a folder that accelerate writes, under a name that counts only once it is complete.
The last two are kept.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.training.ema import EMA

State = dict[str, Any]  # of a batch source, for JSON; only the source knows what is in it
KEPT = 2
_PREFIX = "step-"


@dataclass(slots=True)
class Progress:
    """The state of a run."""

    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0  # smooth
    last: float = 0.0  # of the last step
    feed: State = field(default_factory=dict)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete one of a run."""
    return found[-1] if (found := _complete(folder / "checkpoints")) else None


def last_progress(folder: Path) -> Progress:
    """The state of a run, by its newest checkpoint."""
    path = last_checkpoint(folder)
    return Progress(**json.loads((path / "progress.json").read_text())) if path else Progress()


class Checkpoints:
    """The checkpoints of one run: model, optimiser, EMA and progress."""

    def __init__(self, folder: Path, accelerator: Accelerator, ema: EMA) -> None:
        self._folder, self._accelerator, self._ema = folder, accelerator, ema
        accelerator.register_for_checkpointing(ema)

    def restored(self) -> Progress:
        """Load the newest checkpoint, if there is one. Raises TrainingError where it is of another
        network."""
        path = last_checkpoint(self._folder)
        if path is not None:
            try:
                self._accelerator.load_state(str(path))
            except (RuntimeError, ValueError) as error:  # of torch and of its optimisers
                if not re.search(r"state_dict|parameter group", str(error)):
                    raise
                raise TrainingError(
                    f"run: {self._folder} holds a run of another network: {path.name} does not fit "
                    "what is to be trained; name another folder, or give the options that it had"
                ) from error
        return last_progress(self._folder)

    def save(self, progress: Progress) -> None:
        """Raises OSError where it cannot be written, FloatingPointError where it would be of no
        use; the one before it is then still there."""
        if not self._ema.finite():
            raise FloatingPointError("a weight is not finite")
        accelerator = self._accelerator
        final = self._folder / "checkpoints" / f"{_PREFIX}{progress.step:08d}"
        temporary = final.with_suffix(".tmp")
        if accelerator.is_main_process:
            for left in self._folder.glob(f"checkpoints/{_PREFIX}*.tmp"):
                shutil.rmtree(left)
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        try:
            accelerator.save_state(str(temporary))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                (temporary / "progress.json").write_text(json.dumps(asdict(progress)))
                os.replace(temporary, final)
                self._forget_all_but(final)
        except Exception as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise as_os_error(error) from error
        accelerator.wait_for_everyone()

    def usable(self) -> str:
        """For a message: what is left."""
        path = last_checkpoint(self._folder)
        if path is None:
            return "No checkpoint had been written."
        return f"The last usable checkpoint is {path.name}; --resume goes on from it."

    def _forget_all_but(self, newest: Path) -> None:
        older = [path for path in _complete(newest.parent) if path != newest]
        for path in older[: max(0, len(older) - KEPT + 1)]:
            shutil.rmtree(path)


def _complete(folder: Path) -> list[Path]:
    """By their steps. What else lies there, as a copy of a good one, is no business of a run."""
    found = [p for p in folder.glob(f"{_PREFIX}*") if re.fullmatch(r"\d{8,}", _number(p))]
    return sorted(found, key=lambda path: int(_number(path)))


def _number(path: Path) -> str:
    return path.name.removeprefix(_PREFIX)


def as_os_error(error: Exception) -> Exception:
    """torch and safetensors wrap what the system said, or only repeat its words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    if "os error" in text.lower() or "PytorchStreamWriter" in text or "iostream" in text:
        return OSError(text)
    return error
