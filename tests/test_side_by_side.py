"""Nobody waits for what another fetches, and nothing is kept for ever."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event
from types import SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file

from ipadapter_demo.errors import ModelError
from ipadapter_demo.lora import Lora
from ipadapter_demo.models import faces, lycoris, structures
from ipadapter_demo.models.annotators import annotate
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry, StructureEntry
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.shelf import VaeFolder
from ipadapter_demo.models.sources import Hub
from ipadapter_demo.models.vae import VAE
from ipadapter_demo.models.weights import tensors_from_file
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.pipeline.conditioning import maps as map_reading
from ipadapter_demo.pipeline.samplers import new_scheduler
from ipadapter_demo.request import GenerateRequest, Structure
from tests.published import tiny_kl
from tests.shelf import models, offline, shelf
from tests.test_loras import GOOD, plain_lora
from tests.tiny import picture

__all__ = ["models", "offline", "shelf"]  # fixtures
ON_THE_SHELF = ("sd15",)
SOON = 20.0  # seconds, on a busy machine; a free one takes a hundredth


@contextmanager
def fetching(begun: Event, may_end: Event, work: Callable[[], object]) -> Iterator[None]:
    """Somebody else's work, which has begun, and has not ended meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            assert begun.wait(SOON)
            yield
            assert not future.done()
        finally:
            may_end.set()
        with pytest.raises(ModelError, match="it was to be fetched for ever"):
            future.result()


def never(begun: Event, may_end: Event) -> Callable[[Hub], Path]:
    """In place of the hub."""

    def locate(hub: Hub) -> Path:
        begun.set()
        may_end.wait()
        raise ModelError("it was to be fetched for ever")

    return locate


def on_the_hub(entry: StructureEntry) -> StructureEntry:
    return replace(entry, folder=Hub(repo="nobody/net", files=("a.json", "b")))


def test_a_network_that_is_loaded_is_had_while_another_is_fetched(model: BaseModel) -> None:
    begun, may_end = Event(), Event()
    kinds = {"canny": model.entry.structures["canny"]}
    kinds["depth"] = on_the_hub(kinds["canny"])
    of = structures.Structures.of(model.entry, model.locate, {"canny": model.structures["canny"]})
    of._entries, of._locate = kinds, never(begun, may_end)  # type: ignore[assignment]
    with ThreadPoolExecutor(1) as pool, fetching(begun, may_end, lambda: of["depth"]):
        assert pool.submit(of.__getitem__, "canny").result(SOON) is model.structures["canny"]


