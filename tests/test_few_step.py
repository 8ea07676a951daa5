"""Distillation into few steps: its loss is the authors', and its LoRA loads wherever LoRAs do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file
from torch import Tensor

import ipadapter_demo as ip
from ipadapter_demo.adapter import ImagePrompt, attach, load_image_adapter
from ipadapter_demo.errors import TrainingError
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.training.base_models import frozen_base
from ipadapter_demo.training.card import LORA
from ipadapter_demo.training.config import FewStepConfig
from ipadapter_demo.training.config_reading import config_from
from ipadapter_demo.training.consistency import ConsistencyObjective
from ipadapter_demo.training.data.batch_source import Batch
from ipadapter_demo.training.data.examples import Example
from ipadapter_demo.training.few_step import FewStepTask, train_few_step
from ipadapter_demo.training.noise import SampleNoise
from ipadapter_demo.training.own_states import STARTS, OwnStatesObjective
from tests.test_shards import write_tar
from tests.tiny import EMBED_DIM, noise, picture, write_tiny_model, write_tiny_sdxl

SHAPE = (4, 8, 8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_tar(folder / "0.tar", 0, 12)
    return folder


def config(entry: CatalogEntry, tars: Path, folder: Path, **given: Any) -> FewStepConfig:
    values = {
        "data": f"{tars}/0.tar",
        "base": str(entry.folder),
        "run": str(folder / "run"),
        "out": str(folder / "out"),
        "size": 64,
        "batch": 2,
        "steps": 3,
        "lr": 1e-2,
        "rank": 4,
        "precision": "no",
        "device": "cpu",
        "workers": 0,
        "preview_every": 0,
        "log_every": 1,
    }
    return config_from(FewStepConfig, values | given)


def trained(entry: CatalogEntry, settings: FewStepConfig) -> FewStepTask:
    """A LoRA that changes what the UNet predicts."""
    task = FewStepTask(settings, frozen_base(settings, "cpu", "no"))
    for number, parameter in enumerate(task.trained.parameters()):
        parameter.data = 0.2 * noise(number, *parameter.shape)
    return task


def batch_of(drop: list[float]) -> Batch:
    """Samples that lose what `drop` says, each with latents and an embedding of its own."""
    examples = [
        Example(
            f"a red cube {number}",
            (64, 64),
            (0, 0),
            latents=noise(10 + number, *SHAPE),
            embeds=noise(20 + number, EMBED_DIM),
        )
        for number in range(len(drop))
    ]
    return Batch(
        examples, replace(SampleNoise.at(3, range(len(drop)), SHAPE), drop=torch.tensor(drop))
    )


class Oracle:
    """The loss of arXiv 2310.04378, algorithm 1, by diffusers' own pipeline and schedulers."""

    def __init__(self, entry: CatalogEntry, lora: Path | None) -> None:
        self.pipe = StableDiffusionPipeline.from_pretrained(entry.folder, safety_checker=None)
        if lora is not None:
            self.pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
        self.adapter = load_image_adapter(entry.folder / entry.adapters["base"]).float()
        attach(self.pipe.unet, self.adapter)

    def predict(self, latents: Tensor, t: int, text: str, embeds: Tensor, scale: float) -> Tensor:
        states, _ = self.pipe.encode_prompt(text, "cpu", 1, False)
        prompt = ImagePrompt(
            rows=slice(None), tokens=self.adapter.tokens_from_embeds(embeds[None]), scale=scale
        )
        with torch.no_grad():
            return self.pipe.unet(
                latents,
                t,
                encoder_hidden_states=states,
                cross_attention_kwargs={"ip_hidden_states": (prompt,)},
            ).sample


