"""The loop and every sampler, held against a denoiser whose answer is known: no UNet, no mask."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline.inpainting.hooks import InpaintHooks
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
    init = init or LatentInit(noise(1, 4, 4, 8, 8))
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
    left = 1e-5 if sampler in ("dpm++", "euler") else 0.03 * 4.5
    assert (taken[-1].latents - POINT).abs().max() < left


def test_a_flow_model_goes_through_the_same_loop() -> None:
    taken = run("dpm++", "flow_prediction")
    assert (taken[-1].latents - POINT).abs().max() < 1e-5


@pytest.mark.parametrize("sampler", SAMPLERS)
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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_given_picture_is_left_where_the_data_is_wide(sampler: str) -> None:
    """Of data as wide as can be, any picture is likely: the last steps bring it back."""
    given = LatentInit(0.01 * noise(3, 1, 4, 8, 8), (), noise(4, 1, 4, 8, 8), strength=0.2)
    taken = run(sampler, mean=torch.zeros(1, 4, 1, 1), spread=50.0, init=given)
    assert len(taken) == 4 + (sampler == "pndm")
    torch.testing.assert_close(taken[-1].latents, given.init_latents, rtol=0, atol=0.03 * 4.5)


def test_a_sampler_that_is_not_in_the_table_is_refused() -> None:
    assert tuple(SAMPLERS) == REQUESTED
    with pytest.raises(RequestError, match=r"sampler must be one of dpm\+\+, .*, got 'heun'"):
        new_scheduler("heun", SD15)


def test_what_is_refused_is_said_in_full() -> None:
    for config, sampler, said in (
        (SD15, "heun", "sampler must be one of dpm++, ddim, pndm, euler, got 'heun'"),
        (
            SD15 | {"rescale_betas_zero_snr": True},
            "pndm",
            "sampler must be one of dpm++, ddim, euler for a model with zero terminal SNR, got "
            "'pndm'",
        ),
    ):
        with pytest.raises(RequestError) as refusal:
            new_scheduler(sampler, config)
        assert str(refusal.value) == said


@pytest.mark.parametrize(
    ("sampler", "kind", "options"),
    [
        ("dpm++", DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
        ("ddim", DDIMScheduler, {}),
        ("pndm", PNDMScheduler, {"skip_prk_steps": True}),
        ("euler", EulerDiscreteScheduler, {}),
    ],
)
def test_a_sampler_has_the_noise_levels_of_its_model(
    sampler: str, kind: type, options: dict[str, Any]
) -> None:
    made = new_scheduler(sampler, SD15 | {"beta_end": 0.02})
    assert type(made).__name__ == kind.__name__
    assert made.config["beta_end"] == 0.02
    assert options.items() <= dict(made.config).items()


@pytest.mark.parametrize("rescale", [0.0, 0.3, 1.0])
def test_guidance_by_its_formula(rescale: float) -> None:
    """arXiv 2305.08891, equations 15 and 16; each picture has a deviation of its own."""
    without, having = noise(1, 2, 4, 3, 5).double(), 2 * noise(2, 2, 4, 3, 5).double()
    guided = (1 - 3.0) * without + 3.0 * having
    ratio = [h.flatten().std() / g.flatten().std() for h, g in zip(having, guided, strict=True)]
    matched = torch.stack([g * r for g, r in zip(guided, ratio, strict=True)])
    expected = rescale * matched + (1 - rescale) * guided
    torch.testing.assert_close(Guidance(3.0, rescale).combined(without, having), expected)
    assert [Guidance(scale).on for scale in (1.0, 1.001)] == [False, True]


def seeded_init(count: int, seed: int, rows: int = 1) -> LatentInit:
    generators = tuple(torch.Generator().manual_seed(seed + i) for i in range(count))
    return LatentInit(noise(seed, count, 4, 2, 3), generators, noise(seed + 9, rows, 4, 2, 3), 0.5)


def test_beginnings_of_several_requests_are_one_behind_the_other() -> None:
    first, second = seeded_init(2, 1), seeded_init(3, 11, rows=3)
    both = LatentInit.collate([first, second])
    assert torch.equal(both.noise, torch.cat([first.noise, second.noise]))
    assert both.generators == first.generators + second.generators
    assert both.strength == 0.5
    assert both.init_latents is not None
    assert first.init_latents is not None
    assert torch.equal(both.init_latents[:2], first.init_latents.expand(2, -1, -1, -1))
    assert torch.equal(both.init_latents[2:], second.init_latents)
    assert LatentInit.collate([first]) is first
    plain = LatentInit.collate([LatentInit(noise(1, 1, 4, 2, 2))] * 2)
    assert plain.init_latents is None


def test_further_noise_goes_on_from_each_image_s_own() -> None:
    init, others = seeded_init(2, 5), seeded_init(2, 5).generators
    for _ in range(2):
        expected = [torch.randn(4, 2, 3, generator=other) for other in others]
        assert torch.equal(init.more_noise(), torch.stack(expected))
    half = LatentInit(init.noise.bfloat16(), init.generators)
    assert half.more_noise().dtype == torch.bfloat16


def test_outside_a_mask_is_the_picture_at_the_level_to_come() -> None:
    schedule = Schedule(new_scheduler("ddim", SD15), 4)
    init, latents = seeded_init(2, 3), noise(7, 2, 4, 2, 3)
    assert init.init_latents is not None
    mask = torch.zeros(1, 1, 2, 3)
    mask[..., :1] = 1
    hooks = InpaintHooks(init, mask, passes=3)
    for i in range(4):
        found = hooks.after_step(latents, schedule, i)
        alpha = 1.0 if i == 3 else float(schedule.level(i + 1).signal) ** 2
        expected = alpha**0.5 * init.init_latents + (1 - alpha) ** 0.5 * init.noise
        torch.testing.assert_close(found[..., 1:], expected[..., 1:])
        assert torch.equal(found[..., :1], latents[..., :1])
    assert InpaintHooks(init, None).after_step(latents, schedule, 0) is latents
    assert InpaintHooks(init, None).passes == 1
    again = seeded_init(2, 3).more_noise()
    ratio = (schedule.level(1).signal / schedule.level(2).signal) ** 2
    torch.testing.assert_close(
        hooks.before_repeat(latents, schedule, 1),
        ratio.sqrt() * latents + (1 - ratio).sqrt() * again,
    )


def test_hooks_of_several_requests_have_their_masks_behind_each_other() -> None:
    first = InpaintHooks(seeded_init(2, 1), torch.zeros(1, 1, 2, 3), 3)
    second = InpaintHooks(seeded_init(1, 4), torch.ones(1, 1, 2, 3), 3)
    both = first.collated([second])
    assert both.passes == 3
    assert both.mask is not None
    assert both.mask[:, 0, 0, 0].tolist() == [0, 0, 1]
    assert torch.equal(both.init.noise, torch.cat([first.init.noise, second.init.noise]))
    assert first.collated([]) is first


@pytest.mark.parametrize("sampler", REQUESTED)
def test_where_a_schedule_begins(sampler: str) -> None:
    """From noise, unless a picture is given and less than all of the steps is taken."""
    given = seeded_init(2, 3)
    assert given.init_latents is not None
    for strength, kept in ((1.0, 10), (0.39, 3), (0.01, 1)):
        scheduler = new_scheduler(sampler, SD15)
        schedule = Schedule(scheduler, 10, strength)
        taken = kept + (sampler == "pndm")
        assert len(schedule) == taken
        assert torch.equal(schedule.timesteps, scheduler.timesteps[-taken:])
        if sampler in ("dpm++", "euler"):
            assert scheduler.begin_index == (10 - kept or None)
        level = schedule.level(0)
        scale = 1 / level.signal if sampler == "euler" else 1.0
        expected = (level.signal * given.init_latents + level.noise * given.noise) * scale
        if strength == 1.0:
            expected = given.noise * scheduler.init_noise_sigma
        torch.testing.assert_close(schedule.first_latents(given), expected, rtol=1e-4, atol=1e-4)
        plain = LatentInit(given.noise)
        assert torch.equal(schedule.first_latents(plain), given.noise * scheduler.init_noise_sigma)
    assert len(Schedule(new_scheduler(sampler, SD15), 10)) == 10 + (sampler == "pndm")
