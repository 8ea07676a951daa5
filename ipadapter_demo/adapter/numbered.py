"""Image prompts for a compiled UNet. Its graph gets a number, as a tensor, and looks up what the
number stands for while it runs: so one graph serves any λ, any references, masks and windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import torch
from torch import Tensor

from ipadapter_demo.adapter.attention import ImagePrompt, add_images

_prompts: dict[int, Sequence[ImagePrompt]] = {}  # of the calls that run now
_numbers = count()


@contextmanager
def numbered(prompts: Sequence[ImagePrompt]) -> Iterator[Tensor]:
    """The number of prompts for one call, int64 on the CPU, in place of the prompts. Their K' and
    V' must have been computed before: see `fill_kv_cache`."""
    number = next(_numbers)
    _prompts[number] = prompts
    try:
        yield torch.tensor(number)
    finally:
        del _prompts[number]


@torch.library.custom_op("ipadapter_demo::add_images", mutates_args=("attended",))
def add_numbered_images(
    attended: Tensor, query: Tensor, key: Tensor, value: Tensor, number: Tensor, layer: int
) -> None:
    """Add the image branches of one layer to attended (B, L, width), which is the attention of
    query, (B, heads, L, d), to the text's key and value, (B, heads, tokens, d)."""
    acting = [prompt for prompt in _prompts[int(number)] if prompt.acts_in(layer)]
    pairs = [prompt.kv_cache[layer] for prompt in acting]
    add_images(attended, (query, key, value), acting, layer, pairs)
