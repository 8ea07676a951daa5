"""One request, or a batch of them, read: all that a denoiser is given beside the latents.

Rows of a guided batch are [unconditional..., conditional...], as everywhere in diffusers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.adapter import ImagePrompt
from ipadapter_demo.models.structure import ControlCondition
from ipadapter_demo.request import Window


@dataclass(frozen=True, slots=True, eq=False)
class ActiveControl:
    """A structure network's condition, with the weight and the part of the steps it acts in."""

    condition: ControlCondition
    weight: float
    window: Window


@dataclass(frozen=True, slots=True, eq=False)
class TimedPrompt:
    """An image branch and the part of the steps in which its references act."""

    window: Window
    prompt: ImagePrompt


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """Without guidance there is no unconditional half, and so it is outside its window."""

    text_states: Tensor  # (rows, tokens, cross_dim)
    added: dict[str, Tensor] | None  # what SDXL's UNet and ControlNets want besides
    image_prompts: tuple[TimedPrompt, ...]
    image_window: Window
    structures: tuple[ActiveControl, ...]
    maps: tuple[Image.Image, ...]
    unconditional: int = 0  # rows of the unconditional half
    # (images or 1, 5, h, w): to a UNet trained for inpainting, the mask and what is left around it
    mask_conditioning: Tensor | None = None
    guidance_window: Window = (0.0, 1.0)

    @property
    def guided(self) -> bool:
        return self.unconditional > 0

    def at(self, step: int, steps: int) -> Conditions:
        """Those that act in one step."""

        def now(window: Window) -> bool:
            return is_active(window, step, steps)

        acts = now(self.image_window)
        active = replace(
            self,
            image_prompts=tuple(p for p in self.image_prompts if acts and now(p.window)),
            structures=tuple(s for s in self.structures if s.weight > 0 and now(s.window)),
        )
        return active if now(self.guidance_window) else active.conditional()

    def conditional(self) -> Conditions:
        """The conditional half alone."""
        first = self.unconditional
        if first == 0:
            return self
        return replace(
            self,
            text_states=self.text_states[first:],
            added=self.added and {name: rows[first:] for name, rows in self.added.items()},
            image_prompts=tuple(
                moved_by(-first, timed)
                for timed in self.image_prompts
                if timed.prompt.rows.start >= first
            ),
            structures=tuple(
                replace(s, condition=s.condition.from_row(first)) for s in self.structures
            ),
            unconditional=0,
        )


def moved_by(rows: int, timed: TimedPrompt) -> TimedPrompt:
    """The same branch for rows so many places on."""
    own = timed.prompt.rows
    return replace(timed, prompt=timed.prompt.on_rows(slice(own.start + rows, own.stop + rows)))


def is_active(window: Window, step: int, steps: int) -> bool:
    """True if a step lies wholly inside a window of fractions, as diffusers counts it."""
    return window[0] <= step / steps and (step + 1) / steps <= window[1]


def ever_active(steps: int, *windows: Window) -> bool:
    """True if one of `steps` lies in all of these windows."""
    return any(all(is_active(window, i, steps) for window in windows) for i in range(steps))


def collate(each: Sequence[Conditions], counts: Sequence[int]) -> Conditions:
    """The conditions of requests in one batch: rows [all unconditional..., all conditional...].

    `counts` are their numbers of images. Windows must be the same in all of them, and structures
    but for their maps.
    """
    if len(each) == 1:
        return each[0]
    images = sum(counts)
    prompts, before = [], 0
    for own, count in zip(each, counts, strict=True):
        for timed in own.image_prompts:
            # a branch lies in one half, and each half is longer by the other requests' rows
            half = timed.prompt.rows.start // count
            prompts.append(moved_by(half * (images - count) + before, timed))
        before += count
    added = [own.added for own in each if own.added is not None]
    return replace(
        each[0],
        text_states=_by_half([own.text_states for own in each], counts),
        added={name: _by_half([own[name] for own in added], counts) for name in added[0]}
        if added
        else None,
        image_prompts=tuple(prompts),
        structures=tuple(
            _of_rows(column, counts, len(each[0].text_states) // counts[0])
            for column in zip(*(own.structures for own in each), strict=True)
        ),
        unconditional=sum(own.unconditional for own in each),
        mask_conditioning=of_images([own.mask_conditioning for own in each], counts),
    )


def of_images(each: Sequence[Tensor | None], counts: Sequence[int]) -> Tensor | None:
    """One tensor of all images, from a tensor a request, of one row or of one for each image."""
    rows = [
        own.expand(count, -1, -1, -1)
        for own, count in zip(each, counts, strict=True)
        if own is not None
    ]
    return torch.cat(rows) if rows else None


def _of_rows(each: Sequence[ActiveControl], counts: Sequence[int], halves: int) -> ActiveControl:
    """One structure of every request, as that of all rows of the batch."""
    controls = [
        own.condition for own, count in zip(each, counts, strict=True) for _ in range(count)
    ]
    return replace(each[0], condition=ControlCondition.of_rows(controls * halves))


def _by_half(rows: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Batches [unconditional, conditional], or without guidance [conditional], as one of these."""
    halves = zip(*(own.split(count) for own, count in zip(rows, counts, strict=True)), strict=True)
    return torch.cat([rows for half in halves for rows in half])
