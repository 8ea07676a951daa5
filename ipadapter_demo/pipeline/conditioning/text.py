"""Prompts as text states, and what SDXL reads beside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ipadapter_demo.lora import Lora
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.text import TextStates
from ipadapter_demo.pipeline.cache import ContentCache
from ipadapter_demo.pipeline.sizes import Size


class PromptReader:
    """Prompts, one at a time, through one model's text encoders."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model
        self.cache = ContentCache(64)

    def states(self, prompt: str, loras: Sequence[Lora], unconditional: bool = False) -> TextStates:
        def encode() -> TextStates:
            self._model.loras.merge(loras)
            return self._model.text.encode(prompt, unconditional)

        return self.cache.get((prompt, tuple(loras), unconditional and not prompt), encode)


def added_conditions(
    texts: Sequence[TextStates], count: int, size: Size
) -> dict[str, Tensor] | None:
    """SDXL's size conditioning (arXiv 2307.01952, section 2.2): original size, crop and target
    size, for a picture that was never cropped."""
    if texts[0].pooled is None:
        return None
    pooled = [t.pooled.expand(count, -1) for t in texts if t.pooled is not None]
    sides = [float(size[1]), float(size[0])]
    times = torch.tensor([[*sides, 0.0, 0.0, *sides]]).expand(len(texts) * count, -1)
    return {"text_embeds": torch.cat(pooled), "time_ids": times.to(pooled[0])}
