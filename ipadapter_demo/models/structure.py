"""ControlNet and T2I-Adapter behind one interface: what they add to the UNet at one step.

A ControlNet (arXiv 2302.05543) runs at every step and reads the text, never the image tokens. A
T2I-Adapter (arXiv 2302.08453) reads its map once; its features serve all steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import ControlNetModel, T2IAdapter


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """Additions to the UNet's features, in its own order. Empty where a network adds nothing."""

    skips: tuple[Tensor, ...] = ()  # one a skip connection (ControlNet)
    middle: Tensor | None = None  # the middle block's output (ControlNet)
    encoder: tuple[Tensor, ...] = ()  # one a down block (T2I-Adapter)

    def __add__(self, other: Residuals) -> Residuals:
        middle = self.middle if other.middle is None else other.middle
        if self.middle is not None and other.middle is not None:
            middle = self.middle + other.middle
        return Residuals(_sums(self.skips, other.skips), middle,
                         _sums(self.encoder, other.encoder))

    def unet_arguments(self) -> dict[str, object]:
        arguments: dict[str, object] = {}
        if self.skips:
            arguments["down_block_additional_residuals"] = self.skips
            arguments["mid_block_additional_residual"] = self.middle
        if self.encoder:
            arguments["down_intrablock_additional_residuals"] = list(self.encoder)  # it pops
        return arguments


def _sums(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if not ours or not theirs:
        return ours or theirs
    return tuple(a + b for a, b in zip(ours, theirs, strict=True))


def total(residuals: Iterable[Residuals]) -> Residuals:
    return sum(residuals, start=Residuals())


def around_hole(pixels: Tensor, hole: Tensor) -> Tensor:
    """What an inpainting network reads: pixels (B, 3, H, W) in [0, 1], grey where hole (B, 1, H, W)
    is 1, and the hole as a fourth channel."""
    return torch.cat([torch.where(hole > 0, 0.5, pixels), hole], dim=1)


class StructureNet(Protocol):
    """A network that reads one kind of map."""

    def read(self, map_pixels: Tensor) -> Guide:
        """map_pixels (B, 3 or 4, H, W) in [0, 1]. Whatever can be computed once a request, is."""
        ...

    def residuals(self, seen: tuple[Tensor, ...], noisy: Tensor, timestep: Tensor,
                  text_states: Tensor, weight: float,
                  added: dict[str, Tensor] | None) -> Residuals:
        """What was read, a row for each of `noisy`, as additions for one step."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """Maps, read by a network: one for all rows of a batch, or one for each."""

    net: StructureNet
    seen: tuple[Tensor, ...]

    def __call__(self, noisy: Tensor, timestep: Tensor, text_states: Tensor, weight: float,
                 added: dict[str, Tensor] | None = None) -> Residuals:
        rows = tuple(seen.expand(len(noisy), -1, -1, -1) for seen in self.seen)
        return self.net.residuals(rows, noisy, timestep, text_states, weight, added)

    @staticmethod
    def of_rows(guides: Iterable[Guide]) -> Guide:
        """Guides of one network and one map each, as that of as many rows."""
        each = list(guides)
        if all(guide is each[0] for guide in each):
            return each[0]
        return Guide(each[0].net, tuple(torch.cat(rows) for rows in zip(
            *(guide.seen for guide in each), strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class ControlNetStructure:
    net: ControlNetModel

    def read(self, map_pixels: Tensor) -> Guide:
        return Guide(self, (map_pixels.to(self.net.device, self.net.dtype),))

    def residuals(self, seen: tuple[Tensor, ...], noisy: Tensor, timestep: Tensor,
                  text_states: Tensor, weight: float,
                  added: dict[str, Tensor] | None) -> Residuals:
        skips, middle = self.net(
            noisy, timestep, encoder_hidden_states=text_states, controlnet_cond=seen[0],
            conditioning_scale=weight, added_cond_kwargs=added, return_dict=False,
        )
        return Residuals(skips=tuple(skips), middle=middle)


@dataclass(frozen=True, slots=True, eq=False)
class T2IAdapterStructure:
    net: T2IAdapter

    def read(self, map_pixels: Tensor) -> Guide:
        whole = _in_whole_cells(map_pixels, self.net.downscale_factor)
        return Guide(self, tuple(self.net(whole.to(self.net.device, self.net.dtype))))

    def residuals(self, seen: tuple[Tensor, ...], noisy: Tensor, timestep: Tensor,
                  text_states: Tensor, weight: float,
                  added: dict[str, Tensor] | None) -> Residuals:
        return Residuals(encoder=tuple(weight * features for features in seen))


def _in_whole_cells(map_pixels: Tensor, cell: int) -> Tensor:
    """The last row and column repeated until both sides are multiples of `cell`: a T2I-Adapter of
    SDXL reads cells of 16 pixels, and the UNet rounds its sides up likewise."""
    height, width = map_pixels.shape[-2:]
    return F.pad(map_pixels, (0, -width % cell, 0, -height % cell), mode="replicate")
