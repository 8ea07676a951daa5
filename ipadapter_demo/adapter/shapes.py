"""The shapes of a checkpoint's tensors, read strictly: every complaint names the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ipadapter_demo.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Shapes:
    """Tensors under their published names, `image_proj.<key>` and `ip_adapter.<n>.<key>`, of which
    only the shapes are looked at."""

    tensors: Mapping[str, Tensor]
    file: str

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def of(self, key: str, ndim: int) -> torch.Size:
        """Raises CheckpointError for a tensor that is missing or has another number of axes."""
        if key not in self.tensors:
            raise self.error(f"missing {[key]}, unexpected []")
        shape = self.tensors[key].shape
        if len(shape) != ndim or not all(shape):
            raise self.error(f"{key} has shape {tuple(shape)}, not {ndim} dimensions")
        return shape

    def numbers(self, pattern: str) -> list[int]:
        """The numbers in the names that `pattern` matches, each once, in order."""
        return sorted({int(match[1]) for key in self.tensors if (match := re.match(pattern, key))})

    def error(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {text}")
