"""Parts of one's own by flag: they draw as the same weights do in a folder, and wrong ones are
named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file

from benchmarks.full_size import SD15_UNET, SDXL_UNET
from ipadapter_demo import cli
from ipadapter_demo.adapter import ImageAdapter, LinearProjection, save_image_adapter
from ipadapter_demo.errors import CheckpointError, ModelError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models import single_file
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.own_networks import controlnet_of, t2i_adapter_of
from ipadapter_demo.models.published import PUBLISHED, SD15_STRUCTURES
from ipadapter_demo.models.weights import tensors_from_file
from ipadapter_demo.pipeline import ImagePromptPipeline, load, prepare
from ipadapter_demo.record import request_from_png
from ipadapter_demo.request import GenerateRequest, Reference, Structure
from ipadapter_demo.settings import (
    Settings,
    load_options,
    settings_from_args,
    settings_parser,
    without_additions,
)
from tests.ldm_layout import (
    controlnet_tensors,
    t2i_adapter_tensors,
    unet_tensors,
    vae_tensors,
    write_checkpoint,
)
from tests.published import tiny_kl, tiny_sd15_unet
from tests.shelf import offline, shelf
from tests.tiny import (
    CROSS_DIM,
    picture,
    randomise,
    seeded,
    tiny_controlnet,
    tiny_tabletop_unet,
    tiny_text_encoder,
    tiny_unet,
    tiny_vision_encoder,
)

__all__ = ["offline", "shelf"]  # fixtures
ON_THE_SHELF = ("sd15",)

ROOT = Path(__file__).parent.parent
REQUEST = GenerateRequest(
    prompt="a cube", references=(Reference(image=picture(1)),), steps=2, guidance=3.0
)
WITH_MAP = replace(REQUEST, structures=(Structure(kind="edges", image=picture(5, 128, 128)),))


def sd15(shelf: Path, **options: Any) -> ImagePromptPipeline:
    return load("sd15", device="cpu", dtype="float32", models_dir=shelf, **options)


def drawn(pipeline: ImagePromptPipeline, request: GenerateRequest = REQUEST) -> np.ndarray:
    return np.asarray(pipeline.generate(request).images[0], dtype=int)


def controlnet() -> ControlNetModel:
    return tiny_controlnet(tiny_sd15_unet(), factor=8)


def t2i_adapter(unet: Any, kind: str, channels: int, cells: int = 8) -> T2IAdapter:
    widths = list(unet.config.block_out_channels)
    with seeded(6):
        net = T2IAdapter(
            in_channels=channels,
            channels=widths[: 3 if kind == "light" else 4],
            num_res_blocks=4 if kind == "light" else 2,
            downscale_factor=cells,
            adapter_type=f"{kind}_adapter",
        )
        randomise(net)
    return net.eval()


def write_layout(net: Any, layout: str, folder: Path) -> Path:
    """A network's place in each of the layouts that people have."""
    if layout == "folder":
        net.save_pretrained(folder / "net")
        return folder / "net"
    old = controlnet_tensors if isinstance(net, ControlNetModel) else t2i_adapter_tensors
    tensors = net.state_dict() if layout == "diffusers.safetensors" else old(net)
    if layout == "control_model.pth":
        tensors = {
            "state_dict": {f"control_model.{k}": t for k, t in tensors.items()},
            "global_step": 7,
        }
    path = folder / f"net{Path(layout).suffix}"
    if path.suffix == ".safetensors":
        save_file({k: t.contiguous() for k, t in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def by_controlnet(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    place = write_layout(controlnet(), "folder", tmp_path_factory.mktemp("folder"))
    return drawn(sd15(shelf, controlnets=(("edges", place),)), WITH_MAP)


@pytest.mark.parametrize(
    "layout", ["diffusers.safetensors", "control_model.pth", "first.safetensors"]
)
def test_a_controlnet_from_any_layout(
    shelf: Path, tmp_path: Path, layout: str, by_controlnet: np.ndarray
) -> None:
    pipeline = sd15(shelf, controlnets=(("edges", write_layout(controlnet(), layout, tmp_path)),))
    found = drawn(pipeline, WITH_MAP)
    assert np.array_equal(found, by_controlnet)
    assert np.abs(found - drawn(pipeline)).max() > 0
    assert any("net" in file for file in pipeline.provenance["weights"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["full", "light"])
@pytest.mark.parametrize("layout", ["diffusers.safetensors", "first.pth"])
def test_a_t2i_adapter_from_any_layout(
    tmp_path: Path, layout: str, kind: str, channels: int
) -> None:
    unet = tiny_sd15_unet()
    net = t2i_adapter(unet, kind, channels)
    tensors = tensors_from_file(write_layout(net, layout, tmp_path))
    found = t2i_adapter_of(tensors, unet, 8, torch.float32, "net")
    assert {k: found.config[k] for k in ("in_channels", "adapter_type", "num_res_blocks")} == {
        k: net.config[k] for k in ("in_channels", "adapter_type", "num_res_blocks")
    }
    pixels = torch.rand(1, channels, 128, 128)
    for ours, theirs in zip(found(pixels), net(pixels), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("widths", [[8, 16, 24], [8, 16, 24, 24]], ids=["blocks", "and middle"])
def test_a_t2i_adapter_of_the_sdxl_kind(tmp_path: Path, widths: list[int]) -> None:
    """Its UNet halves the grid before features are added, so a cell is twice as wide."""
    unet = tiny_tabletop_unet()
    with seeded(6):
        net = T2IAdapter(
            in_channels=3,
            channels=widths,
            num_res_blocks=2,
            downscale_factor=16,
            adapter_type="full_adapter_xl",
        ).eval()
    tensors = tensors_from_file(write_layout(net, "first.pth", tmp_path))
    found = t2i_adapter_of(tensors, unet, 8, torch.float32, "net")
    pixels = torch.rand(1, 3, 128, 128)
    for ours, theirs in zip(found(pixels), net(pixels), strict=True):
        assert torch.equal(ours, theirs)


def test_a_shuffle_network_says_so_in_its_name_or_by_its_kind() -> None:
    """Its configuration has global_pool_conditions, which no weight tells."""
    tensors, unet = controlnet_tensors(controlnet()), tiny_sd15_unet()
    pooled = [
        controlnet_of(tensors, unet, torch.float32, *name).config.global_pool_conditions
        for name in (
            ("control_v11e_sd15_shuffle.pth",),
            ("control_v11p_sd15_canny.pth",),
            ("mine.pth", "shuffle"),
            ("unshuffled.pth", "canny"),
            ("Shuffle.pth",),
        )
    ]
    assert pooled == [True, False, True, False, True]


@pytest.mark.parametrize("config", [SD15_UNET, SDXL_UNET], ids=["sd15", "sdxl"])
def test_the_published_sizes(config: dict[str, Any], tmp_path: Path) -> None:
    """Every weight of the full networks finds its place; shapes alone, no memory."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        net = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    unet.save_config(tmp_path / "unet")
    tensors = {f"model.diffusion_model.{k}": t for k, t in unet_tensors(unet).items()}
    found = single_file.unet_of(tensors, tmp_path, torch.float16, "base")
    assert shapes(found) == shapes(unet)
    assert shapes(controlnet_of(controlnet_tensors(net), unet, torch.float16, "net")) == shapes(net)
    if config is SD15_UNET:
        for kind, channels in (("full", 1), ("full", 3), ("light", 3)):
            with torch.device("meta"):
                adapter = T2IAdapter(
                    in_channels=channels,
                    adapter_type=f"{kind}_adapter",
                    channels=[320, 640, 1280, 1280][: 3 if kind == "light" else 4],
                    num_res_blocks=4 if kind == "light" else 2,
                    downscale_factor=8,
                )
            made = t2i_adapter_of(t2i_adapter_tensors(adapter), unet, 8, torch.float16, "net")
            assert (shapes(made), dict(made.config)) == (shapes(adapter), dict(adapter.config))


def shapes(network: torch.nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in network.state_dict().items()}


def test_a_t2i_adapter_s_file_draws_as_its_folder(shelf: Path, tmp_path: Path) -> None:
    net = t2i_adapter(tiny_sd15_unet(), "full", 3)
    folder, file = (write_layout(net, layout, tmp_path) for layout in ("folder", "first.pth"))
    ours = drawn(sd15(shelf, t2i_adapters=(("edges", file),)), WITH_MAP)
    assert np.array_equal(ours, drawn(sd15(shelf, t2i_adapters=(("edges", folder),)), WITH_MAP))


def test_the_name_says_which_detectors_are_offered(shelf: Path, tmp_path: Path) -> None:
    place = write_layout(controlnet(), "folder", tmp_path)
    kinds = sd15(
        shelf, controlnets=(("depth", place), ("new", place), ("lineart-fine", place))
    ).info.structures
    assert kinds["depth"] == SD15_STRUCTURES["depth"].annotators
    assert kinds["lineart-fine"] == ("lineart-fine", "none")
    assert kinds["new"][0] == "none"
    assert {"canny", "palette", "depth"} <= set(kinds["new"])
    assert set(SD15_STRUCTURES) < set(kinds)  # the model's own stay


class TestWrongNetworks:
    def test_nothing_there(self, shelf: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=rf"controlnet edges: no file or folder {tmp_path}/no"):
            sd15(shelf, controlnets=(("edges", tmp_path / "no"),))

    def test_one_name_twice(self, shelf: Path, tmp_path: Path) -> None:
        place = write_layout(controlnet(), "folder", tmp_path)
        with pytest.raises(ModelError, match="t2i_adapter edges: a ControlNet has this name"):
            sd15(shelf, controlnets=(("edges", place),), t2i_adapters=(("edges", place),))

    def test_the_other_network(self, shelf: Path, tmp_path: Path) -> None:
        folder = write_layout(controlnet(), "folder", tmp_path)
        with pytest.raises(ModelError, match="holds a ControlNetModel, where a T2IAdapter is need"):
            sd15(shelf, t2i_adapters=(("edges", folder),))
        file = write_layout(controlnet(), "diffusers.safetensors", tmp_path)
        with pytest.raises(ModelError, match=r"net\.safetensors is no T2I-Adapter: it holds \['co"):
            sd15(shelf, t2i_adapters=(("edges", file),))
        small = tmp_path / "small.safetensors"
        save_file({"lora_controlnet": torch.zeros(1), "a.up": torch.zeros(1)}, small)
        with pytest.raises(
            ModelError, match=r"small\.safetensors is a Control-LoRA, which changes"
        ):
            sd15(shelf, controlnets=(("edges", small),))
        file = write_layout(t2i_adapter(tiny_sd15_unet(), "full", 3), "first.pth", tmp_path)
        with pytest.raises(ModelError, match=r"net\.pth is no ControlNet: it holds \['body"):
            sd15(shelf, controlnets=(("edges", file),))

    def test_of_another_base(self, shelf: Path, tmp_path: Path) -> None:
        place = write_layout(tiny_controlnet(tiny_unet(), factor=8), "folder", tmp_path)
        with pytest.raises(
            ModelError,
            match=r"net does not fit this model: its blocks are \[16, 3"
            r"2\] wide, the model's \[8, 16, 24, 24\]",
        ):
            sd15(shelf, controlnets=(("edges", place),))

    def test_a_t2i_adapter_for_another_grid(self, shelf: Path, tmp_path: Path) -> None:
        """Of the same widths: SDXL's kind, whose cells are twice as wide."""
        net = T2IAdapter(
            channels=[8, 16, 24, 24],
            num_res_blocks=1,
            downscale_factor=16,
            adapter_type="full_adapter_xl",
        )
        net.save_pretrained(tmp_path / "net")
        with pytest.raises(
            ModelError,
            match="net does not fit this model: of 128 pixels it makes "
            "features 8 x 8 x 8, 16 x 8 x 8, 24 x 4 x 4, 24 x 4 x 4, the model has "
            "places for 8 x 16 x 16, 16 x 8 x 8, 24 x 4 x 4, 24 x 2 x 2",
        ):
            sd15(shelf, t2i_adapters=(("edges", tmp_path / "net"),))

    def test_a_weight_is_missing(self, shelf: Path, tmp_path: Path) -> None:
        tensors = controlnet_tensors(controlnet())
        del tensors["zero_convs.3.0.bias"]
        torch.save(tensors, tmp_path / "net.pth")
        with pytest.raises(
            ModelError,
            match=r"net\.pth: the weights of the ControlNet lack "
            r"controlnet_down_blocks\.3\.bias",
        ):
            sd15(shelf, controlnets=(("edges", tmp_path / "net.pth"),))

    def test_a_pickle_with_code_is_not_run(self, shelf: Path, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"state_dict": Evil()}, tmp_path / "net.pth")
        with pytest.raises(ModelError, match=r"net\.pth: holds code or objects that are not"):
            sd15(shelf, controlnets=(("edges", tmp_path / "net.pth"),))
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"{bad", r"config\.json cannot be read: Expecting property name"),
            (b"\xff\xfe", r"config\.json cannot be read: 'utf-8' codec"),
            (b"[1]", r"config\.json must hold an object with names, got a list"),
        ],
    )
    def test_a_damaged_config(self, shelf: Path, tmp_path: Path, content: bytes, said: str) -> None:
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "config.json").write_bytes(content)
        for part in ("controlnets", "t2i_adapters"):
            with pytest.raises(ModelError, match=said):
                sd15(shelf, **{part: (("edges", tmp_path / "net"),)})
        with pytest.raises(ModelError, match=said):
            sd15(shelf, vae=tmp_path / "net")

    @pytest.mark.parametrize(("inner", "kind"), [(torch.ones(2), "Tensor"), ([1], "list")])
    def test_a_state_that_names_no_weights(
        self, shelf: Path, tmp_path: Path, inner: object, kind: str
    ) -> None:
        torch.save({"state_dict": inner}, tmp_path / "net.pt")
        said = rf"net\.pt: its state_dict is a {kind}, not weights by name"
        with pytest.raises(ModelError, match=said):
            sd15(shelf, controlnets=(("edges", tmp_path / "net.pt"),))

    def test_a_union(self, shelf: Path, tmp_path: Path) -> None:
        save_file({"task_embedding": torch.zeros(1)}, tmp_path / "net.safetensors")
        with pytest.raises(ModelError, match="is a ControlNet Union, which only SDXL has"):
            sd15(shelf, controlnets=(("edges", tmp_path / "net.safetensors"),))


