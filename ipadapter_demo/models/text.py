"""Prompts as text states: one text encoder (SD 1.5), or two beside each other (SDXL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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
    """

    tokenizers: tuple[CLIPTokenizer, ...]
    encoders: tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]
    zeros_for_nothing: bool = False
    device: torch.device | str = "cpu"

    def encode(self, prompt: str, unconditional: bool = False) -> TextStates:
        return self.encode_all([prompt], [unconditional])

    @torch.no_grad()
    def encode_all(self, prompts: Sequence[str], unconditional: Sequence[bool]) -> TextStates:
        """Prompts in one batch (B, tokens, cross_dim); which of them are in the unconditional half
        matters to the empty ones only."""
        outputs = [
            encoder(
                self._ids(tokenizer, prompts).to(self.device),
                output_hidden_states=len(self.encoders) > 1,
            )
            for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True)
        ]
        if len(outputs) == 1:
            return TextStates(outputs[0][0])
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = outputs[-1].text_embeds
        if self.zeros_for_nothing:
            nothing = torch.tensor(
                [u and not p for p, u in zip(prompts, unconditional, strict=True)],
                device=states.device,
            )
            states = states.masked_fill(nothing[:, None, None], 0.0)
            pooled = pooled.masked_fill(nothing[:, None], 0.0)
        return TextStates(states, pooled)

    def tokens_used(self, prompt: str) -> tuple[int, int]:
        """Number of tokens of a prompt, and number of those that are read."""
        first = self.tokenizers[0]
        return len(first(self._worded(prompt)).input_ids), first.model_max_length

    def _ids(self, tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
        return tokenizer(
            [self._worded(p) for p in prompts],
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids

    def _worded(self, prompt: str) -> str:
        """A textual inversion of several vectors has a token for each: all of them are read."""
        from diffusers.loaders import TextualInversionLoaderMixin

        return TextualInversionLoaderMixin().maybe_convert_prompt(prompt, self.tokenizers[0])
