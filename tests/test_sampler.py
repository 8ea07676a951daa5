"""The loop and every sampler, held against a denoiser whose answer is known: no UNet, no mask."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

import pytest
import torch
from torch import Tensor

from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline.latents import LatentInit
from ipadapter_demo.pipeline.sampler import Guidance, LoopHooks, denoise
from ipadapter_demo.pipeline.samplers import SAMPLERS, new_scheduler
from ipadapter_demo.pipeline.schedule import NoiseLevel, Schedule
from ipadapter_demo.request import SAMPLERS as REQUESTED
from tests.tiny import noise

SD15: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
# Those that follow the probability flow: no step of theirs adds noise.
FLOWING = ("dpm++", "ddim", "pndm", "euler")
POINT = torch.tensor([0.3, -0.7, 1.2, -1.5]).view(1, 4, 1, 1)


@dataclass(frozen=True)
class Always:
    """Conditions that are the same in every step: the mean of the data."""

    mean: Tensor

    def at(self, step: int, steps: int) -> Always:
        return self


@dataclass(frozen=True)
class GaussianDenoiser:
    """The ideal denoiser of data that is Gaussian; with a spread of 0, of a single point.

    E[x0 | x] is linear in x, and whatever a model predicts follows from it.
    """

    prediction: str
    spread: float = 0.0

    def prepare(self, conditions: Always) -> None:
        pass

    def predict(self, latents: Tensor, level: NoiseLevel, conditions: Always) -> Tensor:
        signal, sigma, mean = level.signal, level.noise, conditions.mean
        variance = (signal * self.spread) ** 2 + sigma**2
        clean = mean + signal * self.spread**2 / variance * (latents - signal * mean)
        eps = (latents - signal * clean) / sigma
        return {
            "epsilon": eps,
            "v_prediction": signal * eps - sigma * clean,
            "flow_prediction": eps - clean,
        }[self.prediction]


def generators(count: int) -> tuple[torch.Generator, ...]:
    return tuple(torch.Generator().manual_seed(i) for i in range(count))


def run(
    sampler: str,
    prediction: str = "epsilon",
    mean: Tensor = POINT,
    spread: float = 0.0,
    guidance: float = 1.0,
    steps: int = 20,
    init: LatentInit | None = None,
) -> list[Any]:
    config = SD15 | {"prediction_type": prediction}
    if prediction == "flow_prediction":
        config["use_flow_sigmas"] = True
    init = init or LatentInit(noise(1, 4, 4, 8, 8), generators(4))
    schedule = Schedule(new_scheduler(sampler, config), steps, init.strength)
    return list(
        denoise(
            GaussianDenoiser(prediction, spread),
            schedule,
            Guidance(guidance),
            init,
            Always(mean),
            Lock(),
            LoopHooks(),
        )
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_single_point_is_arrived_at(sampler: str, prediction: str) -> None:
    """From the first step on the clean latents are the point; so are, at the end, the latents, but
    for the noise that DDIM and PNDM leave at the last of the training's levels, 0.03 of it."""
    taken = run(sampler, prediction)
    for step in taken:
        torch.testing.assert_close(step.clean, POINT.expand_as(step.clean), rtol=0, atol=1e-4)
    left = 0.03 * 4.5 if sampler in ("ddim", "pndm") else 1e-5
    assert (taken[-1].latents - POINT).abs().max() < left


def test_a_flow_model_goes_through_the_same_loop() -> None:
    taken = run("dpm++", "flow_prediction")
    assert (taken[-1].latents - POINT).abs().max() < 1e-5


@pytest.mark.parametrize("sampler", FLOWING)
def test_a_gaussian_is_drawn_as_its_equation_says(sampler: str) -> None:
    """The probability flow (arXiv 2011.13456, section 4.3) of a Gaussian has a solution: what was
    so many deviations from the mean of the noisy data ends as many from that of the data."""
    init, spread = LatentInit(noise(2, 4, 4, 8, 8)), 0.5
    last = run(sampler, spread=spread, steps=200, init=init)[-1].latents
    first = Schedule(new_scheduler(sampler, SD15), 200).level(0)
    deviation = ((first.signal * spread) ** 2 + first.noise**2).sqrt()
    expected = POINT + spread * (init.noise - first.signal * POINT) / deviation
    torch.testing.assert_close(last, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_guidance_goes_beyond_the_condition(sampler: str) -> None:
    """Between two points it is linear: at a strength of 2 as far beyond one as it is from the
    other."""
    halves = torch.cat([torch.zeros_like(POINT), POINT]).repeat_interleave(4, dim=0)
    clean = run(sampler, mean=halves, guidance=2.0)[-1].clean
    torch.testing.assert_close(clean, (2 * POINT).expand_as(clean), rtol=0, atol=2e-2)


@pytest.mark.parametrize("sampler", FLOWING)
def test_a_given_picture_is_left_where_the_data_is_wide(sampler: str) -> None:
    """Of data as wide as can be, any picture is likely: the last steps bring it back."""
    first = 0.01 * noise(3, 1, 4, 8, 8)
    given = LatentInit(first, generators(1), noise(4, 1, 4, 8, 8), strength=0.2)
    taken = run(sampler, mean=torch.zeros(1, 4, 1, 1), spread=50.0, init=given)
    assert len(taken) == 4 + (sampler == "pndm")
    torch.testing.assert_close(taken[-1].latents, given.init_latents, rtol=0, atol=0.03 * 4.5)


def test_a_sampler_that_is_not_in_the_table_is_refused() -> None:
    assert tuple(SAMPLERS) == REQUESTED
    with pytest.raises(RequestError, match=r"sampler must be one of dpm\+\+, .*, got 'magic'"):
        new_scheduler("magic", SD15)