# --- the autoencoder ---------------------------------------------------------------------------


def other_vae() -> AutoencoderKL:
    vae = tiny_kl()
    with seeded(77):
        randomise(vae)
    return vae


def write_vae(layout: str, folder: Path) -> Path:
    vae = other_vae()
    if layout == "folder":
        vae.save_pretrained(folder / "vae")
        return folder / "vae"
    path = folder / f"other{Path(layout).suffix}"
    if layout.startswith("diffusers"):
        save_file(vae.state_dict(), path)
    elif layout == "bare.safetensors":
        save_file({k: t.contiguous() for k, t in vae_tensors(vae).items()}, path)
    else:
        torch.save(
            {"state_dict": {f"first_stage_model.{k}": t for k, t in vae_tensors(vae).items()}}, path
        )
    return path


@pytest.mark.parametrize("layout", ["diffusers.safetensors", "bare.safetensors", "whole.ckpt"])
def test_a_vae_from_any_layout(shelf: Path, tmp_path: Path, layout: str) -> None:
    ours = drawn(sd15(shelf, vae=write_vae(layout, tmp_path)))
    assert np.array_equal(ours, drawn(sd15(shelf, vae=write_vae("folder", tmp_path))))
    assert np.abs(ours - drawn(sd15(shelf))).max() > 5


