"""Settings of what was distilled to few steps, a whole model or a LoRA."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ipadapter_demo.sampling import NoiseSchedule, Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class FewStep:
    """The values that its authors recommend for these fields of a request."""

    steps: int
    sampler: Sampler
    guidance: float = 1.0  # none
    noise_schedule: NoiseSchedule = "default"
    live_steps: int | None = None  # while somebody moves λ; None: as many

    @property
    def fields(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "live_steps"}