@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_the_loss_is_the_authors(
    tiny: CatalogEntry, tars: Path, tmp_path: Path, guidance: float
) -> None:
    settings = config(tiny, tars, tmp_path, teacher_guidance=guidance)
    task = trained(tiny, settings)
    task.save(tmp_path, _provenance(settings))
    # text and image, image alone, text alone, nothing
    dropped = [0.99, 0.4, 0.1, 0.66]
    batch = batch_of(dropped)
    batch.sample_noise.time[0] = 0.0  # the lowest level: its lower neighbour is the clean end
    ours = ConsistencyObjective(settings, task.base, task).loss(batch)

    student, teacher = Oracle(tiny, tmp_path / LORA), Oracle(tiny, None)
    ddim = DDIMScheduler.from_config(teacher.pipe.scheduler.config, timestep_spacing="trailing")
    ddim.set_timesteps(50)
    lcm = LCMScheduler.from_config(ddim.config)
    alphas = ddim.alphas_cumprod

    def consistent(latents: Tensor, t: int, *given: Any) -> Tensor:
        alpha = alphas[t]
        output = student.predict(latents, t, *given)
        clean = (latents - (1 - alpha).sqrt() * output) / alpha.sqrt()
        skip, out = lcm.get_scalings_for_boundary_condition_discrete(torch.tensor(t))
        return skip * latents + out * clean

    losses = []
    for n, example in enumerate(batch.examples):
        no_image, no_text = n in (2, 3), n in (1, 3)
        scale = 0.0 if no_image else 0.3 + 0.9 * float(batch.sample_noise.extra[n])
        given = ("" if no_text else example.caption, example.embeds, scale)
        nothing = ("", torch.zeros(EMBED_DIM), scale)
        t = int(ddim.timesteps.flip(0)[int(batch.sample_noise.time[n] * 50)])
        before = max(t - 20, 0)
        alpha = alphas[t]
        start = batch.sample_noise.noise[n][None]
        noisy = alpha.sqrt() * example.latents[None] + (1 - alpha).sqrt() * start
        without, having = (teacher.predict(noisy, t, *words) for words in (nothing, given))
        guided = without + guidance * (having - without)
        stepped = ddim.step(guided, t, noisy).prev_sample
        off = consistent(noisy, t, *given) - consistent(stepped, before, *given)
        losses.append(((off**2 + 1e-6).sqrt() - 1e-3).mean())
    torch.testing.assert_close(ours, torch.stack(losses).mean(), atol=1e-5, rtol=1e-4)
    ours.backward()
    assert all(p.grad is not None and p.grad.any() for p in task.trained.parameters())


@pytest.mark.parametrize("start", range(len(STARTS)))
def test_the_second_part_learns_where_the_base_would_arrive(
    tiny: CatalogEntry, tars: Path, tmp_path: Path, start: int
) -> None:
    """From the states of diffusers' LCM sampler, by diffusers' DPM-Solver++."""
    settings = config(tiny, tars, tmp_path, teacher_guidance=3.0)
    task = trained(tiny, settings)
    task.save(tmp_path, _provenance(settings))
    batch = batch_of([0.99, 0.1])
    batch.sample_noise.time[0] = (start + 0.5) / len(STARTS)
    ours = OwnStatesObjective(settings, task.base, task).loss(batch)

    student, teacher = Oracle(tiny, tmp_path / LORA), Oracle(tiny, None)
    scheduler_config = teacher.pipe.scheduler.config
    steps, step = STARTS[start]
    levels = LCMScheduler.from_config(scheduler_config)
    levels.set_timesteps(8)
    four = LCMScheduler.from_config(scheduler_config)
    four.set_timesteps(4)
    losses = []
    for n, example in enumerate(batch.examples):
        share = batch.sample_noise.extra[n]
        assert example.embeds is not None
        given = (example.caption, example.embeds, 0.0 if n == 1 else 0.3 + 0.9 * float(share))
        nothing = ("", torch.zeros(EMBED_DIM), given[2])
        generator = torch.Generator().manual_seed(int(share * 2**24))
        lcm = LCMScheduler.from_config(scheduler_config)
        lcm.set_timesteps(steps)
        state = batch.sample_noise.noise[n][None]
        for t in lcm.timesteps[:step]:
            output = student.predict(state, int(t), *given)
            state = lcm.step(output, t, state, generator=generator).prev_sample
        first = int(lcm.timesteps[step])

        dpm = DPMSolverMultistepScheduler.from_config(scheduler_config)
        dpm.set_timesteps(timesteps=[t for t in levels.timesteps.tolist() if t <= first])
        way = {}
        for t in dpm.timesteps:
            way[int(t)] = state
            without, having = (teacher.predict(state, t, *words) for words in (nothing, given))
            state = dpm.step(without + 3.0 * (having - without), t, state).prev_sample

        def clean(t: int, latents: Tensor, given: tuple[str, Tensor, float] = given) -> Tensor:
            alone = LCMScheduler.from_config(scheduler_config)
            alone.set_timesteps(timesteps=[t])
            return alone.step(student.predict(latents, t, *given), t, latents).denoised

        for t in four.timesteps.tolist():
            if t <= first:
                off = clean(t, way[t]) - state
                losses.append(((off**2 + 1e-6).sqrt() - 1e-3).mean())
    torch.testing.assert_close(ours, torch.stack(losses).mean(), atol=1e-5, rtol=1e-4)
    ours.backward()
    assert all(p.grad is not None and p.grad.any() for p in task.trained.parameters())


