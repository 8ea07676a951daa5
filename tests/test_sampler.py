"""The loop and every sampler, held against a denoiser whose answer is known: no UNet, no mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
from ipadapter_demo.pipeline.sampler import Call, Guidance, LoopHooks, Step, denoise
from ipadapter_demo.pipeline.samplers import SAMPLERS, new_scheduler
from ipadapter_demo.pipeline.schedule import NoiseLevel, Schedule
from ipadapter_demo.request import SAMPLERS as REQUESTED
from ipadapter_demo.sampling import (
    DISTILLED_LEVELS,
    FEW_STEP_SAMPLERS,
    Sampler,
    noise_schedules_of,
)
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
FLOWING = ("dpm++", "ddim", "pndm", "euler", "unipc", "heun")
ALL_NOISE_SCHEDULES = [(name, other) for name in REQUESTED for other in noise_schedules_of(name)]
POINT = torch.tensor([0.3, -0.7, 1.2, -1.5]).view(1, 4, 1, 1)


@dataclass(frozen=True)
class Always:
    """Conditions that are the same in every step: the mean of the data."""

    mean: Tensor
    guided: bool = False

    def at(self, step: int, steps: int) -> Always:
        return self


@dataclass(frozen=True)
class GaussianDenoiser:
    """The ideal denoiser of data that is Gaussian; with a spread of 0, of a single point.

    E[x0 | x] is linear in x, and whatever a model predicts follows from it.
    """

    prediction: str
    spread: float = 0.0

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
    noise_schedule: str = "default",
) -> list[Any]:
    config = SD15 | {"prediction_type": prediction}
    if prediction == "flow_prediction":
        config["use_flow_sigmas"] = True
    init = init or LatentInit(noise(1, 4, 4, 8, 8), generators(4))
    schedule = Schedule(new_scheduler(sampler, config, noise_schedule), steps, init.strength)
    events = denoise(
        schedule, Guidance(guidance), init, Always(mean, guided=guidance > 1.0), LoopHooks()
    )
    return taken_with(GaussianDenoiser(prediction, spread), events)


def taken_with(denoiser: GaussianDenoiser, events: Iterable[Call[Always] | Step]) -> list[Step]:
    """The steps, with every call answered."""
    steps = []
    for event in events:
        if isinstance(event, Step):
            steps.append(event)
        else:
            event.output = denoiser.predict(event.latents, event.level, event.conditions)
    return steps


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_single_point_is_arrived_at(sampler: str, prediction: str) -> None:
    """From the first step on the clean latents are the point; so are, at the end, the latents, but
    for the noise that some leave at the last of the training's levels, 0.03 of it."""
    taken = run(sampler, prediction)
    for step in taken:
        torch.testing.assert_close(step.clean, POINT.expand_as(step.clean), rtol=0, atol=1e-4)
    left = 0.03 * 4.5 if sampler in ("ddim", "pndm", "tcd") else 2e-5
    assert (taken[-1].latents - POINT).abs().max() < left


@pytest.mark.parametrize("steps", [3, 60])
@pytest.mark.parametrize(("sampler", "noise_schedule"), ALL_NOISE_SCHEDULES)
def test_a_level_is_that_of_the_noise(sampler: Sampler, noise_schedule: str, steps: int) -> None:
    """Of 60 steps with Karras levels, several are rounded to one timestep: what is noised is so by
    the level of the call all the same, and clean latents are found by it."""
    scheduler = new_scheduler(sampler, SD15, noise_schedule)
    steps = min(steps, DISTILLED_LEVELS) if sampler in FEW_STEP_SAMPLERS else steps
    schedule, eps = Schedule(scheduler, steps), noise(5, 1, 4, 8, 8)
    init = LatentInit(eps, generators(1), POINT.expand_as(eps))
    sigmas = []
    for i in range(len(schedule.timesteps)):
        level, latents = schedule.level(i), schedule.noised(init, i)
        expected = level.signal * POINT + level.noise * eps
        torch.testing.assert_close(schedule.scaled(latents, i), expected, rtol=0, atol=1e-5)
        _, clean = schedule.step(eps, latents, i, init.generators)
        torch.testing.assert_close(clean, POINT.expand_as(clean), rtol=0, atol=1e-3)
        sigmas.append(float(level.sigma))
    assert sigmas == sorted(sigmas, reverse=True)


@pytest.mark.parametrize("noise_schedule", ["karras", "leading", "trailing"])
def test_noise_levels_are_those_of_the_papers(noise_schedule: str) -> None:
    schedule = Schedule(new_scheduler("dpm++", SD15, noise_schedule), 10)
    sigmas = torch.stack([schedule.level(i).sigma for i in range(10)])
    if noise_schedule == "karras":  # evenly apart in the seventh root
        roots = sigmas ** (1 / 7)
        torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(9))
    else:  # arXiv 2305.08891: of 1000 levels, the last is the first that is taken, or is not
        assert int(schedule.timesteps[0]) == {"leading": 901, "trailing": 999}[noise_schedule]


@pytest.mark.parametrize("steps", [61, 103, 121, 122])
@pytest.mark.parametrize("sampler", FLOWING)
def test_trailing_steps_are_as_many_as_asked_for(sampler: str, steps: int) -> None:
    """diffusers' own have one more, of timestep -1, where DDIM would see the noisiest level."""
    taken = run(sampler, steps=steps, noise_schedule="trailing")
    assert len(taken) == steps + (sampler == "pndm")
    torch.testing.assert_close(taken[-1].clean, POINT.expand_as(taken[-1].clean), rtol=0, atol=1e-4)
    assert (taken[-1].latents - POINT).abs().max() < 0.05 * 4.5


