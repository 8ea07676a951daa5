"""Bases and LoRAs that an operator puts into the folder of models, while the page is served."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file

import ipadapter_demo as ip
from ipadapter_demo.cli import main
from ipadapter_demo.cli.serve import prepared_by
from ipadapter_demo.compare import Bundle, draw_comparison, spec_from_document
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.listing import offers
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.sources import file_sha256
from ipadapter_demo.pipeline import load
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui
from ipadapter_demo.ui.run.model_input import model_properties
from ipadapter_demo.ui.widgets.loras import loras_properties
from tests.ldm_layout import write_checkpoint, write_sdxl_checkpoint
from tests.published import tiny_kl, tiny_sd15_unet
from tests.shelf import models, offline, shelf
from tests.test_loras import GOOD, plain_lora
from tests.tiny import (
    CROSS_DIM,
    box_mask,
    noise,
    picture,
    randomise,
    seeded,
    tiny_text_encoder,
    tiny_unet,
)

__all__ = ["models", "offline", "shelf"]  # fixtures
ON_THE_SHELF = ("sd15",)
ASKED = GenerateRequest(
    references=(Reference(image=picture(1)),), steps=1, guidance=1.0, width=64, height=64
)


def checkpoint(models: Path, name: str, seed: int = 77) -> Path:
    path = models / "bases" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    write_checkpoint(path, tiny_sd15_unet(seed), tiny_kl(), tiny_text_encoder())
    return path


def lora(models: Path, name: str, seed: int = 3) -> Path:
    path = models / "loras" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(plain_lora(GOOD, seed=seed), path)
    return path


def served(models: Path, **settings: object) -> ModelManager:
    """As `serve` makes one."""
    chosen = Settings(model="sd15", models_dir=str(models), device="cpu", dtype="float32")
    chosen = replace(chosen, **settings)
    prepare = prepared_by(chosen)
    pipeline = prepare("sd15", lambda text, share: None)()
    return ModelManager(pipeline, prepare, offers(str(models), ("sd15",), fetches=False))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_base_is_offered_as_soon_as_it_is_there(models: Path, kind: str) -> None:
    """And is what --base makes of it."""
    manager = served(models)
    with pytest.raises(ip.RequestError, match=r"model must be one of sd15, got 'sd15 on dreamy 2'"):
        manager.with_model("sd15 on dreamy 2")
    if kind == "file":
        base = checkpoint(models, "dreamy 2")
    else:
        base = models / "bases" / "dreamy 2"
        shutil.copytree(models / PUBLISHED["sd15"].base.repo, base)
    name = "sd15 on dreamy 2"
    assert manager.models == {"sd15": "sd15", name: name}, "of the models on offer alone"
    pipeline = manager.with_model(name)
    result = pipeline.generate(ASKED)
    where = {"models_dir": models, "device": "cpu", "dtype": "float32"}
    expected = load("sd15", base=str(base), **where).generate(ASKED)
    assert np.array_equal(result.images[0], expected.images[0])
    assert result.provenance["model"] == name
    assert result.provenance["weights"] == expected.provenance["weights"]
    assert load(name, **where).info.name == name
    with pytest.raises(ip.ModelError, match="base goes with a published model, and sd15 on"):
        load(name, base=str(base), **where)
    shutil.rmtree(models / "bases")
    assert list(manager.models) == ["sd15"]


def test_what_a_base_lacks_is_said_and_fetched_for_no_visitor(models: Path) -> None:
    checkpoint(models, "dreamy")
    write_sdxl_checkpoint(models / "bases" / "large.safetensors")
    offered = offers(str(models), ("sd15", "sd15-plus", "sdxl", "tabletop"), fetches=False)()
    assert {name: text for name, text in offered.items() if " on " in name} == {
        "sd15 on dreamy": "sd15 on dreamy",
        "sd15-plus on dreamy": "sd15-plus on dreamy (not downloaded, 98 MB)",
        "sdxl on large": "sdxl on large (not downloaded, 700 MB)",  # its base is there
    }
    with pytest.raises(ip.ModelError, match="sd15-plus on dreamy is not downloaded here"):
        prepared_by(Settings(models_dir=str(models)))(
            "sd15-plus on dreamy", lambda text, share: None
        )


def test_a_lora_can_be_chosen_as_soon_as_it_is_there(models: Path) -> None:
    plain = load("sd15", models_dir=models, device="cpu", dtype="float32")
    before = plain.generate(ASKED).images[0]
    chosen = replace(ASKED, loras=(Lora(name="style", weight=0.7),))
    with pytest.raises(ip.RequestError, match=r"lora must be one of .*, got 'style'"):
        plain.generate(chosen)
    path = lora(models, "style")
    result = plain.generate(chosen)
    where = {"models_dir": models, "device": "cpu", "dtype": "float32"}
    given = load("sd15", loras=((path, 0.7),), **where).generate(ASKED)
    assert result.request.loras == given.request.loras == chosen.loras
    assert np.array_equal(result.images[0], given.images[0])
    assert not np.array_equal(result.images[0], before)
    assert result.provenance["weights"] == given.provenance["weights"]
    assert np.array_equal(plain.generate(ASKED).images[0], before), "and is in no other request"
    lora(models, "my style.v2")
    for name in ("style", "my style.v2"):
        named = load("sd15", loras=((name, 0.7),), **where).generate(ASKED)
        assert named.request.loras == (Lora(name=name, weight=0.7),)
        assert np.array_equal(named.images[0], given.images[0])
    save_file(plain_lora(GOOD, seed=8), path)
    with pytest.raises(ip.ModelError, match="lora style: its file was changed after use"):
        plain.generate(chosen)
    path.unlink()
    with pytest.raises(ip.RequestError, match="got 'style'"):
        plain.generate(chosen)


def vae(models: Path, name: str, seed: int = 5) -> Path:
    """A file, of the weights alone."""
    path = models / "vaes" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    with seeded(seed):
        made = tiny_kl()
        randomise(made)
    save_file(made.state_dict(), path)
    return path


def test_a_vae_can_be_chosen_as_soon_as_it_is_there(models: Path, tmp_path: Path) -> None:
    """It is what --vae makes of it; and encodes, too."""
    where = {"models_dir": models, "device": "cpu", "dtype": "float32"}
    pipeline = load("sd15", **where)
    before = pipeline.generate(ASKED).images[0]
    chosen = replace(ASKED, vae="soft")
    with pytest.raises(
        ip.RequestError, match=r"vae must be one .* sd15 \(there are none\), got 's"
    ):
        pipeline.generate(chosen)
    path = vae(models, "soft")
    given = load("sd15", vae=path, **where)
    begun = {"init_image": picture(2), "strength": 0.5}
    twice = {"upscale": ip.Upscale(factor=2.0)}
    for more in ({}, begun, twice):
        drawn = pipeline.generate(replace(chosen, **more))
        expected = given.generate(replace(ASKED, **more))
        assert np.array_equal(drawn.images[0], expected.images[0])
    assert not np.array_equal(pipeline.generate(chosen).images[0], before)
    assert np.array_equal(pipeline.generate(ASKED).images[0], before), "and is in no other request"
    result = pipeline.generate(replace(chosen, **begun))
    other = pipeline.generate(replace(ASKED, **begun))
    assert not np.array_equal(result.images[0], other.images[0])
    weights = result.provenance["weights"]
    assert weights["vae/soft/soft.safetensors"] == file_sha256(path)
    folder = models / "vaes" / "as a folder"
    AutoencoderKL.from_pretrained(models / PUBLISHED["sd15"].base.repo / "vae", variant="fp16").to(
        torch.float32
    ).save_pretrained(folder)
    own = pipeline.generate(replace(ASKED, vae="as a folder"))
    assert np.array_equal(own.images[0], before)
    png = tmp_path / "made.png"
    ip.save_png(png, result.images[0], result.request, 0, 0, result.provenance)
    assert ip.request_from_png(png).vae == "soft"
    vae(models, "soft", seed=9)
    with pytest.raises(ip.ModelError, match="vae soft: it was changed after use"):
        pipeline.generate(chosen)


def test_a_vae_on_the_command_line_and_in_a_comparison(
    models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    vae(models, "soft")
    monkeypatch.chdir(tmp_path)
    picture(1).save("R.png")
    where = f"--models-dir {models} --device cpu --dtype float32 --model sd15"
    words = f"generate --reference R.png --vae soft --steps 1 --out out {where}"
    assert main(words.split()) == 0
    path = json.loads(capsys.readouterr().out)["path"]
    assert ip.request_from_png(path).vae == "soft"
    assert main(f"generate --from-png {path} --out out {where}".split()) == 0
    again = json.loads(capsys.readouterr().out)["path"]
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(path)))
    document = {
        "request": {"references": [{"image": "R.png"}], "steps": 1},
        "columns": {"vae": ["none", "soft"]},
    }
    spec = spec_from_document(document, lambda name: Path(name).read_bytes())
    pipeline = load("sd15", models_dir=models, device="cpu", dtype="float32")
    bundle = draw_comparison(spec, tmp_path / "compared", ModelManager(pipeline))
    cells = [
        np.asarray(Image.open(tmp_path / "compared" / "cells" / f"p1-r1-c{n}.png")) for n in (1, 2)
    ]
    assert not np.array_equal(*cells)
    assert np.array_equal(cells[1], np.asarray(Image.open(path)))
    assert not list(Bundle(bundle).changes(ModelManager(pipeline)))


def test_the_lists_of_the_page(models: Path) -> None:
    manager = served(models)
    own = list(manager.info.loras)
    page = build_ui(manager, Settings())
    assert loras_properties(manager.info)["choices"] == own
    lora(models, "style")
    checkpoint(models, "dreamy")
    vae(models, "soft")
    assert loras_properties(manager.info)["choices"] == [*own, "style"]
    assert model_properties(manager) == {
        "choices": [("sd15", "sd15"), ("sd15 on dreamy", "sd15 on dreamy")],
        "visible": True,
    }
    asked = [fn for fn in page.fns.values() if any(event == "focus" for _, event in fn.targets)]
    assert all(any(event == "load" for _, event in fn.targets) for fn in asked)
    shown: dict[str, Any] = {}
    for fn in asked:
        found = fn.fn("sd15") if fn.inputs else {fn.outputs[0]: fn.fn()}
        shown |= {one.label: update for one, update in found.items()}
    assert shown["Model"]["choices"][-1] == ("sd15 on dreamy", "sd15 on dreamy")
    assert shown["LoRAs"]["choices"] == [*own, "style"]
    assert shown["VAE"]["choices"] == [("the model's own", ""), ("soft", "soft")]
    assert shown["VAE"]["visible"]
    for name in ("LoRAs", "VAE"):
        assert "value" not in shown[name], "what is chosen stays"


def test_what_is_no_base_or_lora_is_left_out_and_named_once(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lora(models, "good")
    (lora(models, "bad:1")).touch()
    save_file({"image_proj.proj.weight": noise(1, 2, 2)}, models / "loras" / "face.safetensors")
    wide = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file(
        {f"{wide}.lora_down.weight": noise(1, 2, CROSS_DIM + 1)},
        models / "loras" / "other-family.safetensors",
    )
    (models / "loras" / "deep").mkdir()
    shutil.copy(
        models / "loras" / "good.safetensors", models / "loras" / "deep" / "more.safetensors"
    )
    shutil.copy(models / "loras" / "good.safetensors", models / "beside.safetensors")
    whole = checkpoint(models, "whole")
    cut = models / "bases" / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    shutil.copy(models / "loras" / "good.safetensors", models / "bases" / "style.safetensors")
    (models / "bases" / "empty").mkdir()
    (models / "bases" / "notes.txt").touch()
    vae(models, "good")
    shutil.copy(models / "loras" / "good.safetensors", models / "vaes" / "style.safetensors")
    (models / "vaes" / "empty").mkdir()
    large = AutoencoderKL.from_config(tiny_kl().config, scaling_factor=0.13)
    large.save_pretrained(models / "vaes" / "of SDXL")
    pipeline = load("sd15", models_dir=models, device="cpu", dtype="float32")
    own = list(pipeline.info.loras)
    with caplog.at_level(logging.WARNING, logger="ipadapter_demo"):
        for _ in range(2):
            assert pipeline.info.lora_names == [*own, "good"]
            assert pipeline.info.vae_names == ["good"]
            assert list(offers(str(models), ("sd15",))()) == ["sd15", "sd15 on whole"]
    said = [record.getMessage() for record in caplog.records]
    for name, why in {
        "loras/bad:1.safetensors": "its name must be letters",
        "loras/face.safetensors": r"it holds no LoRA, but keys as ['image_proj",
        "bases/cut.safetensors": "cannot be read",
        "bases/style.safetensors": "it holds a LoRA",
        "bases/empty": "it has no model_index.json",
        "vaes/style.safetensors": "it holds no autoencoder, but keys as ['lora_unet",
        "vaes/empty": "it has no config.json of an autoencoder",
    }.items():
        [line] = [one for one in said if name in one]
        assert why in line
    assert len(said) == 7


@pytest.mark.parametrize("folder", ["bases", "vaes"])
def test_a_link_to_nothing_stops_nothing(models: Path, folder: str) -> None:
    """As a cleaned cache of the hub leaves them behind."""
    source = models / PUBLISHED["sd15"].base.repo
    place = models / folder / "mine"
    shutil.copytree(source if folder == "bases" else source / "vae", place)
    inside = place / "unet" if folder == "bases" else place
    (inside / "diffusion_pytorch_model.bin").symlink_to(models / "gone")
    manager = served(models)
    asked = replace(ASKED, vae="mine") if folder == "vaes" else ASKED
    for name in manager.models:
        assert len(manager.with_model(name).generate(asked).images) == 1
    assert ("sd15 on mine" in manager.models) == (folder == "bases")


def test_a_base_for_inpainting_is_offered_too(models: Path) -> None:
    base = models / "bases" / "paints"
    shutil.copytree(models / PUBLISHED["sd15"].base.repo, base)
    index = json.loads((base / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionInpaintPipeline"
    (base / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(base / "unet")
    tiny_unet(30, **dict(tiny_sd15_unet().config) | {"in_channels": 9}).save_pretrained(
        base / "unet"
    )
    manager = served(models)
    pipeline = manager.with_model("sd15 on paints")
    shown = picture(2)
    asked = replace(ASKED, inpaint=ip.Inpaint(image=shown, mask=box_mask((16, 16, 48, 48))))
    assert len(pipeline.generate(asked).images) == 1


def test_a_path_is_no_name(models: Path) -> None:
    """Nothing that a visitor sends leads out of the two folders."""
    lora(models, "style")
    shutil.copy(models / "loras" / "style.safetensors", models / "secret.safetensors")
    pipeline = load("sd15", models_dir=models, device="cpu", dtype="float32")
    for name in ("../secret", str(models / "secret"), "style.safetensors", "."):
        with pytest.raises(ip.RequestError, match="lora must be one of"):
            pipeline.generate(replace(ASKED, loras=(Lora(name=name),)))
    manager = served(models)
    for name in ("sd15 on ../secret", f"sd15 on {models}", "sd15 on "):
        with pytest.raises(ip.RequestError, match="model must be one of sd15"):
            manager.with_model(name)
