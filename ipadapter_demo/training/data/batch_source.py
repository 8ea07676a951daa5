"""Batches from shards: which examples a step sees, and the random numbers drawn for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.training.checkpoints import State
from ipadapter_demo.training.config import TrainingConfig
from ipadapter_demo.training.data.examples import Example, Preparer
from ipadapter_demo.training.data.stream import ShardPlan, Stream
from ipadapter_demo.training.data.types import Shard
from ipadapter_demo.training.noise import SampleNoise


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B examples, and the random numbers drawn for them."""

    examples: Sequence[Example]
    sample_noise: SampleNoise

    def captions(self, lost: Tensor) -> list[str]:
        """Empty where `lost` (B,) says so."""
        return [
            "" if drop else example.caption
            for example, drop in zip(self.examples, lost.tolist(), strict=True)
        ]

    def stacked(self, name: str) -> Tensor:
        """A field of the examples that all of them have, (B, ...) in float32."""
        return torch.stack([getattr(e, name).float() for e in self.examples])

    def has(self, name: str) -> bool:
        return getattr(self.examples[0], name) is not None


class ShardBatchSource:
    """The batches of a run, from shards; equal for one process and for many."""

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        shards: Sequence[Shard],
        preparer: Preparer,
        latent_shape: Sequence[int],
        state: State,
        left_out: Sequence[str] = (),
    ) -> None:
        """`left_out` are names of further shards, which could not be read. Raises TrainingError
        where `state` is of a run on other data or another global batch."""
        self._config, self._shape = config, tuple(latent_shape)
        self._plan = ShardPlan.of(
            config.batch * config.accumulate, accelerator.process_index, accelerator.num_processes
        )
        self._is = {"shards": len(shards), "global_batch": self._plan.total, "seed": config.seed}
        for name, value in self._is.items():
            if state and state[name] != value:
                raise TrainingError(f"the run to resume has {name} {state[name]}, not {value}")
        positions = {int(stream): tuple(at) for stream, at in state.get("places", {}).items()}
        self._stream = Stream(shards, self._plan, config.seed, preparer, config.workers, positions)
        self._broken_before, self._left_out = state.get("broken", 0), list(left_out)

    def take(self, step: int) -> list[tuple[Batch]]:
        """A batch for each round of `accumulate`."""
        rows = next(self._stream)
        batches = []
        for start in range(0, len(rows), self._config.batch):
            part = rows[start : start + self._config.batch]
            positions = [step * self._plan.total + slot for slot, _ in part]
            noise = SampleNoise.at(self._config.seed, positions, self._shape)
            batches.append((Batch([example for _, example in part], noise),))
        return batches

    def state(self) -> State:
        """Every stream's position and the number of broken rows, of all processes."""
        every = gather_object([(self._stream.positions, self._stream.broken)])
        positions = {stream: at for own, _ in every for stream, at in own.items()}
        return self._is | {
            "places": {str(stream): positions[stream] for stream in sorted(positions)},
            "broken": self._broken_before + sum(broken for _, broken in every),
            "left_out": self._left_out,
        }