@pytest.mark.parametrize("sampler", ["euler_a", "dpm++ sde"])
def test_noise_of_the_steps_keeps_the_spread_of_the_data(sampler: str) -> None:
    """A stochastic equation ends at the same distribution, whatever the first noise was."""
    init = LatentInit(noise(2, 1, 4, 32, 32).expand(4, -1, -1, -1), generators(4))
    last = run(sampler, spread=0.5, steps=200, init=init)[-1].latents
    assert (last - POINT).std().item() == pytest.approx(0.5, rel=0.05)
    assert (last[0] - last[1]).std() > 0.5, "and each image has its own"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_conditions_are_those_of_the_step(sampler: str) -> None:
    """Both calls of a step of Heun's have the same, so that a window means the same as with any
    sampler."""
    asked: list[tuple[int, int]] = []
    given: list[int] = []

    class Numbered(Always):
        def at(self, step: int, steps: int) -> Always:
            asked.append((step, steps))
            return self

    class Denoiser(GaussianDenoiser):
        def predict(self, latents: Tensor, level: NoiseLevel, conditions: Always) -> Tensor:
            given.append(asked[-1][0])
            return super().predict(latents, level, conditions)

    schedule = Schedule(new_scheduler(sampler, SD15), 4)
    init = LatentInit(noise(1, 1, 4, 8, 8), generators(1))
    events = denoise(schedule, Guidance(1.0), init, Numbered(POINT), LoopHooks())
    taken = taken_with(Denoiser("epsilon"), events)
    steps = 4 + (sampler == "pndm")
    assert [(one.number, one.steps) for one in taken] == [(n + 1, steps) for n in range(steps)]
    assert asked == [(n, steps) for n in range(steps)]
    assert given == ([0, 0, 1, 1, 2, 2, 3] if sampler == "heun" else list(range(steps)))


def test_a_flow_model_goes_through_the_same_loop() -> None:
    taken = run("dpm++", "flow_prediction")
    assert (taken[-1].latents - POINT).abs().max() < 1e-5


def test_the_levels_of_a_flow_model_have_its_timesteps() -> None:
    config = SD15 | {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    schedule = Schedule(new_scheduler("dpm++", config), 5)
    assert [schedule.level(i).timestep for i in range(3)] == list(schedule.timesteps[:3])


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
    made: Any = new_scheduler(sampler, SD15 | {"beta_end": 0.02})
    assert (options | {"beta_end": 0.02}).items() <= dict(made.config).items()
    assert type(made) is kind


@pytest.mark.parametrize("rescale", [0.0, 0.3, 1.0])
def test_guidance_by_its_formula(rescale: float) -> None:
    """arXiv 2305.08891, equations 15 and 16; each picture has a deviation of its own."""
    without, having = noise(1, 2, 4, 3, 5).double(), 2 * noise(2, 2, 4, 3, 5).double()
    guided = (1 - 3.0) * without + 3.0 * having
    ratio = [h.flatten().std() / g.flatten().std() for h, g in zip(having, guided, strict=True)]
    matched = torch.stack([g * r for g, r in zip(guided, ratio, strict=True)])
    expected = rescale * matched + (1 - rescale) * guided
    torch.testing.assert_close(Guidance(3.0, rescale).combined(without, having), expected)


def seeded_init(count: int, seed: int, rows: int = 1) -> LatentInit:
    generators = tuple(torch.Generator().manual_seed(seed + i) for i in range(count))
    return LatentInit(noise(seed, count, 4, 2, 3), generators, noise(seed + 9, rows, 4, 2, 3), 0.5)


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
        found = hooks.after_call(latents, schedule, i)
        alpha = 1.0 if i == 3 else float(schedule.level(i + 1).signal) ** 2
        expected = alpha**0.5 * init.init_latents + (1 - alpha) ** 0.5 * init.noise
        torch.testing.assert_close(found[..., 1:], expected[..., 1:])
        assert torch.equal(found[..., :1], latents[..., :1])
    assert InpaintHooks(init, None).after_call(latents, schedule, 0) is latents
    assert InpaintHooks(init, None).passes == 1
    again = seeded_init(2, 3).more_noise()
    ratio = (schedule.level(1).signal / schedule.level(2).signal) ** 2
    torch.testing.assert_close(
        hooks.before_repeat(latents, schedule, 1),
        ratio.sqrt() * latents + (1 - ratio).sqrt() * again,
    )


@pytest.mark.parametrize("sampler", REQUESTED)
def test_where_a_schedule_begins(sampler: str) -> None:
    """From noise, unless a picture is given and less than all of the steps is taken."""
    given = seeded_init(2, 3)
    assert given.init_latents is not None
    for strength, kept in ((1.0, 10), (0.39, 3), (0.01, 1)):
        scheduler = new_scheduler(sampler, SD15)
        schedule = Schedule(scheduler, 10, strength)
        taken = kept + (sampler == "pndm")
        calls = 2 * kept - 1 if sampler == "heun" else taken
        assert len(schedule) == taken
        assert torch.equal(schedule.timesteps, scheduler.timesteps[-calls:])
        if hasattr(scheduler, "begin_index"):
            assert scheduler.begin_index == (10 - kept) * scheduler.order
        level = schedule.level(0)
        scale = 1 / level.signal if sampler in ("euler", "euler_a", "heun") else 1.0
        expected = (level.signal * given.init_latents + level.noise * given.noise) * scale
        if strength == 1.0:
            expected = given.noise * scheduler.init_noise_sigma
        torch.testing.assert_close(schedule.first_latents(given), expected, rtol=1e-4, atol=1e-4)
        plain = LatentInit(given.noise)
        assert torch.equal(schedule.first_latents(plain), given.noise * scheduler.init_noise_sigma)
    assert len(Schedule(new_scheduler(sampler, SD15), 10)) == 10 + (sampler == "pndm")
