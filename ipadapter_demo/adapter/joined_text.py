"""Image tokens behind the text's own, in one softmax with them: how T2I-Adapter's style adapter
(arXiv 2302.08453) prompts.

    Z_new = Attention(Q, [K; λ K'], [V; λ V'])

K' and V' are the layer's own K and V of the image tokens, so that this is the attention of tokens
times λ. At λ = 0 there are no such tokens. A region is a weight of the tokens in the softmax, from
0, where a query does not see them, to 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class JoiningTokens:
    """λ K' and λ V', (1 or rows, heads, n, head_dim) each, for some rows of a batch, and the region
    of each query, (1 or rows, L, 1) in [0, 1]."""

    rows: slice
    key: Tensor
    value: Tensor
    region: Tensor | None = None

    def bias(self, queries: int) -> Tensor:
        """(1 or rows, 1, L, n), to be added to the scores of L queries."""
        count = self.key.shape[2]
        if self.region is None:
            return self.key.new_zeros(1, 1, queries, count)
        return self.region.clamp(0, 1).log()[:, None].expand(-1, -1, -1, count)

    def on(self, rows: slice, of: Tensor) -> Tensor:
        """The part of one of its tensors for rows that are among its own."""
        first, count = rows.start - self.rows.start, rows.stop - rows.start
        return of.expand(count, -1, -1, -1) if len(of) == 1 else of[first : first + count]


def by_rows(
    joining: Sequence[JoiningTokens],
) -> Iterator[tuple[slice, list[JoiningTokens]]]:
    """Rows that have the same tokens, with those: each row once, rows without any left out."""
    edges = {edge for one in joining for edge in (one.rows.start, one.rows.stop)}
    for start, stop in pairwise(sorted(edges)):
        acting = [one for one in joining if one.rows.start <= start and stop <= one.rows.stop]
        if acting:
            yield slice(start, stop), acting


def joined_text(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: slice,
    acting: Sequence[JoiningTokens],
) -> Tensor:
    """query (rows, heads, L, head_dim), key and value of the text likewise, of these rows alone ->
    (rows, heads, L, head_dim)."""
    bias = None
    if any(one.region is not None for one in acting):
        queries = query.shape[2]
        free = query.new_zeros(len(query), 1, queries, key.shape[2])
        found = (one.on(rows, one.bias(queries)).to(query) for one in acting)
        bias = torch.cat([free, *found], dim=3)
    return F.scaled_dot_product_attention(
        query,
        torch.cat([key, *(one.on(rows, one.key) for one in acting)], dim=2),
        torch.cat([value, *(one.on(rows, one.value) for one in acting)], dim=2),
        attn_mask=bias,
    )