def test_a_lora_that_is_at_hand_is_merged_while_another_is_fetched(
    models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "style.safetensors"
    save_file(plain_lora(GOOD), path)
    pipeline: Any = load(
        "sd15", models_dir=models, device="cpu", dtype="float32", loras=((path, 1),)
    )
    loras, begun, may_end = pipeline._model.loras, Event(), Event()
    loras._files["lcm"] = Hub(repo="nobody/lora", files=("a.safetensors",))
    loras._locate = never(begun, may_end)
    loras.merge(())
    with (
        ThreadPoolExecutor(1) as pool,
        fetching(begun, may_end, lambda: loras.check([Lora(name="lcm")])),
    ):
        pool.submit(loras.merge, [Lora(name="style", weight=0.5)]).result(SOON)


def test_networks_that_nobody_asked_for_lately_are_let_go(
    model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those from the hub; those that came with the model stay."""
    known, net = model.entry.structures["canny"], model.structures["canny"]
    own: Any = structures.Structures.of(model.entry, model.locate, {"own": net})
    own._entries = {"own": known} | {k: on_the_hub(known) for k in ("first", "second", "third")}
    loaded: list[str] = []

    def read(kind: str, place: object) -> Any:
        loaded.append(kind)
        return SimpleNamespace(net=torch.nn.Linear(4, 4))

    own._read, own._fetched = read, lambda kind: Path()
    monkeypatch.setattr(structures, "KEPT_BYTES", 100)  # one, of 80
    first = own["first"]
    own["second"], own["own"], own["first"]
    assert loaded == ["first", "second"], "one beside those that fit"
    own["third"]
    assert set(own._loaded) == {"own", "first", "third"}, "the one asked for last stays"
    assert own["first"] is first
    own["second"]
    assert loaded == ["first", "second", "third", "second"]


def test_maps_that_were_drawn_are_not_drawn_again_on_the_engine(
    pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def counting(annotator: str, image: Image.Image, locate: Any) -> Image.Image:
        drawn.append(annotator)
        return annotate(annotator, image, locate)

    monkeypatch.setattr(map_reading, "annotate", counting)
    pipeline._conditioner.maps._maps._capacity = 1
    edges = tuple(Structure(kind="canny", image=picture(n)) for n in range(3))
    request = GenerateRequest(prompt="a", steps=1, structures=edges)
    first = pipeline.generate(request)
    assert len(drawn) == 3
    assert len({np.asarray(each).tobytes() for each in first.maps}) == 3


def test_changes_of_a_large_lora_are_made_one_after_the_other(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once they are larger than the model."""
    alive: list[Any] = []
    most = 0
    delta_of = lycoris.delta_of

    def counted(change: Any) -> torch.Tensor:
        nonlocal most
        delta = delta_of(change)
        alive.append(ref(delta.untyped_storage()))
        most = max(most, sum(each() is not None for each in alive))
        return delta

    monkeypatch.setattr(lycoris, "delta_of", counted)
    blocks = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
    layer = GOOD.removesuffix("attn1_to_q")
    tensors: dict[str, torch.Tensor] = {}
    for name in blocks:
        tensors |= plain_lora(layer + name.replace(".", "_"))
    path = tmp_path / "all.safetensors"
    save_file(tensors, path)
    load("sd15", models_dir=models, device="cpu", dtype="float32", loras=((path, 1.0),))
    assert len(alive) == len(blocks)
    assert most <= 2, "the one that is made, and the one before"


def test_two_chosen_autoencoders_stay_loaded(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = models / PUBLISHED["sd15"].base.repo / "vae"
    vae = AutoencoderKL.from_pretrained(source, variant="fp16").float()
    for name in ("one", "two", "three"):
        vae.save_pretrained(models / "vaes" / name)
    vaes: Any = load("sd15", models_dir=models, device="cpu", dtype="float32")._model.vaes
    first, second = vaes["one"], vaes["two"]
    assert (vaes["one"], vaes["two"], vaes["one"]) == (first, second, first)
    vaes["three"]
    assert set(vaes._loaded) == {"one", "three"}


def test_an_autoencoder_works_on_one_picture_at_a_time_beside_a_gpu() -> None:
    assert VAE(tiny_kl(), "cuda").autoencoder.use_slicing
    assert not VAE(tiny_kl(), "cpu").autoencoder.use_slicing


def test_faces_are_looked_for_by_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """InsightFace's detector is one for all, with the size at which it looks."""

    class Detector:
        input_size = (0, 0)

    class Analysis:
        det_model = Detector()

        def __init__(self, file: Path) -> None:
            self.models = {"recognition": type("Recogniser", (), {"model_file": str(file)})}

        def get(self, pixels: np.ndarray) -> list[object]:
            asked = self.det_model.input_size
            time.sleep(0.02)
            assert self.det_model.input_size == asked, "somebody else changed it"
            return []

    monkeypatch.setattr(faces, "_insightface", lambda: (Analysis(Path(__file__)), None))
    together = Barrier(3)

    def look(seed: int) -> list[Any]:
        together.wait()
        return faces.find_faces(picture(seed))

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(look, range(3))) == [[], [], []]


def test_no_sampler_clips_latents_whatever_a_folder_says(models: Path, entry: CatalogEntry) -> None:
    """diffusers' own pipelines take it off; DDIM's default has it."""
    path = models / PUBLISHED["sd15"].base.repo / "scheduler" / "scheduler_config.json"
    said = json.loads(path.read_text())
    for change in ({}, {"clip_sample": True}):
        content = {k: v for k, v in said.items() if k != "clip_sample"} | change
        path.write_text(json.dumps(content | {"_class_name": "DDIMScheduler"}))
        config = load("sd15", models_dir=models, device="cpu")._model.scheduler_config
        for sampler in ("ddim", "lcm", "tcd"):
            assert new_scheduler(sampler, config).config.clip_sample is False, sampler


def test_an_autoencoder_s_folder_without_a_scale_has_that_of_its_class(tmp_path: Path) -> None:
    folder = tmp_path / "vaes" / "mse"
    tiny_kl().save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["scaling_factor"]
    path.write_text(json.dumps(config))
    for scale, offered in ((0.18215, ["mse"]), (0.13025, [])):
        assert list(VaeFolder(tmp_path, config["latent_channels"], scale).places()) == offered


@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale"])
def test_fp8_weights_with_scales_apart_are_refused(tmp_path: Path, scale: str) -> None:
    path = tmp_path / "unet.safetensors"
    weight = torch.ones(2, 2, dtype=torch.float8_e4m3fn)
    save_file({"a.weight": weight, f"a.{scale}": torch.tensor(0.5)}, path)
    with pytest.raises(ModelError, match=rf"unet.safetensors: holds fp8 weights .*a\.{scale}"):
        tensors_from_file(path)
