"""Every recipe runs, in miniature; an interrupted run goes on as if nothing had happened."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, T2IAdapter
from torch import Tensor, nn

from ipadapter_demo.adapter import load_image_adapter
from ipadapter_demo.errors import TrainingError
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.memory import has_bfloat16
from ipadapter_demo.models.structure import around_hole
from ipadapter_demo.models.weight_hashes import weight_hashes
from ipadapter_demo.tabletop.scene import sample_scenes
from ipadapter_demo.training.checkpoints import last_progress
from ipadapter_demo.training.loop import fit
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop import decoder
from ipadapter_demo.training.tabletop.holes import holes, same_solid
from ipadapter_demo.training.tabletop.inpaint import new_network, train_inpaint
from ipadapter_demo.training.tabletop.latents import scaled_latents
from ipadapter_demo.training.tabletop.pictures import rendered_pictures
from ipadapter_demo.training.tabletop.recipes import RECIPES, train
from tests.shipped import shipped_but


def linear_run(folder: Path, steps: int) -> nn.Linear:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def loss_of(generator: torch.Generator, batch: int) -> Tensor:
        x = torch.randn(batch, 4, generator=generator)
        return (model(x).float() - x.sum(dim=1, keepdim=True)).square().mean()

    run = Run(
        folder=folder,
        steps=steps,
        batch=8,
        lr=0.1,
        warmup=1,
        final_lr=1.0,
        save_every=5,
        log_every=5,
        preview_every=0,
    )
    fit(run, model, loss_of, eval_callback=lambda path: None)
    return model


def test_a_run_learns_and_leaves_a_log(tmp_path: Path) -> None:
    model = linear_run(tmp_path, 300)
    torch.testing.assert_close(model.weight, torch.ones(1, 4), atol=0.05, rtol=0)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 300
    assert rows[-1]["loss"] < rows[0]["loss"] / 10


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = linear_run(tmp_path / "whole", 20)
    linear_run(tmp_path / "parts", 10)
    resumed = linear_run(tmp_path / "parts", 20)
    assert torch.equal(resumed.weight, whole.weight)


def test_an_evaluation_that_was_stopped_is_made_up(tmp_path: Path) -> None:
    """A checkpoint is written before it, so that a fault in it costs no steps; and what was logged
    of steps that are taken again is logged once."""

    def run(stopped_at: int | None) -> list[int]:
        asked: list[int] = []

        def evaluate(path: Path) -> dict[str, float]:
            step = int(path.stem.removeprefix("preview-"))
            asked.append(step)
            if step == stopped_at:
                raise KeyboardInterrupt
            return {"loss": 1.0}

        torch.manual_seed(0)
        model = nn.Linear(1, 1)
        every = {"save_every": 4, "log_every": 1, "preview_every": 4}
        fit(
            Run(folder=tmp_path, steps=8, batch=1, lr=0.1, **every),
            model,
            lambda generator, batch: model.weight.square().sum(),
            evaluate,
        )
        return asked

    for stopped_at in (4, 8):
        with pytest.raises(KeyboardInterrupt):
            run(stopped_at)
        assert last_progress(tmp_path).step == stopped_at
        log = tmp_path / "log.jsonl"
        log.write_text(log.read_text() + '{"step": 99}\n{"st')  # after the checkpoint, and cut
    assert run(None) == [8]
    assert run(None) == [], "once"
    steps = {
        name: [json.loads(line)["step"] for line in (tmp_path / name).read_text().splitlines()]
        for name in ("log.jsonl", "held-out.jsonl")
    }
    assert steps == {"log.jsonl": [*range(1, 9)], "held-out.jsonl": [4, 8]}


def test_latents_are_kept_whole_and_by_the_weights_that_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = rendered_pictures(tmp_path / "data", 2)
    vae = AutoencoderTiny.from_pretrained(TABLETOP.folder / "vae")

    def cut_short(tensor: object, path: Path) -> None:
        path.write_bytes(b"cut")
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", cut_short)
        with pytest.raises(OSError, match="no space"):
            scaled_latents(vae, pictures, tmp_path / "cache")
    first = scaled_latents(vae, pictures, tmp_path / "cache")
    assert torch.equal(first, scaled_latents(vae, pictures, tmp_path / "cache"))
    with torch.no_grad():
        next(vae.parameters()).mul_(0.5)
    assert not torch.equal(first, scaled_latents(vae, pictures, tmp_path / "cache"))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    run = Run(folder=tmp_path, steps=3, batch=1, lr=0.1, preview_every=0)
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        fit(
            run,
            model,
            lambda generator, batch: model.weight.sum() * float("nan"),
            eval_callback=lambda path: None,
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parts, one after the other, for two steps each."""
    out = tmp_path_factory.mktemp("tabletop")
    runs = tmp_path_factory.mktemp("runs")
    weights = out / "unet" / "diffusion_pytorch_model.safetensors"
    before, changed = b"", []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decoder, "DRAWN", 4)  # which is inpainted by the built-in model
        for part in RECIPES:
            train(part, runs, out, steps=2, batch=2, pictures=16, preview_every=0)
            if weights.exists() and weights.read_bytes() != before:
                before = weights.read_bytes()
                changed.append(part)
    (out / "changed-the-base.txt").write_text("\n".join(changed))
    return out


