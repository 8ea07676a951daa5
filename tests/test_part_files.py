"""Which files in a part's folder are its weights, whatever lies beside them; names of
repositories that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from ipadapter_demo.adapter import image_encoder_named
from ipadapter_demo.errors import CheckpointError, ModelError
from ipadapter_demo.models.listing import listing
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.pipeline import load
from tests.published import tiny_sd15_unet
from tests.shelf import models, offline, shelf

__all__ = ["models", "offline", "shelf"]  # fixtures
ON_THE_SHELF = ("sd15",)

BASE = PUBLISHED["sd15"].base.repo
UNET = "diffusion_pytorch_model"


def model(models: Path, **options: Any) -> Any:
    return load("sd15", device="cpu", dtype="float32", models_dir=models, **options)._model


@pytest.fixture(scope="module")
def unchanged(shelf: Path) -> Any:
    """The model as it is, which no test changes."""
    return model(shelf)


def hashed(loaded: Any, part: str) -> list[str]:
    return sorted(name for name in loaded.hashes if name.startswith(f"{part}/"))


def other_weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return {key: tensor + 1 for key, tensor in load_file(path).items()}


def assert_same_unet(one: Any, other: Any) -> None:
    theirs = other.unet.state_dict()
    for key, tensor in one.unet.state_dict().items():
        assert torch.equal(tensor, theirs[key])


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize(
    "beside", [f"{UNET}.non_ema.safetensors", "openvino_model.bin", f"{UNET}.non_ema.bin"]
)
def test_other_files_beside_the_weights(
    shelf: Path, models: Path, half: bool, beside: str, unchanged: Any
) -> None:
    unet = models / BASE / "unet"
    name = f"{UNET}.fp16.safetensors" if half else f"{UNET}.safetensors"
    weights = other_weights(unet)
    (path,) = unet.glob("*.safetensors")
    path.rename(unet / name)
    save_file(weights, unet / beside, metadata={"format": "pt"})
    found = model(models)
    assert_same_unet(unchanged, found)
    assert hashed(found, "unet") == [f"unet/{name}"]


def test_another_file_beside_the_text_encoder_s(shelf: Path, models: Path) -> None:
    encoder = models / BASE / "text_encoder"
    (encoder / "openvino_model.bin").write_bytes(b"numbers of another runtime")
    assert hashed(model(models), "text_encoder") == ["text_encoder/model.fp16.safetensors"]


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(shelf: Path, models: Path, variant: str | None, unchanged: Any) -> None:
    """Of a UNet and a text encoder, as diffusers and transformers write them."""
    base = models / BASE
    for path in (*base.glob("unet/*.safetensors"), *base.glob("text_encoder/*.safetensors")):
        path.unlink()
    tiny_sd15_unet().half().save_pretrained(base / "unet", variant=variant, max_shard_size="20KB")
    encoder = CLIPTextModel.from_pretrained(
        shelf / BASE / "text_encoder", variant="fp16", torch_dtype=torch.float16
    )
    encoder.save_pretrained(base / "text_encoder", variant=variant, max_shard_size="20KB")
    (row,) = [row for row in listing(models) if row["name"] == "sd15"]
    assert row["present"]
    found = model(models)
    assert_same_unet(unchanged, found)
    for part in ("unet", "text_encoder"):
        there = sorted(
            f"{part}/{p.name}" for p in (base / part).iterdir() if p.name != "config.json"
        )
        assert len(there) > 2
        assert hashed(found, part) == there
    next(base.glob("unet/*00001-of*")).unlink()
    (row,) = [row for row in listing(models) if row["name"] == "sd15"]
    assert not row["present"]
    with pytest.raises(ModelError, match=rf"unet/{UNET}\.fp16\.safetensors of {BASE}"):
        model(models)


# --- names of repositories -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["just a name", "a/b/c", "./nowhere/at/all.safetensors", "a/b?c"])
def test_a_base_that_is_no_repository(shelf: Path, name: str) -> None:
    with pytest.raises(ModelError) as error:
        model(shelf, base=name)
    assert str(error.value) == (
        "base must be a folder in diffusers' layout, a .safetensors file, "
        f"or owner/name on the hub, got {name!r}, which is none of them"
    )


@pytest.mark.parametrize("name", ["a/b?c", "a b/c", "a/b c/folder", "alone", "../a"])
def test_an_image_encoder_that_is_no_repository(shelf: Path, name: str) -> None:
    with pytest.raises(ModelError) as error:
        model(shelf, image_encoder=name)
    assert str(error.value) == (
        "image_encoder must be a folder, or owner/name or owner/name/folder"
        f" on the hub, got {name!r}"
    )


def test_a_note_with_a_byte_order_mark(tmp_path: Path) -> None:
    note = tmp_path / "image_encoder.txt"
    note.write_bytes(b"\xef\xbb\xbfInvokeAI/ip_adapter_sd_image_encoder\r\n")
    assert image_encoder_named(tmp_path) == "InvokeAI/ip_adapter_sd_image_encoder"
    note.write_text("owner/na?me")
    with pytest.raises(CheckpointError, match=r"must name a repository, owner/name, got 'owner/na"):
        image_encoder_named(tmp_path)
