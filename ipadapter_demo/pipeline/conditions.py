"""A request, read: all that a denoiser is given beside the latents.

Rows of a guided request are [unconditional..., conditional...], as everywhere in diffusers. In a
call that several requests share, those of one come after those of the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.adapter import ImagePrompt
from ipadapter_demo.models.structure import ControlCondition, StructureNet
from ipadapter_demo.request import Window


@dataclass(frozen=True, slots=True, eq=False)
class ActiveControl:
    """A structure network's condition, with the weight and the part of the steps it acts in."""

    condition: ControlCondition
    weight: float
    window: Window
    rows: Sequence[int] | None = None  # of a shared call, those it acts on

    def acts_on(self, rows: int, unconditional: int) -> Sequence[int]:
        """Those of all `rows`, of which the first are the unconditional half."""
        if self.rows is not None:
            return self.rows
        return range(unconditional if self.condition.net.conditional_only else 0, rows)


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
                replace(timed, prompt=timed.prompt.moved(-first))
                for timed in self.image_prompts
                if timed.prompt.rows.start >= first
            ),
            structures=tuple(
                replace(s, condition=s.condition.from_row(first)) for s in self.structures
            ),
            unconditional=0,
        )


def is_active(window: Window, step: int, steps: int) -> bool:
    """True if a step lies wholly inside a window of fractions, as diffusers counts it."""
    return window[0] <= step / steps and (step + 1) / steps <= window[1]


def ever_active(steps: int, *windows: Window) -> bool:
    """True if one of `steps` lies in all of these windows."""
    return any(all(is_active(window, i, steps) for window in windows) for i in range(steps))


def joined(each: Sequence[Conditions]) -> Conditions:
    """Those of several calls in one: rows of one call after those of the other.

    All of them are for one model, so each has what the others have besides text. A structure
    network that some have runs once, on their rows, where its weight is the same.
    """
    starts = list(accumulate((len(own.text_states) for own in each), initial=0))
    added = [own.added for own in each if own.added is not None]
    masks = [
        own.mask_conditioning.repeat(len(own.text_states) // len(own.mask_conditioning), 1, 1, 1)
        for own in each
        if own.mask_conditioning is not None
    ]
    return Conditions(
        text_states=torch.cat([own.text_states for own in each]),
        added={name: torch.cat([own[name] for own in added]) for name in added[0]}
        if added
        else None,
        image_prompts=tuple(
            replace(timed, prompt=timed.prompt.moved(start))
            for own, start in zip(each, starts, strict=False)
            for timed in own.image_prompts
        ),
        image_window=(0.0, 1.0),
        structures=_joined_structures(each, starts),
        maps=(),
        mask_conditioning=torch.cat(masks) if masks else None,
    )


def _joined_structures(
    each: Sequence[Conditions], starts: Sequence[int]
) -> tuple[ActiveControl, ...]:
    found: dict[tuple[StructureNet, float, int], list[tuple[int, ControlCondition]]] = {}
    for own, start in zip(each, starts, strict=False):
        seen: Counter[tuple[StructureNet, float]] = Counter()
        for control in own.structures:
            key = control.condition.net, control.weight
            seen[key] += 1  # a request may have the same network twice
            rows = control.acts_on(len(own.text_states), own.unconditional)
            found.setdefault((*key, seen[key]), []).extend(
                (start + row, control.condition) for row in rows
            )
    return tuple(
        ActiveControl(
            ControlCondition.of_rows([condition for _, condition in rows]),
            weight,
            (0.0, 1.0),
            tuple(row for row, _ in rows),
        )
        for (_, weight, _), rows in found.items()
    )