def test_a_checkpoint_without_a_vae_takes_one(shelf: Path, tmp_path: Path) -> None:
    path = tmp_path / "novae.safetensors"
    write_checkpoint(path, tiny_sd15_unet(), None, tiny_text_encoder())
    with pytest.raises(ModelError, match=r"novae\.safetensors holds no VAE: give one with --vae$"):
        sd15(shelf, base=str(path))
    vae = write_vae("folder", tmp_path)
    assert np.array_equal(drawn(sd15(shelf, base=str(path), vae=vae)), drawn(sd15(shelf, vae=vae)))


def test_wrong_vaes_are_named(shelf: Path, tmp_path: Path) -> None:
    config = dict(tiny_kl().config) | {"latent_channels": 16}
    AutoencoderKL.from_config(config).save_pretrained(tmp_path / "flux")
    with pytest.raises(
        ModelError,
        match="the UNet reads 4 channels, where a VAE of 16 gives 16, and 33 with a mask",
    ):
        sd15(shelf, vae=tmp_path / "flux")
    with pytest.raises(ModelError, match=r"config\.json is missing, looked in .*/nowhere/config"):
        sd15(shelf, vae=tmp_path / "nowhere")
    with pytest.raises(
        ModelError,
        match=r"^vae: unet holds a network of kind UNet2DConditionModel; AutoencoderKL or "
        r"AutoencoderTiny is needed$",
    ):
        sd15(shelf, vae=TABLETOP.folder / "unet")
    tensors = vae_tensors(other_vae())
    del tensors["decoder.conv_in.bias"]
    save_file({k: t.contiguous() for k, t in tensors.items()}, tmp_path / "cut.safetensors")
    with pytest.raises(
        ModelError,
        match=r"cut\.safetensors: the weights of 'vae' lack "
        r"decoder\.conv_in\.bias$",
    ):
        sd15(shelf, vae=tmp_path / "cut.safetensors")


