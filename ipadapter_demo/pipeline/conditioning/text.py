"""Prompts as text states, and what SDXL reads beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.text import TextStates
from ipadapter_demo.pipeline.cache import ContentCache
from ipadapter_demo.pipeline.sizes import Size
from ipadapter_demo.pipeline.step_count import guided_calls
from ipadapter_demo.request import GenerateRequest

MAX_WINDOWS = 8  # every layer attends to all of them, in every step


@dataclass(frozen=True, slots=True)
class _Side:
    """The prompts of one half of guidance. Those of the unconditional half are read to the last
    layer, whatever `clip_skip` says: so does diffusers."""

    prompt: str
    second: str
    clip_skip: int
    unconditional: bool


class PromptReader:
    """Prompts, one at a time, through one model's text encoders."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model
        self.cache = ContentCache(64)

    def states(self, request: GenerateRequest) -> list[TextStates]:
        """Of the unconditional half, where there is guidance, and of the conditional one. Both are
        of one length."""
        loras, windows = request.loras or (), self.windows(request)

        def read(side: _Side) -> TextStates:
            def encode() -> TextStates:
                self._model.loras.merge(loras)
                text, second, skip = self._model.text, side.second, side.clip_skip
                if request.prompt_syntax == "plain":
                    return text.encode(
                        side.prompt, side.unconditional, second=second, clip_skip=skip
                    )
                return text.encode_windows(
                    side.prompt, windows, side.unconditional, second=second, clip_skip=skip
                )

            nothing = side.unconditional and not (side.prompt or side.second)
            key = replace(side, unconditional=nothing), request.prompt_syntax, windows, tuple(loras)
            return self.cache.get(key, encode)

        return [read(side) for side in _sides(request)]

    def windows(self, request: GenerateRequest) -> int:
        """The number of windows that the prompts of a request are read in. Raises RequestError
        above MAX_WINDOWS."""
        if request.prompt_syntax == "plain":
            return 1
        most = 1
        for side in _sides(request):
            count = self._model.text.count_windows(side.prompt, side.second)
            if count > MAX_WINDOWS:
                field = "negative_prompt" if side.unconditional else "prompt"
                raise RequestError(
                    f"{field} must fit in {MAX_WINDOWS} windows of "
                    f"{self._model.text.room} tokens, got {count}"
                )
            most = max(most, count)
        return most


def _sides(request: GenerateRequest) -> list[_Side]:
    given = _Side(request.prompt, request.prompt_2, request.clip_skip, False)
    if guided_calls(request) == 0:
        return [given]
    return [_Side(request.negative_prompt, request.negative_prompt_2, 0, True), given]


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
