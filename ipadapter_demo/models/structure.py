"""ControlNet and T2I-Adapter behind one interface: what they add to the UNet at one step.

A ControlNet (arXiv 2302.05543) runs at every step and reads the text, never the image tokens; its
map it embeds once. A T2I-Adapter (arXiv 2302.08453) reads its map once; its features serve all
steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.compiled import controlnet_output

if TYPE_CHECKING:
    from diffusers import ControlNetModel, ModelMixin, T2IAdapter


@dataclass(frozen=True, slots=True, eq=False)
class ControlResiduals:
    """Additions to the UNet's features, in its own order. Empty where a network adds nothing."""

    skips: tuple[Tensor, ...] = ()  # one a skip connection (ControlNet)
    middle: Tensor | None = None  # the middle block's output (ControlNet)
    encoder: tuple[Tensor, ...] = ()  # one a down block (T2I-Adapter)

    def __add__(self, other: ControlResiduals) -> ControlResiduals:
        middle = self.middle if other.middle is None else other.middle
        if self.middle is not None and other.middle is not None:
            middle = self.middle + other.middle
        return ControlResiduals(
            _sums(self.skips, other.skips), middle, _sums(self.encoder, other.encoder)
        )

    def on_rows(self, rows: slice | Tensor, count: int) -> ControlResiduals:
        """The same for some of `count` rows, and zeros for the others."""

        def spread(own: Tensor) -> Tensor:
            every = own.new_zeros(count, *own.shape[1:])
            every[rows] = own
            return every

        return ControlResiduals(
            tuple(map(spread, self.skips)),
            None if self.middle is None else spread(self.middle),
            tuple(map(spread, self.encoder)),
        )

    def unet_arguments(self) -> dict[str, object]:
        arguments: dict[str, object] = {}
        if self.skips:
            arguments["down_block_additional_residuals"] = self.skips
            arguments["mid_block_additional_residual"] = self.middle
        if self.encoder:
            arguments["down_intrablock_additional_residuals"] = list(self.encoder)  # it pops
        return arguments


