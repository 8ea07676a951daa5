"""Prompts as text states: one text encoder (SD 1.5), or two beside each other (SDXL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.prompt_windows import (
    Window,
    ids_and_weights,
    weighed,
    windows_of,
    worded,
)

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


@dataclass(frozen=True, slots=True, eq=False)
class TextStates:
    """Prompts, read: (B, tokens, cross_dim), and for SDXL the pooled embeddings (B, width)."""

    states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PromptEncoder:
    """Tokenizers and encoders, pairwise. With two (arXiv 2307.01952, section 2.1) the penultimate
    states of both stand side by side, and the second's pooled output goes to the UNet as well.

    `zeros_for_nothing`: an empty prompt in the unconditional half is zeros, as SDXL was trained.
    Tokenizers bear no two threads at once, and so have a lock.
    """

    tokenizers: tuple[CLIPTokenizer, ...]
    encoders: tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]
    zeros_for_nothing: bool = False
    device: torch.device | str = "cpu"
    lock: RLock = field(default_factory=RLock, repr=False)

    def __reduce__(self) -> tuple[type[PromptEncoder], tuple[object, ...]]:
        """In another process it has a lock of its own."""
        return PromptEncoder, (
            self.tokenizers,
            self.encoders,
            self.zeros_for_nothing,
            self.device,
        )

    def encode(
        self, prompt: str, unconditional: bool = False, *, second: str = "", clip_skip: int = 0
    ) -> TextStates:
        """A prompt as it stands, as far as the encoders read. The second of them reads `second`,
        if it is given; `clip_skip` of the last layers are left out."""
        both = [prompt, second or prompt]
        ids = [
            self._ids(tokenizer, [text])
            for tokenizer, text in zip(self.tokenizers, both, strict=False)
        ]
        found = self._read(ids, clip_skip)
        return self._zeroed(found, [unconditional and not prompt and not second])

    def encode_all(self, prompts: Sequence[str], unconditional: Sequence[bool]) -> TextStates:
        """Prompts in one batch (B, tokens, cross_dim); which of them are in the unconditional half
        matters to the empty ones only."""
        found = self._read([self._ids(tokenizer, prompts) for tokenizer in self.tokenizers])
        return self._zeroed(
            found, [u and not p for p, u in zip(prompts, unconditional, strict=True)]
        )

    def encode_windows(
        self,
        prompt: str,
        count: int,
        unconditional: bool = False,
        *,
        second: str = "",
        clip_skip: int = 0,
    ) -> TextStates:
        """A prompt with weights in `count` windows, behind each other; empty ones come last. The
        pooled embedding is the first window's, and not weighed."""
        each = self._windows(prompt, second)
        read = []
        for number in range(count):
            ids, weights = zip(
                *(
                    ids_and_weights(tokenizer, windows[number] if number < len(windows) else [])
                    for tokenizer, windows in zip(self.tokenizers, each, strict=True)
                ),
                strict=True,
            )
            read.append(self._read(ids, clip_skip, weights))
        found = TextStates(torch.cat([one.states for one in read], dim=1), read[0].pooled)
        return self._zeroed(found, [unconditional and not prompt and not second])

    def count_windows(self, prompt: str, second: str = "") -> int:
        return max(map(len, self._windows(prompt, second)))

    @property
    def room(self) -> int:
        """Tokens that a window has room for, between its beginning and its end."""
        return self.tokenizers[0].model_max_length - 2

    def tokens_used(self, prompt: str) -> tuple[int, int]:
        """Number of tokens of a prompt, and number of those that are read."""
        first = self.tokenizers[0]
        with self.lock:
            ids = first(worded(first, prompt), verbose=False).input_ids
        return len(ids), first.model_max_length

    @torch.no_grad()
    def _read(
        self, ids: Sequence[Tensor], clip_skip: int = 0, weights: Sequence[Tensor] = ()
    ) -> TextStates:
        """Tokens (B, L) for each encoder, with weights (L,) where B is 1."""
        two = len(self.encoders) > 1
        least = min(encoder.config.num_hidden_layers for encoder in self.encoders)
        most = least - (2 if two else 1)  # at least one layer reads
        if clip_skip > most:
            raise RequestError(
                f"clip_skip must be from 0 to {most} for this model, whose text encoder has "
                f"{least} layers, got {clip_skip}"
            )
        states, pooled = [], None
        for number, (encoder, tokens) in enumerate(zip(self.encoders, ids, strict=True)):
            output = encoder(tokens.to(self.device), output_hidden_states=two or clip_skip > 0)
            if two:
                read = output.hidden_states[-2 - clip_skip]
                pooled = output.text_embeds if number > 0 else None
            elif clip_skip > 0:
                read = encoder.final_layer_norm(output.hidden_states[-1 - clip_skip])
            else:
                read = output[0]
            states.append(weighed(read, weights[number]) if weights else read)
        return TextStates(states[0] if len(states) == 1 else torch.cat(states, dim=-1), pooled)

    def _zeroed(self, found: TextStates, nothing: Sequence[bool]) -> TextStates:
        """With zeros for the rows of nothing, in a model that was trained so."""
        if not self.zeros_for_nothing or found.pooled is None:
            return found
        rows = torch.tensor(nothing, device=found.states.device)
        return TextStates(
            found.states.masked_fill(rows[:, None, None], 0.0),
            found.pooled.masked_fill(rows[:, None], 0.0),
        )

    def _windows(self, prompt: str, second: str) -> list[list[Window]]:
        """Of each tokenizer's."""
        with self.lock:
            return [
                windows_of(tokenizer, text)
                for tokenizer, text in zip(
                    self.tokenizers, [prompt, second or prompt], strict=False
                )
            ]

    def _ids(self, tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
        with self.lock:
            return tokenizer(
                [worded(tokenizer, p) for p in prompts],
                padding="max_length",
                truncation=True,
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids
