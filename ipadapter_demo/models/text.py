"""What a prompt is to the UNet: one text encoder (SD 1.5), or two beside each other (SDXL)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


@dataclass(frozen=True, slots=True, eq=False)
class TextStates:
    """A prompt, read: (1, tokens, cross_dim), and for SDXL the pooled embedding (1, width)."""

    states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TextReader:
    """Tokenizers and encoders, pairwise. With two (arXiv 2307.01952, section 2.1) the penultimate
    states of both stand side by side, and the second's pooled output goes to the UNet as well.

    `zeros_for_nothing`: an empty prompt in the unconditional half is zeros, as SDXL was trained.
    """

    tokenizers: tuple[CLIPTokenizer, ...]
    encoders: tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]
    zeros_for_nothing: bool = False
    device: torch.device | str = "cpu"

    @torch.no_grad()
    def read(self, prompt: str, unconditional: bool = False) -> TextStates:
        outputs = [
            encoder(self._ids(tokenizer, prompt).to(self.device),
                    output_hidden_states=len(self.encoders) > 1)
            for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True)
        ]
        if len(outputs) == 1:
            return TextStates(outputs[0][0])
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        read = TextStates(states, outputs[-1].text_embeds)
        if unconditional and not prompt and self.zeros_for_nothing:
            assert read.pooled is not None
            return TextStates(torch.zeros_like(read.states), torch.zeros_like(read.pooled))
        return read

    def tokens_used(self, prompt: str) -> tuple[int, int]:
        """How many tokens a prompt has, and how many are read."""
        first = self.tokenizers[0]
        return len(first(self._worded(prompt)).input_ids), first.model_max_length

    def _ids(self, tokenizer: CLIPTokenizer, prompt: str) -> Tensor:
        return tokenizer(self._worded(prompt), padding="max_length", truncation=True,
                         max_length=tokenizer.model_max_length, return_tensors="pt").input_ids

    def _worded(self, prompt: str) -> str:
        """A textual inversion of several vectors has a token for each: all of them are read."""
        from diffusers.loaders import TextualInversionLoaderMixin

        return TextualInversionLoaderMixin().maybe_convert_prompt(prompt, self.tokenizers[0])
