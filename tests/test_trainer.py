"""Training beside a frozen base: interrupted, on several processes, in trouble, and what comes out
of it loads everywhere."""

from __future__ import annotations

import errno
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from safetensors.torch import load_file

import ipadapter_demo as ip
from ipadapter_demo.adapter import load_image_adapter, save_image_adapter
from ipadapter_demo.errors import CheckpointError, ModelError, TrainingError
from ipadapter_demo.models.annotators import DETECTORS
from ipadapter_demo.models.catalog import TABLETOP, CatalogEntry
from ipadapter_demo.training import checkpoints, finetune, loop
from ipadapter_demo.training.base_models import frozen_base
from ipadapter_demo.training.config import FewStepConfig, ImageAdapterConfig, StructureConfig
from ipadapter_demo.training.config_reading import config_from, values_from_file
from ipadapter_demo.training.data.cache import EncodedRows
from ipadapter_demo.training.data.tars import TarShard
from ipadapter_demo.training.ema import EMA
from ipadapter_demo.training.failures import explained
from ipadapter_demo.training.held_out import held_out_callback
from ipadapter_demo.training.image_adapter import train_image_adapter
from ipadapter_demo.training.noise import Diffusion, SampleNoise
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.structure import StructureTask, train_structure
from tests.faces import face_adapter
from tests.processes import started
from tests.test_shards import write_tar
from tests.tiny import picture, write_tiny_model, write_tiny_sdxl

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(
    path for path in (ROOT / "configs").glob("*.yaml") if not path.name.startswith("accelerate")
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    return write_tiny_sdxl(tmp_path_factory.mktemp("tiny-xl"))


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for number in range(4):
        write_tar(folder / f"{number}.tar", 10 * number, 10 + number, broken=(2, 23))
    return folder


def values(entry: CatalogEntry, tars: Path, folder: Path, **given: Any) -> dict[str, Any]:
    return {
        "data": f"{tars}/{{0..2}}.tar",
        "held_out": str(tars / "3.tar"),
        "held_out_count": 3,
        "base": str(entry.folder),
        "run": str(folder / "run"),
        "out": str(folder / "out"),
        "size": 64,
        "batch": 2,
        "steps": 4,
        "lr": 1e-2,
        "precision": "no",
        "device": "cpu",
        "workers": 0,
        "save_every": 2,
        "preview_every": 0,
        "log_every": 1,
    } | given


def adapter_config(*where: Any, **given: Any) -> ImageAdapterConfig:
    return config_from(ImageAdapterConfig, values(*where, **given))


def losses(folder: Path) -> list[float]:
    """Of every step, as they were; a resumed run may have taken some of them twice."""
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    return list({row["step"]: row["step_loss"] for row in map(json.loads, lines)}.values())


def same_files(one: Path, other: Path) -> bool:
    return (one / "ip-adapter.safetensors").read_bytes() == (
        other / "ip-adapter.safetensors"
    ).read_bytes()


# --- what comes out ----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["base", "plus"])
def test_an_adapter_loads_here_and_in_diffusers(
    tiny: CatalogEntry, tars: Path, tmp_path: Path, variant: str
) -> None:
    # a resampler's heads are 64 wide: the tiny encoder's 16 would make none
    config = adapter_config(tiny, tars, tmp_path, variant=variant)
    provenance = train_image_adapter(config)
    out = tmp_path / "out"
    adapter = load_image_adapter(out / "ip-adapter.safetensors")
    again = load_image_adapter(out / "ip-adapter.bin")
    assert adapter.variant == {"base": "linear"}.get(variant, variant)
    assert adapter.num_tokens == (4 if variant == "base" else 16)
    for ours, theirs in zip(adapter.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert sum(p.numel() for p in adapter.parameters()) == provenance["parameters"]
    for name in ("ip-adapter.safetensors", "ip-adapter.bin"):
        pipe = StableDiffusionPipeline.from_pretrained(tiny.folder, safety_checker=None)
        pipe.load_ip_adapter(str(out), subfolder="", weight_name=name, image_encoder_folder=None)
        processor = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.processor
        index = [n for n in pipe.unet.attn_processors if "attn2" in n].index(
            "mid_block.attentions.0.transformer_blocks.0.attn2.processor"
        )
        torch.testing.assert_close(
            processor.to_k_ip[0].weight.half(), adapter.layers[index].to_k_ip.weight
        )
    entry = replace(tiny, adapters={"mine": str(out / "ip-adapter.safetensors")})
    result = ip.load(entry).generate(
        ip.GenerateRequest(
            references=(ip.Reference(image=picture(1)),), steps=1, width=64, height=64
        )
    )
    assert result.images[0].size == (64, 64)
    card = (out / "README.md").read_text()
    assert card.startswith("---\nbase_model:")
    assert f"{provenance['parameters']:,} parameters" in card


def test_an_adapter_of_your_own_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "mine.safetensors"
    own.write_bytes((TABLETOP.folder / TABLETOP.adapters["plus"]).read_bytes())
    mine, usual = ip.load("tabletop", model_adapter=own), ip.load("tabletop")
    assert mine.info.adapters == ("mine", "base", "plus")
    request = ip.GenerateRequest(references=(ip.Reference(image=picture(1)),), steps=2, seed=1)
    ours = mine.generate(request).images[0]
    assert ours.tobytes() == usual.generate(replace(request, adapter="plus")).images[0].tobytes()


def test_an_adapter_of_another_base_is_refused(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    train_image_adapter(adapter_config(tiny, tars, tmp_path, steps=1))
    with pytest.raises(CheckpointError, match="does not fit this base model"):
        ip.load("tabletop", model_adapter=tmp_path / "out" / "ip-adapter.safetensors")


def test_an_adapter_for_sdxl(xl: CatalogEntry, tars: Path, tmp_path: Path) -> None:
    train_image_adapter(adapter_config(xl, tars, tmp_path, preview_every=4))
    entry = replace(xl, adapters={"mine": str(tmp_path / "out" / "ip-adapter.safetensors")})
    assert ip.load(entry).info.adapters == ("mine",)
    assert (tmp_path / "run" / "preview-000004.png").exists()


@pytest.mark.parametrize(
    ("network", "annotator", "kind"),
    [("controlnet", "canny", ControlNetModel), ("t2i-adapter", "palette", T2IAdapter)],
)
def test_structure_networks_load_in_diffusers(
    tiny: CatalogEntry, tars: Path, tmp_path: Path, network: str, annotator: str, kind: Any
) -> None:
    config = config_from(
        StructureConfig,
        values(tiny, tars, tmp_path, network=network, annotator=annotator, preview_every=4),
    )
    provenance = train_structure(config)
    net = kind.from_pretrained(tmp_path / "out")
    assert sum(p.numel() for p in net.parameters()) == provenance["parameters"]
    assert "clip_i" not in (tmp_path / "run" / "held-out.jsonl").read_text()  # it has no encoder
    further = train_structure(
        replace(config, start=tmp_path / "out", run=tmp_path / "more", out=tmp_path / "further")
    )
    assert further["steps"] == 4
    weights = tmp_path / "out" / "diffusion_pytorch_model.safetensors"
    said = r"start must be a folder with config\.json and weights"
    with pytest.raises(TrainingError, match=said):
        train_structure(replace(config, start=weights, run=tmp_path / "never"))


def test_what_is_gone_on_with_keeps_its_variant(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    """In the card, in the provenance, and in a cache that adapters of both kinds share."""
    given = {"steps": 1, "held_out": [], "cache": str(tmp_path / "cache")}
    train_image_adapter(adapter_config(tiny, tars, tmp_path / "plus", variant="plus", **given))
    start = tmp_path / "plus" / "out" / "ip-adapter.safetensors"
    told = train_image_adapter(
        adapter_config(tiny, tars, tmp_path / "more", start=str(start), **given)
    )
    assert (told["config"]["variant"], told["config"]["tokens"]) == ("plus", 16)
    assert "image adapter, plus" in (tmp_path / "more" / "out" / "README.md").read_text()
    train_image_adapter(adapter_config(tiny, tars, tmp_path / "base", **given))
    kinds = {EncodedRows(path)._slices["embeds"].get_shape()[1:][0] for path in cached(tmp_path)}
    assert len(kinds) == 2
    face = face_adapter(ip.load(tiny)._model.unet, "ip-adapter-faceid-plus_sd15.bin")
    save_image_adapter(face, tmp_path / "face.safetensors")
    with pytest.raises(
        TrainingError, match=r"start must be .* base or plus, got face\.safetensors"
    ):
        train_image_adapter(
            adapter_config(
                tiny, tars, tmp_path / "no", start=str(tmp_path / "face.safetensors"), **given
            )
        )


def cached(folder: Path) -> list[Path]:
    return sorted((folder / "cache").rglob("*.safetensors"))


def test_a_run_without_an_average_is_not_gone_on_with_as_one_with(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    config = adapter_config(tiny, tars, tmp_path, steps=1, held_out=[], ema=0.0, save_every=1)
    train_image_adapter(config)
    with pytest.raises(TrainingError, match="ema must be 0 to go on with this run"):
        train_image_adapter(replace(config, steps=2, ema=0.9, resume=True))


def test_a_held_out_shard_that_cannot_be_opened_is_passed_over(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.tar").write_bytes(b"")
    config = adapter_config(tiny, tars, tmp_path, steps=1)
    train_image_adapter(replace(config, held_out=(str(tmp_path / "empty.tar"), *config.held_out)))
    alone = replace(config, held_out=(str(tmp_path / "empty.tar"),), run=tmp_path / "more")
    with pytest.raises(TrainingError, match="held_out has only 0 readable pictures"):
        train_image_adapter(alone)


@pytest.mark.parametrize("name", ["min_snr", "truncated_snr", "noise_offset"])
def test_a_distillation_takes_no_weights_of_the_usual_loss(tmp_path: Path, name: str) -> None:
    given = {"data": ["a.tar"], "run": str(tmp_path), "out": str(tmp_path)}
    with pytest.raises(TrainingError, match=f"{name} must be 0: a distillation has a loss of its"):
        config_from(FewStepConfig, given | {name: 5.0})


def test_the_base_stays_as_it_is(tiny: CatalogEntry, tars: Path, tmp_path: Path) -> None:
    before = load_file(tiny.folder / "unet" / "diffusion_pytorch_model.safetensors")
    config = adapter_config(tiny, tars, tmp_path)
    from ipadapter_demo.training import image_adapter

    kept: list[UNet2DConditionModel] = []

    def task_on(base: Any) -> image_adapter.ImageAdapterTask:
        kept.append(base.unet)
        return image_adapter.ImageAdapterTask(config, base)

    finetune.train(config, task_on, held_out_callback(config))
    after = kept[0].state_dict()
    own = {k: v for k, v in after.items() if "processor" not in k}
    assert all(torch.equal(v, before[k]) for k, v in own.items())


# --- a run that can be trusted -----------------------------------------------------------------


def test_held_out_pictures_are_evaluated(tiny: CatalogEntry, tars: Path, tmp_path: Path) -> None:
    train_image_adapter(adapter_config(tiny, tars, tmp_path, preview_every=2))
    rows = [json.loads(x) for x in (tmp_path / "run" / "held-out.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert set(rows[0]) == {"step", "held_out_loss", "clip_i"}
    assert rows[0]["held_out_loss"] != rows[1]["held_out_loss"]
    assert (tmp_path / "run" / "preview-000002.png").exists()
    assert list((tmp_path / "run" / "log").rglob("events.out.tfevents.*"))


def test_a_resumed_run_is_bit_for_bit_an_uninterrupted_one(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    whole = adapter_config(tiny, tars, tmp_path / "whole", steps=8, ema=0.9, accumulate=2)
    train_image_adapter(whole)
    halves = adapter_config(tiny, tars, tmp_path / "halves", steps=8, ema=0.9, accumulate=2)
    train_image_adapter(replace(halves, steps=3, save_every=3))
    provenance = train_image_adapter(replace(halves, resume=True))
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    assert same_files(tmp_path / "halves" / "out", tmp_path / "whole" / "out")
    assert provenance["samples"] == 8 * 2 * 2


def written(config: dict[str, Any], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def launched(config: Path) -> list[str]:
    """The command line that a person would use for two processes."""
    return [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--main_process_port",
        "0",
        "--dynamo_backend",
        "no",
        "-m",
        "ipadapter_demo.training.image_adapter",
        "--config",
        str(config),
    ]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_with_the_same_losses(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    steps = {"steps": 24, "save_every": 1, "workers": 1}
    train_image_adapter(adapter_config(tiny, tars, tmp_path / "whole", **steps))
    config = values(tiny, tars, tmp_path / "killed", **steps, resume=True)
    path = written(config, tmp_path / "killed.yaml")
    log = tmp_path / "killed" / "run" / "log.jsonl"
    for reached in (3, 11):
        process = started(path)
        until = time.monotonic() + 120
        while not (log.exists() and log.read_text().count("\n") >= reached):
            assert process.exitcode is None
            assert time.monotonic() < until
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        assert json.loads(log.read_text().splitlines()[-1])["step"] < 24
    process = started(path)
    process.join(timeout=300)
    assert process.exitcode == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert same_files(tmp_path / "killed" / "out", tmp_path / "whole" / "out")


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    train_image_adapter(adapter_config(tiny, tars, tmp_path / "one", batch=4, steps=6))
    config = values(tiny, tars, tmp_path / "two", batch=2, steps=6)
    two = launched(written(config, tmp_path / "two.yaml"))
    subprocess.run(two, env=environment(), check=True, capture_output=True, text=True, timeout=300)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    ours, theirs = (
        load_image_adapter(tmp_path / name / "out" / "ip-adapter.safetensors")
        for name in ("one", "two")
    )
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)  # both in half precision
    assert json.loads((tmp_path / "two" / "out" / "training.json").read_text())["processes"] == 2
    # and one process goes on with what two began, if the global batch stays
    further = adapter_config(tiny, tars, tmp_path / "two", batch=4, steps=8, resume=True)
    train_image_adapter(further)
    whole = adapter_config(tiny, tars, tmp_path / "eight", batch=4, steps=8)
    train_image_adapter(whole)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "eight"), rel=1e-4)


def test_encoded_once_is_as_encoded_every_time(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    """But for half precision, and rows that are broken, which a cache leaves out."""
    clean = tmp_path / "clean"
    clean.mkdir()
    for number in range(4):
        write_tar(clean / f"{number}.tar", 10 * number, 6)
    train_image_adapter(adapter_config(tiny, clean, tmp_path / "fresh"))
    cached = adapter_config(tiny, clean, tmp_path / "cached", cache=str(tmp_path / "cache"))
    train_image_adapter(cached)
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "fresh"), rel=2e-3)
    written = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(written) == 3
    before = [path.stat().st_mtime_ns for path in written]
    train_image_adapter(replace(cached, run=tmp_path / "again"))
    assert [path.stat().st_mtime_ns for path in written] == before


def test_a_run_that_began_without_a_shard_goes_on_without_it(
    tiny: CatalogEntry, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind an address that did not answer, say; the next run that begins has it."""
    opened = TarShard.open

    def without_one(shard: TarShard) -> Any:
        if shard.name.endswith("1.tar"):
            raise OSError("503 Service Unavailable")
        return opened(shard)

    given = {"held_out": [], "cache": str(tmp_path / "cache"), "steps": 1}
    config = adapter_config(tiny, tars, tmp_path, **given)
    with monkeypatch.context() as patched:
        patched.setattr(TarShard, "open", without_one)
        train_image_adapter(config)
    assert len(cached(tmp_path)) == 2
    resumed = replace(config, steps=2, resume=True)
    assert train_image_adapter(resumed)["steps"] == 2
    [row] = [json.loads(path.read_text()) for path in tmp_path.glob("run/checkpoints/*2/*ss.json")]
    assert (row["feed"]["shards"], len(row["feed"]["left_out"])) == (2, 1)
    new = adapter_config(tiny, tars, tmp_path / "new", **given)
    train_image_adapter(new)
    assert len(cached(tmp_path)) == 3


def test_a_cache_follows_its_pictures(tiny: CatalogEntry, tmp_path: Path) -> None:
    """A shard that cannot be opened is tried again, and one that changed is encoded anew."""
    write_tar(tmp_path / "0.tar", 0, 4)
    (tmp_path / "1.tar").write_bytes(b"no tar")
    cache = tmp_path / "cache"

    def captions(number: int) -> list[str]:
        data = f"{tmp_path}/{{0..1}}.tar"
        given = {"data": data, "held_out": [], "cache": str(cache), "steps": 1}
        train_image_adapter(adapter_config(tiny, tmp_path, tmp_path / f"run-{number}", **given))
        files = sorted(cache.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        return [row[0] for path in files for row in EncodedRows(path)._rows]

    first = [f"caption {i}" for i in range(4)]
    assert captions(0) == first
    write_tar(tmp_path / "1.tar", 10, 2)
    assert captions(1) == [*first, "caption 10", "caption 11"]
    write_tar(tmp_path / "1.tar", 20, 2)
    assert captions(2)[-2:] == ["caption 20", "caption 21"]


def test_what_a_run_cannot_end_with_is_said_before_it_begins(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(TrainingError, match=r"out: .*/out cannot be written to: File exists"):
        train_image_adapter(adapter_config(tiny, tars, tmp_path))
    given = values(tiny, tars, tmp_path / "a", annotator="sobel")
    with pytest.raises(TrainingError, match=r"annotator must be one of canny, .*, got 'sobel'"):
        train_structure(config_from(StructureConfig, given))
    given |= {"annotator": "depth", "models_dir": str(tmp_path)}
    with pytest.raises(ModelError, match="dpt_hybrid"):
        train_structure(config_from(StructureConfig, given))
    assert not (tmp_path / "a" / "run" / "checkpoints").exists()
    folder = tmp_path / "lllyasviel" / "Annotators"
    folder.mkdir(parents=True)
    (folder / "dpt_hybrid-midas-501f0c75.pt").touch()
    config = config_from(StructureConfig, given)
    task = StructureTask(config, frozen_base(config, "cpu", "no"))
    assert task.preparer.locate(DETECTORS["depth"].weights) == folder
    picture_itself = StructureTask(replace(config, annotator="none"), task.base)
    assert picture_itself.preparer.annotator == "none"


def test_a_finished_run_is_not_trained_over(tiny: CatalogEntry, tars: Path, tmp_path: Path) -> None:
    config = adapter_config(tiny, tars, tmp_path)
    train_image_adapter(config)
    with pytest.raises(TrainingError, match="holds a run of another network: step-00000004 does"):
        train_image_adapter(replace(config, variant="plus", steps=8, resume=True))
    with pytest.raises(TrainingError, match="holds a run at step-00000004; go on with --resume"):
        train_image_adapter(config)
    with pytest.raises(TrainingError, match="the run to resume has global_batch 2, not 6"):
        train_image_adapter(replace(config, batch=6, steps=8, resume=True))
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == checkpoints.KEPT


def test_what_lies_beside_the_checkpoints_stays(tmp_path: Path) -> None:
    """A copy that somebody keeps, and what a file manager leaves."""
    alone = SimpleNamespace(
        is_main_process=True,
        register_for_checkpointing=lambda _: None,
        wait_for_everyone=lambda: None,
        save_state=lambda folder: Path(folder, "model.bin").touch(),
    )
    folder = tmp_path / "checkpoints"
    for name in ("best", "step-copy"):
        (folder / name).mkdir(parents=True)
    (folder / ".DS_Store").touch()
    saved = checkpoints.Checkpoints(tmp_path, alone, EMA(0, {}))  # type: ignore[arg-type]
    assert "No checkpoint" in saved.usable()
    for step in range(1, 5):
        saved.save(checkpoints.Progress(step=step))
    assert sorted(path.name for path in folder.iterdir()) == [
        ".DS_Store",
        "best",
        "step-00000003",
        "step-00000004",
        "step-copy",
    ]
    assert checkpoints.last_progress(tmp_path).step == 4


# --- in trouble --------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run(
    tiny: CatalogEntry, tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Diffusion.loss
    calls = []

    def spoilt(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return original(*arguments) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(Diffusion, "loss", spoilt)
    config = adapter_config(tiny, tars, tmp_path)
    with pytest.raises(TrainingError, match=r"loss is nan at step 3; lower lr .* is step-00000002"):
        train_image_adapter(config)
    monkeypatch.undo()
    assert train_image_adapter(replace(config, resume=True))["steps"] == 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_says_what_to_do(
    tiny: CatalogEntry,
    tars: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise error

    monkeypatch.setattr(Diffusion, "loss", full)
    with pytest.raises(TrainingError, match=r"out of memory at step 0, with batch 2. Lower batch"):
        train_image_adapter(adapter_config(tiny, tars, tmp_path))


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    given = values(tiny, tars, tmp_path, log_every=100)
    path = written(given, tmp_path / "run.yaml")
    process = started(path, full_at=4)
    process.join()
    output = path.with_suffix(".log").read_text()
    assert process.exitcode == 2, output
    said = output.strip().splitlines()[-1]
    assert "step 3 could not be written down" in said
    assert "The last usable checkpoint is step-00000002; --resume goes on from it" in said
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    train_image_adapter(config_from(ImageAdapterConfig, given | {"resume": True}))


@pytest.mark.slow
def test_two_processes_read_what_one_encoded(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    same = {"precision": "bf16", "steps": 1, "cache": str(tmp_path / "cache")}
    train_image_adapter(adapter_config(tiny, tars, tmp_path / "one", **same))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    places = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    config = values(tiny, tars, tmp_path / "two", **same)
    processes = [
        started(written(config, tmp_path / f"{rank}.yaml"), RANK=rank, LOCAL_RANK=rank, **places)
        for rank in "01"
    ]
    for rank, process in enumerate(processes):
        process.join()
        assert process.exitcode == 0, (tmp_path / f"{rank}.log").read_text()
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs the processes find each other")
def test_processes_that_would_train_alone_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match=r"2 processes were launched.* --device cpu"):
        loop.accelerator_of(Run(folder=tmp_path, steps=1, batch=1, lr=0.1, device=""))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_called_so(number: int) -> None:
    run = Run(folder=Path("run"), steps=1, batch=1, lr=0.1)

    class Kept:
        def usable(self) -> str:
            return "Nothing."

    with (
        pytest.raises(TrainingError, match="step 0 could not be written down: the disk is full"),
        explained(run, 0, Kept()),
    ):  # type: ignore[arg-type]
        raise OSError(number, "words of the system")


# --- options -----------------------------------------------------------------------------------


def test_every_option_trains(tiny: CatalogEntry, tars: Path, tmp_path: Path) -> None:
    given = {
        "min_snr": 5,
        "truncated_snr": 20,
        "noise_offset": 0.1,
        "ema": 0.9,
        "clip_grad": 1,
        "warmup": 2,
        "lr_schedule": "cosine",
        "timesteps": "cubic",
        "accumulate": 2,
        "precision": "bf16",
    }
    train_image_adapter(adapter_config(tiny, tars, tmp_path, **given))
    assert len(losses(tmp_path)) == 4


def test_broken_pictures_are_counted(tiny: CatalogEntry, tars: Path, tmp_path: Path) -> None:
    """Rows 2 and 23 of 33 are broken: every round meets each of them once."""
    config = adapter_config(tiny, tars, tmp_path, batch=3, steps=22)
    assert train_image_adapter(config)["broken_rows"] == 4
    cached = replace(config, run=tmp_path / "cached", cache=tmp_path / "cache")
    assert train_image_adapter(cached)["broken_rows"] == 2


def test_gradient_checkpointing_changes_no_gradient(
    tiny: CatalogEntry, tars: Path, tmp_path: Path
) -> None:
    train_image_adapter(adapter_config(tiny, tars, tmp_path / "plain"))
    train_image_adapter(adapter_config(tiny, tars, tmp_path / "less", gradient_checkpointing=True))
    assert losses(tmp_path / "less") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)


def test_bitsandbytes_is_asked_for_by_name(tiny: CatalogEntry, tars: Path, tmp_path: Path) -> None:
    if loop.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed here, so it would not be missed")
    with pytest.raises(TrainingError, match="adam_8bit needs bitsandbytes"):
        train_image_adapter(adapter_config(tiny, tars, tmp_path, adam_8bit=True))


def test_a_base_for_inpainting_is_refused(tars: Path, tmp_path: Path) -> None:
    entry = write_tiny_model(tmp_path / "paints")
    unet = UNet2DConditionModel.from_pretrained(entry.folder / "unet")
    wide = dict(unet.config) | {"in_channels": 9}
    UNet2DConditionModel.from_config(wide).save_pretrained(entry.folder / "unet")
    with pytest.raises(TrainingError, match=r"base: .*paints is for inpainting, whose UNet reads"):
        train_image_adapter(adapter_config(entry, tars, tmp_path))


def test_a_base_that_predicts_v_learns_v(tars: Path, tmp_path: Path) -> None:
    entry = write_tiny_model(tmp_path / "v")
    path = entry.folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"prediction_type": "v_prediction"}
    path.write_text(json.dumps(config))
    train_image_adapter(adapter_config(entry, tars, tmp_path))
    assert Diffusion(config, "cpu").prediction == "v_prediction"


# --- the objective -----------------------------------------------------------------------------

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


def drawn(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draws = SampleNoise.at(0, range(count), (4, 8, 8))
    return torch.randn(count, 4, 8, 8), draws.noise, torch.linspace(0, 999, count).long()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_targets_are_those_of_diffusers(prediction: str) -> None:
    from diffusers import DDPMScheduler

    latents, noise, timesteps = drawn(6)
    ours = Diffusion(SCHEDULE | {"prediction_type": prediction}, "cpu")
    theirs = DDPMScheduler(**SCHEDULE, prediction_type=prediction)
    torch.testing.assert_close(
        ours.noisy(latents, noise, timesteps), theirs.add_noise(latents, noise, timesteps)
    )
    wanted = noise if prediction == "epsilon" else theirs.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(ours.target(latents, noise, timesteps), wanted)


def test_a_base_that_predicts_something_else_is_refused() -> None:
    with pytest.raises(TrainingError, match="must predict epsilon or v_prediction"):
        Diffusion(SCHEDULE | {"prediction_type": "sample"}, "cpu")


def test_min_snr_weights_are_the_papers() -> None:
    """w = min(SNR, γ)/SNR for ε and min(SNR, γ)/(SNR + 1) for v: arXiv 2303.09556, section 3.4."""
    _, noise, timesteps = drawn(1)
    timesteps = torch.tensor([100])
    for prediction, added in (("epsilon", 0.0), ("v_prediction", 1.0)):
        diffusion = Diffusion(SCHEDULE | {"prediction_type": prediction}, "cpu")
        alpha = diffusion.alphas[100]
        snr = alpha / (1 - alpha)
        zero = torch.zeros_like(noise)
        plain, weighed = (diffusion.loss(zero, noise, timesteps, gamma) for gamma in (0.0, 5.0))
        torch.testing.assert_close(weighed / plain, snr.clamp(max=5.0) / (snr + added))


def test_truncated_snr_dwells_on_noise_and_keeps_the_mean() -> None:
    diffusion = Diffusion(SCHEDULE, "cpu")
    zero, one = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    at = [float(diffusion.loss(zero, one, torch.tensor([t]), most=20.0)) for t in range(1000)]
    assert sum(at) / 1000 == pytest.approx(1.0, rel=1e-4)
    assert at[999] / at[0] == pytest.approx(20.0, rel=1e-4)


def test_what_a_sample_sees_depends_on_its_place_alone() -> None:
    whole = SampleNoise.at(7, range(8), (4, 2, 2))
    part = SampleNoise.at(7, [5, 6], (4, 2, 2))
    assert torch.equal(part.noise, whole.noise[5:7])
    assert torch.equal(part.drop, whole.drop[5:7])
    assert not torch.equal(SampleNoise.at(8, [5], (4, 2, 2)).noise, part.noise[:1])


# --- configs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_are_valid(path: Path) -> None:
    given = values_from_file(path)
    kinds = {"network": StructureConfig, "rank": FewStepConfig}
    kind = next((kinds[name] for name in kinds if name in given), ImageAdapterConfig)
    assert config_from(kind, given).data


def test_the_defaults_are_the_papers() -> None:
    config = ImageAdapterConfig(data=("x.tar",), run=Path("r"), out=Path("o"))
    assert (config.lr, config.weight_decay, config.batch, config.size) == (1e-4, 0.01, 8, 512)
    assert config.drop_image == config.drop_text == config.drop_both == 0.05
    assert config.lr_schedule == "constant"
    assert config.timesteps == "uniform"
    off = (
        config.ema,
        config.min_snr,
        config.truncated_snr,
        config.noise_offset,
        config.warmup,
        config.clip_grad,
        config.gradient_checkpointing,
        config.adam_8bit,
        config.compile,
    )
    assert not any(off)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"lr": "fast"}, "lr must be a number, got 'fast'"),
        ({"lr": 2.0}, "lr must be between 0 and 1, got 2.0"),
        ({"size": 500}, "size must be a multiple of 8, got 500"),
        ({"steps": 2.5}, "steps must be a whole number, got 2.5"),
        ({"variant": "huge"}, "variant must be one of base, plus, got 'huge'"),
        ({"drop_text": 0.95}, r"drop_text \+ drop_image \+ drop_both must be at most 1, got 1.05"),
        ({"speed": 1}, "'speed' is no field; there are data, held_out, run"),
        ({"resume": "maybe"}, "resume must be true or false, got 'maybe'"),
        ({"data": []}, r"data must be at least one place, got \(\)"),
    ],
)
def test_a_bad_config_names_the_field(given: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        config_from(ImageAdapterConfig, {"data": "x.tar", "run": "r", "out": "o"} | given)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    import argparse

    from ipadapter_demo.training.config_reading import add_fields, config_from_arguments

    path = tmp_path / "run.yaml"
    path.write_text("data: [a.tar, b.tar]\nrun: r\nout: o\nlr: 1e-5\nprecision: no\nema: 0.9\n")
    parser = argparse.ArgumentParser()
    add_fields(parser, ImageAdapterConfig)

    def read(*words: str) -> ImageAdapterConfig:
        return config_from_arguments(
            ImageAdapterConfig, parser.parse_args(["--config", str(path), *words])
        )

    assert (read().lr, read().precision, read().data) == (1e-5, "no", ("a.tar", "b.tar"))
    assert (read("--lr", "2e-5").lr, read("--ema", "0").ema) == (2e-5, 0.0)
    assert read("--gradient-checkpointing").gradient_checkpointing is True


def test_the_module_fails_with_a_line_and_not_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--run", str(tmp_path), "--out", str(tmp_path)]
    words = ["--data", "nowhere.tar", *folders, "--base", "tabletop", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["train", *words])
    module = "ipadapter_demo.training.image_adapter"
    monkeypatch.delitem(sys.modules, module)  # as -m finds it
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module(module, run_name="__main__")
    said = capsys.readouterr().err
    assert exit_.value.code == 2
    assert said.strip().splitlines()[-1].startswith("data: nowhere.tar is neither")
    assert "Traceback" not in said


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "no")])
def test_precision_auto_follows_the_hardware(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: bool, expected: str
) -> None:
    monkeypatch.setattr(loop, "has_bfloat16", lambda device: has)
    run = Run(folder=tmp_path, steps=1, batch=1, lr=0.1)
    assert loop.accelerator_of(run).mixed_precision == expected