def test_the_second_part_goes_on_from_the_first(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    first = config(tiny, tars, tmp_path)
    train_few_step(first)
    lora = first.out / LORA
    second = config(
        tiny, tars, tmp_path / "second", start=str(lora), steps=1, lr=1e-8, weight_decay=0.0
    )
    train_few_step(second)
    before, after = load_file(lora), load_file(second.out / LORA)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-3, rtol=0)
    assert any(tensor.abs().max() > 5e-3 for tensor in before.values())


def _provenance(settings: FewStepConfig) -> dict[str, Any]:
    from ipadapter_demo.training.config_reading import plain

    return {
        "parameters": 1,
        "samples": 1,
        "steps": 1,
        "hours": 0.0,
        "processes": 1,
        "device": "cpu",
        "precision": "no",
        "loss": 0.0,
        "config": plain(settings),
        "model_options": [],
    }


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_lora_draws_here_and_leaves_the_base_as_it_is(
    tars: Path, tmp_path: Path, family: str
) -> None:
    entry = (write_tiny_sdxl if family == "sdxl" else write_tiny_model)(tmp_path / "base")
    before = {p.name: p.read_bytes() for p in entry.folder.glob("unet/*")}
    settings = config(entry, tars, tmp_path)
    provenance = train_few_step(settings)
    assert {p.name: p.read_bytes() for p in entry.folder.glob("unet/*")} == before
    weights = load_file(tmp_path / "out" / LORA)
    assert sum(t.numel() for t in weights.values()) == provenance["parameters"]
    assert {t.dtype for t in weights.values()} == {torch.float16}
    request = GenerateRequest(
        references=(Reference(image=picture(1)),),
        sampler="lcm",
        steps=2,
        guidance=1.0,
        width=64,
        height=64,
    )
    options = {"device": "cpu", "dtype": "float32", "base": str(entry.folder)}
    plain = ip.load(entry, **options | {"base": None}).generate(request)
    strong = ip.load(entry, loras=((tmp_path / "out" / LORA, 10.0),), **options | {"base": None})
    assert strong.generate(request).images[0] != plain.images[0]


def test_an_empty_text_is_unconditional_in_that_half_alone(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    """SDXL has zeros for it there, and there only."""
    task, batch = trained(tiny, config(tiny, tars, tmp_path)), batch_of([0.4, 0.99])
    having, without = task.conditions(batch), task.unconditional(batch)
    assert (having.texts, having.unconditional) == (["", "a red cube 1"], [False, False])
    assert (without.texts, without.unconditional) == (["", ""], [True, True])


def test_it_learns(tiny: CatalogEntry, tars: Path, tmp_path: Path) -> None:
    """Two guesses of one trajectory come closer to each other."""
    train_few_step(config(tiny, tars, tmp_path, steps=40, batch=4))
    rows = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    losses = [row["step_loss"] for row in rows]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"teacher_guidance": 0.5}, "teacher_guidance must be at least 1, got 0.5"),
        ({"teacher_steps": 1}, "teacher_steps must be from 2 to 1000, got 1"),
        ({"image_scale": 0.2}, "image_scale must be at least 0.3, got 0.2"),
        ({"drop_image": 0.7}, r"drop_text \+ drop_image \+ drop_both must be at most 1, got 1.1"),
        ({"start": "x"}, "start: x is not a LoRA"),
        ({"adapter": "missing.bin"}, "missing.bin"),
    ],
)
def test_a_bad_config_names_the_field(
    tiny: CatalogEntry, tars: Path, tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ip.DemoError, match=said):
        train_few_step(config(tiny, tars, tmp_path, **given))


def test_a_lora_of_another_rank_is_no_start(tiny: CatalogEntry, tars: Path, tmp_path: Path) -> None:
    train_few_step(config(tiny, tars, tmp_path, steps=1))
    start = str(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    other = config(tiny, tars, tmp_path / "other", start=start, rank=8)
    with pytest.raises(TrainingError, match=r"start: .*safetensors has rank 4, rank is 8"):
        train_few_step(other)


def test_a_base_without_an_adapter_asks_for_one(tars: Path, tmp_path: Path) -> None:
    entry = write_tiny_model(tmp_path / "base")
    (entry.folder / "ip-adapter.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"adapter: .* has none of its own; name a file"):
        train_few_step(config(entry, tars, tmp_path))