def test_every_recipe_writes_its_part_and_its_facts(trained: Path) -> None:
    provenance = json.loads((trained / "provenance.json").read_text())
    assert provenance.pop("sha256") == weight_hashes(trained)
    assert list(provenance) == list(RECIPES)
    for part, said in provenance.items():
        assert said["command"].startswith(f"python -m ipadapter_demo train {part}")
        assert said["steps"] == 2
        assert said["samples"] == 4
    assert set(provenance["attribute-classifier"]["held_out_accuracy"]) >= {
        "solid_shape",
        "floor_colour",
    }


def test_no_config_names_the_folder_that_a_part_went_on_from(trained: Path) -> None:
    configs = list(trained.glob("*/config.json"))
    assert len(configs) >= 7
    assert [path for path in configs if str(trained) in path.read_text()] == []


def test_the_parts_make_an_ordinary_diffusers_folder(trained: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(trained)
    pipe.load_ip_adapter(
        str(trained), subfolder="", weight_name=TABLETOP.adapters["base"], image_encoder_folder=None
    )
    adapter = load_image_adapter(trained / TABLETOP.adapters["base"])
    embeds = torch.ones(1, adapter.encoder_width)
    ours = adapter.float().tokens_from_embeds(embeds)
    theirs = pipe.unet.float().encoder_hid_proj.image_projection_layers[0](embeds)
    torch.testing.assert_close(ours, theirs.view_as(ours))


def test_other_recipes_leave_the_base_as_it_is(trained: Path) -> None:
    changed = (trained / "changed-the-base.txt").read_text().split()
    assert changed == ["base-small", "base", "finishes"]


def test_the_network_around_a_hole_has_the_losses_it_had_by_a_loop_of_its_own(
    tmp_path: Path,
) -> None:
    out = shipped_but("t2i-inpaint", tmp_path)
    pictures = rendered_pictures(tmp_path, 16)
    run = Run(
        folder=tmp_path / "inpaint",
        steps=2,
        batch=4,
        lr=1e-3,
        seed=17,
        precision="no",
        log_every=1,
        preview_every=2,
    )
    train_inpaint(run, pictures, pictures[:8], out, start=out / "t2i-palette")
    rows = map(json.loads, (run.folder / "log.jsonl").read_text().splitlines())
    expected = [0.04475950449705124, 0.04564078897237778]
    # measured where pictures are encoded in bfloat16; a CPU without it encodes in float32
    exact = 5e-4 if has_bfloat16("cpu") else 5e-3
    assert [row["step_loss"] for row in rows] == pytest.approx(expected, rel=exact)
    seen = json.loads((run.folder / "held-out.jsonl").read_text())
    assert seen["held_out_loss"] == pytest.approx(0.03459105791989714, rel=exact)


def test_a_hole_is_round_or_square_and_where_it_is_said() -> None:
    boxes = torch.tensor([[0.25, -0.5, 0.25, 0.375]] * 64)
    drawn = holes(boxes, torch.Generator().manual_seed(0))
    rows, columns = drawn.amax(dim=(0, 1, 3)).nonzero(), drawn.amax(dim=(0, 1, 2)).nonzero()
    assert [int(rows.min()), int(rows.max())] == [8, 55]
    assert [int(columns.min()), int(columns.max())] == [64, 95]
    areas = drawn.mean(dim=(1, 2, 3)) / (0.25 * 0.375)
    assert areas.min() == pytest.approx(math.pi / 4, abs=0.02)
    assert areas.max() == pytest.approx(1, abs=0.02)


def test_a_hole_is_told_of_by_the_same_solid_elsewhere() -> None:
    scenes, indices = sample_scenes(4096, seed=3), torch.arange(512)
    slot, others = same_solid(scenes, indices, torch.Generator().manual_seed(0))
    assert not scenes.present[others, 1].logical_and(others != indices).any()
    for name in ("shape", "colour", "texture", "second"):
        values = getattr(scenes, name)
        assert torch.equal(
            values[others, 0],
            torch.where(others != indices, values[indices, slot], values[indices, 0]),
        )
    assert slot[scenes.present[indices, 1]].float().mean() == pytest.approx(0.5, abs=0.1)
    assert not slot[~scenes.present[indices, 1]].any()
    found = others != indices
    assert found.float().mean() > 0.9
    elsewhere = scenes.floor_colour[others] != scenes.floor_colour[indices]
    assert elsewhere[found].float().mean() == pytest.approx(7 / 8, abs=0.06)


def test_an_inpainting_network_goes_on_from_one_of_colours(tmp_path: Path) -> None:
    start = T2IAdapter(
        in_channels=3,
        channels=[8, 16],
        num_res_blocks=2,
        downscale_factor=8,
        adapter_type="full_adapter_xl",
    )
    start.save_pretrained(tmp_path)
    pixels, hole = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    hole[..., 8:24] = 1
    seen = around_hole(pixels, hole)
    net = new_network(tmp_path)
    torch.testing.assert_close(net(seen), start(seen[:, :3]))
    assert "_name_or_path" not in net.config
    assert torch.equal(seen, around_hole(torch.where(hole > 0, torch.rand(()), pixels), hole))