# --- bases in one file -------------------------------------------------------------------------


def test_a_checkpoint_for_inpainting(shelf: Path, tmp_path: Path) -> None:
    """Nine channels, which its first convolution tells; drawn as from a folder."""
    unet = tiny_sd15_unet(seed=33)
    nine = type(unet).from_config(dict(unet.config) | {"in_channels": 9}).eval()
    with seeded(34):
        randomise(nine)
    path, folder = tmp_path / "inpainting.safetensors", tmp_path / "folder"
    write_checkpoint(path, nine, tiny_kl(), tiny_text_encoder())
    subprocess.run(["cp", "-r", str(shelf / PUBLISHED["sd15"].base.repo), str(folder)], check=True)
    nine.half().save_pretrained(folder / "unet", variant="fp16")
    ours, theirs = (sd15(shelf, base=str(place)) for place in (path, folder))
    assert np.array_equal(drawn(ours), drawn(theirs))


def test_an_adapter_of_your_own_is_not_called_as_a_published_one_beside_it(
    shelf: Path, tmp_path: Path
) -> None:
    file = tmp_path / "sd15-plus.safetensors"
    unet = tiny_sd15_unet()
    with seeded(9):
        save_image_adapter(ImageAdapter.for_unet(unet, LinearProjection(20, CROSS_DIM)), file)
    with pytest.raises(ModelError, match=r"model_adapter: .* would be called sd15-plus, which"):
        sd15(shelf, model_adapter=file, adapters=("sd15-plus",))


