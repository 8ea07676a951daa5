"""Prompts of any length, as windows of a text encoder: each begins and ends as a whole prompt does,
and the states of all stand behind each other. AUTOMATIC1111's web UI and diffusers' community
pipelines read long prompts so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count, takewhile
from typing import TYPE_CHECKING
from unicodedata import normalize

import torch
from torch import Tensor

from ipadapter_demo.prompt_syntax import parts_of

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

BACKTRACK = 20  # tokens behind a comma that go to the next window rather than being torn apart

Window = list[tuple[int, float]]  # tokens and their weights, without beginning and end


def windows_of(tokenizer: CLIPTokenizer, prompt: str) -> list[Window]:
    """Of a prompt with weights: at least one. A window that is full, or ended by BREAK, goes on in
    the next; a learnt word of several vectors stays in one."""
    room = tokenizer.model_max_length - 2
    comma = tokenizer.get_vocab().get(",</w>")
    found: list[Window] = []
    window: Window = []
    behind: int | None = None  # the last comma of this window

    def end(at: int | None = None) -> None:
        nonlocal window, behind
        found.append(window[:at])
        window, behind = [] if at is None else window[at:], None

    for number, part in enumerate(parts_of(prompt)):
        if number > 0:
            end()
        for fragment in part:
            for tokens in _words(tokenizer, fragment.text, room):
                if tokens == [comma]:
                    behind = len(window) + 1
                elif len(window) == room and behind and room - behind < BACKTRACK:
                    end(behind)
                if len(window) + len(tokens) > room:
                    end()
                window += [(token, fragment.weight) for token in tokens]
    if window or not found:
        end()
    return found


def ids_and_weights(tokenizer: CLIPTokenizer, window: Window) -> tuple[Tensor, Tensor]:
    """(1, L) and (L,), as the tokenizer itself begins, ends and pads."""
    length = tokenizer.model_max_length
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    tokens, weights = zip(*((begin, 1.0), *window, (end, 1.0)), strict=True)
    rest = length - len(tokens)
    return torch.tensor([[*tokens, *[pad] * rest]]), torch.tensor([*weights, *[1.0] * rest])


def weighed(states: Tensor, weights: Tensor) -> Tensor:
    """states (1, L, width) times weights (L,), brought back to the mean that they had."""
    if bool((weights == 1.0).all()):
        return states
    plain = states.float()
    found = plain * weights.to(plain)[:, None]
    return (found * (plain.mean() / found.mean())).to(states.dtype)


def worded(tokenizer: CLIPTokenizer, prompt: str) -> str:
    """A textual inversion of several vectors has a token for each: all of them are read. Learnt
    words are found as the tokenizer finds them: in any case, the longest first."""
    learnt = {normalize("NFC", word).lower(): word for word in tokenizer.added_tokens_encoder}

    def all_tokens(found: re.Match[str]) -> str:
        names = (f"{found[0].lower()}_{n}" for n in count(1))
        return " ".join(
            [found[0], *(learnt[name] for name in takewhile(learnt.__contains__, names))]
        )

    words = "|".join(map(re.escape, sorted(learnt, key=len, reverse=True)))
    return re.sub(words, all_tokens, normalize("NFC", prompt), flags=re.IGNORECASE)


def _words(tokenizer: CLIPTokenizer, text: str, room: int) -> Iterator[list[int]]:
    """Tokens one by one, those of a learnt word (`word`, `word_1`, ...) together if they have
    room."""
    learnt = {number: name for name, number in tokenizer.added_tokens_encoder.items()}
    word: list[int] = []
    for token in tokenizer(
        worded(tokenizer, text), add_special_tokens=False, verbose=False
    ).input_ids:
        follows = re.search(rf"_{len(word)}$", learnt.get(token, ""))
        if word and not (follows and len(word) < room):
            yield word
            word = []
        word.append(token)
    if word:
        yield word
