"""Attention maps for people: the places where each image prompt acts. They change no pixel.

The attention weights of the image branch, softmax(Q K'ᵀ / √d), say how a place divides its
attention between the references; with one reference they sum to 1 everywhere and say nothing. So
they are weighed by the share of the image branch beside the text: |λ Z_image| / (|Z_text| + |λ
Z_image|)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ipadapter_demo.adapter.joined_text import JoiningTokens

CELLS = 64  # of the longer side: finer than any layer, coarser than pixels
TILE = 16  # the same where every layer and step is kept: 50 steps of SD 1.5 are 200 KB a picture


class AttentionRecorder:
    """Given to one `ImagePrompt`; adds up what its branch does in every layer and step.

    `counts` are how many of the branch's tokens each reference has, in their order: one of several
    squares has those of all. `size` is (width, height) of the output.
    """

    def __init__(self, counts: Sequence[int], size: tuple[int, int]) -> None:
        self.counts, self.size = tuple(counts), size
        longest = max(size)
        self._grid = tuple(max(1, round(CELLS * side / longest)) for side in reversed(size))
        self._tile = tuple(max(1, round(TILE * side / longest)) for side in reversed(size))
        self._tiles: dict[int, list[Tensor]] = {}  # by layer, in the order of steps
        self._sum: Tensor | None = None
        self._seen = 0

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        text: Tensor,
        image: Tensor,
        grid: tuple[int, int],
        layer: int = 0,
    ) -> None:
        """query (rows, heads, L, d), key (1 or rows, heads, n, d); text and image (rows, L, width)
        are what both branches add; `grid` the (rows, columns) that the L queries lie in."""
        weights = attention_weights(query.float(), key.float()).mean(1)  # (rows, L, n)
        image_norm, text_norm = image.float().norm(dim=-1), text.float().norm(dim=-1)
        beside = (image_norm / (image_norm + text_norm).clamp(min=1e-9)).unsqueeze(-1)
        self._add(self._of_each(weights) * beside, grid, layer)

    def joined(
        self,
        query: Tensor,
        text_key: Tensor,
        tokens: JoiningTokens,
        grid: tuple[int, int],
        layer: int = 0,
    ) -> None:
        """Of tokens in one softmax with the text's, whose keys are (rows, heads, m, d): the share
        that they have of it."""
        count, n = len(query), tokens.key.shape[2]
        keys = torch.cat([text_key, tokens.key.expand(count, -1, -1, -1)], dim=2)
        bias = F.pad(tokens.bias(query.shape[2]).float(), (text_key.shape[2], 0))
        weights = attention_weights(query.float(), keys.float(), bias).mean(1)
        self._add(self._of_each(weights[..., -n:]), grid, layer)

    def grid(self, queries: int) -> tuple[int, int]:
        """The (rows, columns) that a layer's queries lie in."""
        width, height = self.size
        return query_grid(height, width, queries)

    def _of_each(self, weights: Tensor) -> Tensor:
        """(rows, L, n) -> (rows, L, references)"""
        return torch.stack([part.sum(2) for part in weights.split(self.counts, dim=2)], dim=2)

    def _add(self, amounts: Tensor, grid: tuple[int, int], layer: int) -> None:
        # on the CPU: not every device has areas that do not divide a side
        maps = amounts.transpose(1, 2).unflatten(2, grid).cpu()  # (rows, references, height, width)
        tile = F.interpolate(maps, self._tile, mode="area")
        self._tiles.setdefault(layer, []).append((tile * 255).round().byte())
        maps = F.interpolate(maps, self._grid, mode="bilinear", align_corners=False)
        self._sum = maps if self._sum is None else self._sum + maps
        self._seen += 1

    def maps(self) -> Tensor:
        """(rows, references, height, width) in [0, 1], the mean over layers and steps."""
        assert self._sum is not None, "the branch was never active"
        return self._sum / self._seen

    def tiles(self) -> tuple[Tensor, int, int]:
        """uint8 (rows, references, layers * h, steps * w), and how many layers and steps: the maps
        of every call, side by side. Layers in which the branch never acted are black."""
        layers, steps = 1 + max(self._tiles), max(map(len, self._tiles.values()))
        first = next(iter(self._tiles.values()))[0]
        black = torch.zeros_like(first)
        rows = [
            torch.cat([*found, *[black] * (steps - len(found))], dim=3)
            for found in (self._tiles.get(layer, []) for layer in range(layers))
        ]
        return torch.cat(rows, dim=2), layers, steps

    @property
    def is_empty(self) -> bool:
        return self._sum is None


def attention_weights(query: Tensor, key: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """softmax(Q Kᵀ / √d + bias) over the keys: (B, heads, L, d), (1 or B, heads, n, d) ->
    (B, heads, L, n). The softmax is of the product: taken of the keys alone, as in some published
    code, rows would not even sum to 1."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return torch.softmax(scores + bias, dim=-1)


def query_grid(height: int, width: int, queries: int) -> tuple[int, int]:
    """The (rows, columns) a layer's queries are laid out in, for an output of this size.

    A UNet halves rounding up, so this does too. diffusers knows the proportions only, which gives
    the same grid except where a side is odd: it lays a 5 x 4 layer out as 4 x 5.
    """
    rows, columns = height, width
    while rows * columns > queries:
        rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
    if rows * columns != queries:  # the mask has a size of its own: its proportions must do
        rows = max(1, int(math.sqrt(queries * height / width)))
        rows += queries % rows != 0
        columns = queries // rows
    assert rows * columns == queries, f"a {width}x{height} mask does not fit {queries} queries"
    return rows, columns