# --- the image encoder -------------------------------------------------------------------------


def test_an_adapter_for_another_encoder(shelf: Path, tmp_path: Path) -> None:
    """As the published ip-adapter_sd15_vit-G: wider embeddings than the usual encoder gives."""
    tiny_vision_encoder(seed=8, projection_dim=28).save_pretrained(tmp_path / "vit-g")
    unet, file = tiny_sd15_unet(), tmp_path / "ip-adapter_sd15_vit-G.safetensors"
    with seeded(9):
        save_image_adapter(ImageAdapter.for_unet(unet, LinearProjection(28, CROSS_DIM)), file)
    with pytest.raises(CheckpointError, match="it reads 28 channels, the encoder gives 20"):
        sd15(shelf, model_adapter=file)
    pipeline = sd15(shelf, model_adapter=file, image_encoder=str(tmp_path / "vit-g"))
    assert pipeline.info.adapters == ("ip-adapter_sd15_vit-G",)
    without = replace(REQUEST, references=())
    assert np.abs(drawn(pipeline) - drawn(pipeline, without)).max() > 0


def test_an_own_encoder_spares_the_usual_one(shelf: Path, tmp_path: Path) -> None:
    """It is neither looked for nor fetched."""
    models = tmp_path / "models"
    for hub in (PUBLISHED["sd15"].base.repo, "h94/IP-Adapter/models/ip-adapter_sd15.safetensors"):
        (models / hub).parent.mkdir(parents=True, exist_ok=True)
        (models / hub).symlink_to(shelf / hub)
    with pytest.raises(ModelError, match=r"missing \(2,528 MB\): models/image_encoder/config"):
        sd15(models)
    tiny_vision_encoder().save_pretrained(tmp_path / "own")
    own = sd15(models, image_encoder=str(tmp_path / "own"))
    assert np.array_equal(drawn(own), drawn(sd15(shelf)))
    for wrong in ("nowhere", "./owner/name"):
        with pytest.raises(ModelError, match=rf"image_encoder must be a folder, .* got '{wrong}'"):
            sd15(models, image_encoder=wrong)
    with pytest.raises(ModelError, match=r"image_encoder must be a folder .* is a file"):
        sd15(models, image_encoder=str(tmp_path / "own" / "config.json"))


# --- flags -------------------------------------------------------------------------------------


FLAGS = ("--image-encoder", "--vae", "--controlnet", "--t2i-adapter", "--lora", "--embedding")


