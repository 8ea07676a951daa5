"""A LoRA with which a model draws in few steps, and the values it was distilled for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ipadapter_demo.lora import Lora
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.sampling import Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class FewStep:
    """Guidance is folded into the LoRA, so 1, which costs nothing, is right for most."""

    lora: str  # one of the model's, by name
    steps: int = 4
    guidance: float = 1.0
    sampler: Sampler = "lcm"

    def applied(self, request: GenerateRequest, usual: Sequence[Lora]) -> GenerateRequest:
        """The same request in few steps; `usual` are the LoRAs of one that names none."""
        loras = request.loras if request.loras is not None else tuple(usual)
        others = tuple(lora for lora in loras if lora.name != self.lora)
        return replace(
            request,
            loras=(*others, Lora(name=self.lora)),
            steps=self.steps,
            guidance=self.guidance,
            guidance_rescale=0.0,
            sampler=self.sampler,
            noise_schedule="default",
        )