def _sums(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Some T2I-Adapters have features for the middle block as well, and some have not."""
    both = tuple(a + b for a, b in zip(ours, theirs, strict=False))
    return both + ours[len(both) :] + theirs[len(both) :]


def total(residuals: Iterable[ControlResiduals]) -> ControlResiduals:
    return sum(residuals, start=ControlResiduals())


def around_hole(pixels: Tensor, hole: Tensor) -> Tensor:
    """The input of an inpainting network: pixels (B, 3, H, W) in [0, 1], grey where hole
    (B, 1, H, W) is 1, and the hole as a fourth channel."""
    return torch.cat([torch.where(hole > 0, 0.5, pixels), hole], dim=1)


class StructureNet(Protocol):
    """A network that reads one kind of map."""

    @property
    def net(self) -> ModelMixin: ...

    @property
    def conditional_only(self) -> bool:
        """True if it adds nothing to the unconditional half of guidance."""
        ...

    def read(self, map_pixels: Tensor) -> ControlCondition:
        """map_pixels (B, 3 or 4, H, W) in [0, 1]. Whatever can be computed once a request, is."""
        ...

    def residuals(
        self,
        seen: tuple[Tensor, ...],
        noisy: Tensor,
        timestep: Tensor,
        text_states: Tensor,
        weight: float,
        added: dict[str, Tensor] | None,
    ) -> ControlResiduals:
        """Additions for one step, of the condition that was read, a row for each of `noisy`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ControlCondition:
    """Maps, read by a network: one for all rows of a batch, or one for each."""

    net: StructureNet
    seen: tuple[Tensor, ...]

    def __call__(
        self,
        noisy: Tensor,
        timestep: Tensor,
        text_states: Tensor,
        weight: float,
        added: dict[str, Tensor] | None = None,
    ) -> ControlResiduals:
        rows = tuple(seen.expand(len(noisy), -1, -1, -1) for seen in self.seen)
        return self.net.residuals(rows, noisy, timestep, text_states, weight, added)

    def from_row(self, first: int) -> ControlCondition:
        """For the rows of a batch from `first` on alone."""
        return ControlCondition(self.net, tuple(s[first:] if len(s) > 1 else s for s in self.seen))

    @staticmethod
    def of_rows(controls: Iterable[ControlCondition]) -> ControlCondition:
        """Conditions of one network and one map each, as one condition of as many rows."""
        each = list(controls)
        if all(control.seen is each[0].seen for control in each):
            return each[0]
        return ControlCondition(
            each[0].net,
            tuple(
                torch.cat(rows) for rows in zip(*(control.seen for control in each), strict=True)
            ),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ControlNetStructure:
    """Raises ModelError for a network that reads maps of other than one or three channels."""

    net: ControlNetModel

    def __post_init__(self) -> None:
        _check_channels("ControlNet", self._channels, (1, 3))

    @property
    def conditional_only(self) -> bool:
        """A network with `global_pool_conditions` ("shuffle") was trained so. Each by its own
        configuration; diffusers' pipelines ask only the first of several.
        https://github.com/lllyasviel/ControlNet-v1-1-nightly/blob/main/gradio_shuffle.py
        """
        return bool(self.net.config.global_pool_conditions)

    @property
    def _channels(self) -> int:
        return self.net.config.conditioning_channels

    def read(self, map_pixels: Tensor) -> ControlCondition:
        from ipadapter_demo.models.map_embedding import embedded

        pixels = _of_channels(map_pixels, self._channels).to(self.net.device, self.net.dtype)
        return ControlCondition(self, (embedded(self.net, pixels),))

    def residuals(
        self,
        seen: tuple[Tensor, ...],
        noisy: Tensor,
        timestep: Tensor,
        text_states: Tensor,
        weight: float,
        added: dict[str, Tensor] | None,
    ) -> ControlResiduals:
        skips, middle = controlnet_output(
            self.net,
            noisy,
            timestep,
            weight,
            encoder_hidden_states=text_states,
            controlnet_cond=seen[0],
            added_cond_kwargs=added,
        )
        return ControlResiduals(skips=tuple(skips), middle=middle)


@dataclass(frozen=True, slots=True, eq=False)
class T2IAdapterStructure:
    """`channels` are the numbers of input channels that are taken: one (grey) or three of a map,
    four of `around_hole`. Raises ModelError for a network with others."""

    net: T2IAdapter
    channels: tuple[int, ...] = (1, 3)
    conditional_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_channels("T2I-Adapter", self.net.config.in_channels, self.channels)

    def read(self, map_pixels: Tensor) -> ControlCondition:
        """Sides need not be multiples of the network's own factor, 16 in SDXL: the map's edge is
        repeated, and features round up as the UNet's do."""
        pixels = _of_channels(map_pixels, self.net.config.in_channels)
        missing = [-side % self.net.downscale_factor for side in pixels.shape[-2:]]
        if any(missing):
            pixels = F.pad(pixels, (0, missing[1], 0, missing[0]), mode="replicate")
        return ControlCondition(self, tuple(self.net(pixels.to(self.net.device, self.net.dtype))))

    def residuals(
        self,
        seen: tuple[Tensor, ...],
        noisy: Tensor,
        timestep: Tensor,
        text_states: Tensor,
        weight: float,
        added: dict[str, Tensor] | None,
    ) -> ControlResiduals:
        return ControlResiduals(encoder=tuple(weight * features for features in seen))


def _check_channels(network: str, channels: int, taken: tuple[int, ...]) -> None:
    if channels not in taken:
        known = " or ".join(map(str, taken))
        raise ModelError(f"the {network} reads {channels} channels of a map, must be {known}")


def _of_channels(map_pixels: Tensor, channels: int) -> Tensor:
    """(B, C, H, W) in [0, 1] as a network reads it. One channel is grey, to the very level that
    Pillow's mode "L" has: https://github.com/python-pillow/Pillow/blob/11.0.0/src/libImaging/Convert.c#L45
    """
    if map_pixels.shape[1] == channels:
        return map_pixels
    assert (map_pixels.shape[1], channels) == (3, 1)
    red, green, blue = (map_pixels * 255).round().int().unbind(1)
    luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return luma.unsqueeze(1).to(map_pixels) / 255