def test_flags_and_variables_reach_the_loader() -> None:
    given = settings_from_args(
        [
            "--vae",
            "v.ckpt",
            "--controlnet",
            "edges=runs/a, with comma",
            "--controlnet",
            "depth=d.pth,pose=p=q.safetensors",
            "--t2i-adapter",
            "sketch=s.pth",
        ],
        {"IPADAPTER_IMAGE_ENCODER": "owner/name/folder", "IPADAPTER_VAE": "other"},
    )
    options = load_options(given)
    assert options.vae == Path("v.ckpt")
    assert options.image_encoder == "owner/name/folder"
    assert options.controlnets == (
        ("edges", Path("runs/a, with comma")),
        ("depth", Path("d.pth")),
        ("pose", Path("p=q.safetensors")),
    )
    assert options.t2i_adapters == (("sketch", Path("s.pth")),)
    by_variable = settings_from_args([], {"IPADAPTER_CONTROLNET": "a=x,b=y"})
    assert load_options(by_variable).controlnets == (("a", Path("x")), ("b", Path("y")))
    assert without_additions(given) == Settings()


@pytest.mark.parametrize("wrong", ["edges", "=place", "a b=place", "a=x,a=y"])
def test_a_bad_name_or_place(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        settings_from_args(["--t2i-adapter", wrong], {})
    assert "t2i_adapter must be NAME=FOLDER or NAME=FILE" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "compare", "evaluate", "sheets"])
def test_every_command_that_loads_a_model_offers_them(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    said = capsys.readouterr().out
    assert all(f"{flag} " in said and f"${_variable(flag)}]" in said for flag in FLAGS)


def _variable(flag: str) -> str:
    return "IPADAPTER_" + flag[2:].upper().replace("-", "_")


def test_the_app_offers_them() -> None:
    said = settings_parser().format_help()
    assert all(f"{flag} " in said and f"${_variable(flag)}" in said for flag in FLAGS)


def test_generate_with_an_own_network(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command's flags and by the app's settings: the same picture."""
    monkeypatch.chdir(tmp_path)
    write_layout(controlnet(), "control_model.pth", tmp_path)
    picture(5, 128, 128).save("map.png")
    model = [
        "--model",
        "sd15",
        "--models-dir",
        str(shelf),
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--controlnet",
        "edges=net.pth",
    ]
    status = cli.main(["generate", "--structure", "edges=map.png", "--steps", "2", *model])
    out, err = capsys.readouterr()
    assert status == 0, err
    line = json.loads(out)
    settings = settings_from_args(model, {})
    pipeline = prepare(settings.model, load_options(settings))()
    request = request_from_png(line["path"])
    assert request.structures[0].annotator == "none"
    assert np.array_equal(drawn(pipeline, request), np.asarray(Image.open(line["path"]), dtype=int))


def test_the_app_itself_takes_them(shelf: Path, tmp_path: Path) -> None:
    """It ends where the network is missing, with its name; so the flag is read."""
    done = subprocess.run(
        [
            sys.executable,
            "app.py",
            "--model",
            "sd15",
            "--models-dir",
            str(shelf),
            "--device",
            "cpu",
            "--controlnet",
            f"edges={tmp_path}/nowhere",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1]
        == f"app.py: controlnet edges: no file or folder {tmp_path}/nowhere"
    )


def test_paths_may_be_text_and_pairs_a_dictionary() -> None:
    given: Any = LoadOptions(
        device=torch.device("cpu"),
        models_dir="m",
        adapters=["sd15-plus"],
        embeddings=["e.pt"],
        loras={"a.safetensors": 1},
        controlnets={"mine": "c"},
        t2i_adapters=[["other", "t"]],
    )
    assert given == LoadOptions(
        device="cpu",
        models_dir=Path("m"),
        adapters=("sd15-plus",),
        embeddings=(Path("e.pt"),),
        loras=((Path("a.safetensors"), 1.0),),
        controlnets=(("mine", Path("c")),),
        t2i_adapters=(("other", Path("t")),),
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"adapters": "sd15-plus"}, "adapters must be a tuple of names, got 'sd15-plus'"),
        ({"embeddings": "e.pt"}, "embeddings must be a tuple of files, got 'e.pt'"),
        ({"embeddings": (3,)}, "embeddings must be a tuple of files"),
        ({"loras": ("a.safetensors",)}, r"loras must be a tuple of \(file, weight\), got"),
        ({"loras": (("a.safetensors", "much"),)}, r"loras must be a tuple of \(file, weight\)"),
        ({"controlnets": (Path("c"),)}, r"controlnets must be a tuple of \(kind, place\), got"),
    ],
)
def test_options_of_another_form_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        LoadOptions(**given)
