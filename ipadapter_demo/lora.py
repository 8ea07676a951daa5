"""The choice of a LoRA, as a part of a request."""

from __future__ import annotations

from dataclasses import dataclass

from ipadapter_demo import checks

MAX_LORAS, MAX_WEIGHT, MAX_NAME = 8, 10.0, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA of the model, by its name, and how strongly it acts; below 0 against it."""

    name: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        checks.text("lora.name", self.name, MAX_NAME)
        weight = checks.number("lora.weight", self.weight, -MAX_WEIGHT, MAX_WEIGHT)
        object.__setattr__(self, "weight", weight)
