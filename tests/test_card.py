"""The commands in the model card of what was trained are taken as they stand, and show it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from ipadapter_demo import cli
from ipadapter_demo.pipeline import prepare
from ipadapter_demo.record import request_from_png
from ipadapter_demo.request import GenerateRequest, Reference, Structure
from ipadapter_demo.settings import load_options, settings_from_args
from ipadapter_demo.training.base_models import model_options
from ipadapter_demo.training.config import FewStepConfig, ImageAdapterConfig, StructureConfig
from ipadapter_demo.training.config_reading import config_from
from ipadapter_demo.training.few_step import train_few_step
from ipadapter_demo.training.image_adapter import train_image_adapter
from ipadapter_demo.training.structure import train_structure
from tests.published import write_published
from tests.test_shards import write_tar
from tests.tiny import picture, write_tiny_model, write_tiny_sdxl


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_tar(folder / "0.tar", 0, 6)
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def values(tars: Path, **given: Any) -> dict[str, Any]:
    """The paths are relative to where the training is started."""
    return {
        "data": f"{tars}/0.tar",
        "run": "runs/a/run",
        "out": "runs/a/my result",
        "size": 64,
        "batch": 2,
        "steps": 1,
        "lr": 1e-2,
        "precision": "no",
        "device": "cpu",
        "workers": 0,
        "preview_every": 0,
    } | given


def commands(card: str) -> list[list[str]]:
    return [shlex.split(line) for line in card.splitlines() if line.startswith("    python ")]


def shown(card: str, request: GenerateRequest, capsys: pytest.CaptureFixture[str]) -> None:
    """Both commands load, and draw the same with what was trained."""
    app, generate = commands(card)
    assert app[:2] == ["python", "app.py"]
    settings = settings_from_args([*app[2:], "--device", "cpu", "--dtype", "float32"], {})
    result = prepare(settings.model, load_options(settings))().generate(request)
    assert generate[:3] == ["python", "-m", "ipadapter_demo"]
    picture(1).save("R.png")
    words = [word.replace("PICTURE", "R.png") for word in generate[3:]]
    capsys.readouterr()
    status = cli.main(
        [
            *words,
            "--steps",
            str(request.steps),
            "--device",
            "cpu",
            "--dtype",
            "float32",
            "--width",
            "64",
            "--height",
            "64",
        ]
    )
    out, err = capsys.readouterr()
    assert status == 0, err
    drawn = request_from_png(json.loads(out)["path"])
    assert (drawn.references, drawn.structures) == (request.references, request.structures)
    assert any("my result" in file for file in result.provenance["weights"])


@pytest.mark.parametrize("variant", ["base", "plus"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_of_an_image_adapter_for_a_base_in_a_folder(
    tars: Path,
    tmp_path: Path,
    variant: str,
    family: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing but the base and its encoder is at hand."""
    monkeypatch.chdir(tmp_path)
    (write_tiny_sdxl if family == "sdxl" else write_tiny_model)(Path("my base"))
    config = config_from(ImageAdapterConfig, values(tars, base="my base", variant=variant))
    train_image_adapter(config)
    card = Path("runs/a/my result/README.md").read_text()
    assert commands(card)[0][2:4] == ["--model", family]
    shown(
        card,
        GenerateRequest(references=(Reference(image=picture(1)),), steps=1, width=64, height=64),
        capsys,
    )


@pytest.mark.parametrize(
    ("network", "annotator"), [("controlnet", "canny"), ("t2i-adapter", "palette")]
)
def test_of_a_structure_network_for_a_base_of_the_catalogue(
    tars: Path,
    tmp_path: Path,
    network: str,
    annotator: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_published(Path("models"), "sd15")
    train_structure(
        config_from(
            StructureConfig,
            values(tars, base="sd15", models_dir="models", network=network, annotator=annotator),
        )
    )
    card = Path("runs/a/my result/README.md").read_text()
    assert commands(card)[0] == [
        "python",
        "app.py",
        "--model",
        "sd15",
        "--models-dir",
        "models",
        f"--{network}",
        f"{annotator}=runs/a/my result",
    ]
    structure = Structure(kind=annotator, annotator=annotator, image=picture(1))
    shown(card, GenerateRequest(structures=(structure,), steps=1, width=64, height=64), capsys)


def test_flags_of_other_bases(tars: Path) -> None:
    """An encoder that was named is named again; the built-in model has its own."""

    class Loaded:
        def __init__(self, encoders: int) -> None:
            self.text = self
            self.encoders = (torch.nn.Identity(),) * encoders

    def flags(encoders: int, **given: Any) -> list[str]:
        kind = ImageAdapterConfig if "network" not in given else StructureConfig
        return model_options(config_from(kind, values(tars, **given)), Loaded(encoders))

    assert flags(1, base="tabletop") == ["--model", "tabletop"]
    assert flags(1, base="sd15") == ["--model", "sd15"]
    assert flags(1, base="some/repo", image_encoder="other/vit") == [
        "--model",
        "sd15",
        "--base",
        "some/repo",
        "--image-encoder",
        "other/vit",
    ]
    assert flags(2, base="x.safetensors", network="controlnet")[:4] == [
        "--model",
        "sdxl",
        "--base",
        "x.safetensors",
    ]


def test_of_a_lora_of_few_steps(
    tars: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_model(Path("my base"))
    train_few_step(config_from(FewStepConfig, values(tars, base="my base", rank=2)))
    card = Path("runs/a/my result/README.md").read_text()
    assert "# LCM LoRA for my base" in card
    for command in commands(card):
        assert "runs/a/my result/pytorch_lora_weights.safetensors" in command
