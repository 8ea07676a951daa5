"""The exponential moving average of what a run trains: diffusers', with exact resume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ipadapter_demo.errors import TrainingError

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel


class EMA:
    """Exponential moving average of parameters, slower as a run gets longer; with decay 0 the
    parameters themselves."""

    def __init__(self, decay: float, parameters: dict[str, nn.Parameter]) -> None:
        self._names, self._parameters = list(parameters), list(parameters.values())
        self._ema: EMAModel | None = None
        if decay:
            from diffusers.training_utils import EMAModel

            # -1: min(decay, (1 + step) / (10 + step)) from the first step on
            self._ema = EMAModel(self._parameters, decay, update_after_step=-1, foreach=True)

    def update(self, step: int) -> None:
        """After step number `step`, from 1, which a run that goes on has and the average not."""
        if self._ema:
            self._ema.optimization_step = step - 1
            self._ema.step(self._parameters)

    def copy_to_model(self) -> None:
        if self._ema:
            self._ema.copy_to(self._parameters)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The parameters are the average inside the block."""
        if self._ema:
            self._ema.store(self._parameters)
        self.copy_to_model()
        try:
            yield
        finally:
            if self._ema:
                self._ema.restore(self._parameters)

    def finite(self) -> bool:
        """True if all parameters are, without which their average is of no use."""
        return all(bool(torch.isfinite(p).all()) for p in self._parameters)

    def state_dict(self) -> dict[str, Tensor]:
        """By name, as the checkpoints of all versions have it."""
        averages = self._ema.shadow_params if self._ema else []
        return dict(zip(self._names, averages, strict=False))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises TrainingError for the state of a run without an average."""
        if self._ema and not state:
            raise TrainingError("ema must be 0 to go on with this run, which has kept no average")
        for name, average in self.state_dict().items():
            average.copy_(state[name])
