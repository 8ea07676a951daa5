"""The recommended values of a model: the catalogue, the published models and `ModelInfo` hold one.

A value that is to be recommended as well is a field here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ipadapter_demo.request import SAMPLERS, Sampler, Window
from ipadapter_demo.sampling import NoiseSchedule, schedule_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """The values of a request for fields that it leaves open.

    λ is the first authors' advice unless a model says otherwise: 1 for a picture alone, about half
    beside a prompt (https://github.com/tencent-ailab/IP-Adapter, "Best Practice").
    """

    image_scale: float = 1.0  # λ for a picture alone
    text_image_scale: float = 0.6  # λ beside a prompt
    map_image_scale: float = 1.0  # λ beside maps
    guidance: float = 7.5
    guidance_window: Window = (0.0, 1.0)
    # DPM-Solver++ needs 15 to 20 with guidance (arXiv 2211.01095, abstract); its documentation in
    # diffusers says 20 (https://huggingface.co/docs/diffusers/api/schedulers/multistep_dpm_solver)
    steps: int = 20
    text_steps: int | None = None  # with a prompt; None: the same
    paint_steps: int | None = None  # of inpainting without a prompt; None: the same
    paint_guidance: float | None = None  # of inpainting; None: the same
    paint_guidance_window: Window = (0.0, 1.0)  # of inpainting
    sampler: Sampler = SAMPLERS[0]
    noise_schedule: NoiseSchedule = "default"
    repaint_passes: int = 1  # of inpainting: how often a step is taken
    context: float = 1.0  # of inpainting: how much of the picture is seen
    background_weight: float = 0.0  # of inpainting: the picture as a prompt around the mask

    def scale_for(self, prompt: bool = False, maps: bool = False) -> float:
        """λ for a picture alone, or for one that shares with a prompt or with maps."""
        if prompt:
            return self.text_image_scale
        return self.map_image_scale if maps else self.image_scale

    def steps_for(self, prompt: bool, inpainting: bool = False) -> int:
        other = self.text_steps if prompt else self.paint_steps if inpainting else None
        return self.steps if other is None else other

    def guidance_for(self, inpainting: bool) -> float:
        other = self.paint_guidance
        return other if inpainting and other is not None else self.guidance

    def guidance_window_for(self, inpainting: bool) -> Window:
        return self.paint_guidance_window if inpainting else self.guidance_window

    def sampler_for(self, inpainting: bool) -> Sampler:
        """For inpainting the one that takes steps again, where `repaint_passes` asks for that."""
        return "ddim" if inpainting and self.repaint_passes > 1 else self.sampler

    @property
    def inpainting(self) -> dict[str, Any]:
        """The fields of an `Inpaint`."""
        names = ("repaint_passes", "context", "background_weight")
        return {name: getattr(self, name) for name in names}

    def fields_beside(self, given: Mapping[str, object]) -> dict[str, Any]:
        """The fields of a request that belong to those `given`."""
        inpainting = bool(given.get("inpaint"))
        found = {
            "guidance": self.guidance_for(inpainting),
            "guidance_window": self.guidance_window_for(inpainting),
            "steps": self.steps_for(bool(given.get("prompt")), inpainting),
            "image_scale": self.scale_for(bool(given.get("prompt")), bool(given.get("structures"))),
            "sampler": self.sampler_for(inpainting),
            "noise_schedule": self.noise_schedule,
        }
        return fitting(found, given)


def fitting(found: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The recommended fields with a noise schedule that the sampler takes, which may be a `given`
    one."""
    sampler = given.get("sampler") or found["sampler"]
    return found | {"noise_schedule": schedule_for(sampler, found["noise_schedule"])}
