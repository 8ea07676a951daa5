"""Bases, LoRAs and embeddings under the names and in the layouts that people have them in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoHaConfig, LoKrConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ipadapter_demo.errors import ModelError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.local_entry import adapter_file, local_entry
from ipadapter_demo.models.memory import ALIGNMENT, aligned
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.sources import (
    Hub,
    fetched,
    file_at,
    local_folder,
    no_report,
    served_by,
)
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.request import GenerateRequest, Reference, Structure
from tests.ldm_layout import write_checkpoint, write_sdxl_checkpoint
from tests.oracle import assert_same, loaded, pixels_of, request, theirs
from tests.published import tiny_kl, tiny_sd15_unet, write_structure
from tests.shelf import models, offline, shelf
from tests.tiny import (
    CROSS_DIM,
    noise,
    picture,
    seeded,
    tiny_sdxl_text_encoder,
    tiny_sdxl_unet,
    tiny_text_encoder,
)

__all__ = ["models", "offline", "shelf"]  # fixtures
ON_THE_SHELF = ("sdxl", "sd15")

REQUEST = GenerateRequest(
    prompt="a cube", references=(Reference(image=picture(1)),), steps=2, guidance=3.0
)
BASE = PUBLISHED["sd15"].base.repo


def sd15(models: Path, **options: Any) -> ImagePromptPipeline:
    return load("sd15", device="cpu", dtype="float32", models_dir=models, **options)


@pytest.fixture(scope="module")
def unchanged(shelf: Path) -> ImagePromptPipeline:
    """The model as it is, which no test changes."""
    return sd15(shelf)


def drawn(pipeline: ImagePromptPipeline, request: GenerateRequest = REQUEST) -> np.ndarray:
    return np.asarray(pipeline.generate(request).images[0], dtype=int)


# --- names below --models-dir ------------------------------------------------------------------


def as_bin(path: Path, name: str) -> None:
    tensors = load_file(path)
    if path.name.startswith("ip-adapter"):
        nested: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for key, tensor in tensors.items():
            section, _, rest = key.partition(".")
            nested[section][rest] = tensor
        torch.save(nested, path.with_name(name))
    else:
        torch.save(tensors, path.with_name(name))
    path.unlink()


def renamed(models: Path, form: str) -> None:
    """All weights of the shelf, under another of their usual names."""
    for path in sorted(models.rglob("*.safetensors")):
        plain = path.name.replace(".fp16.", ".")
        if form == "plain":
            path.rename(path.with_name(plain))
        elif form == "fp16":
            path.rename(
                path.with_name(
                    plain.replace(".safetensors", ".fp16.safetensors")
                    if "ip-adapter" not in plain
                    else plain
                )
            )
        else:
            half = ".fp16" if form == "fp16 bin" and "ip-adapter" not in plain else ""
            stem = plain.removesuffix(".safetensors")
            stem = "pytorch_model" if stem == "model" else stem
            as_bin(path, f"{stem}{half}.bin")


@pytest.mark.parametrize("form", ["plain", "fp16", "bin", "fp16 bin"])
def test_all_usual_names_are_at_hand_and_draw_the_same(
    shelf: Path, models: Path, form: str
) -> None:
    """Bases, encoders, adapters, and structure networks of both kinds."""
    for kind in ("canny", "palette"):
        structure = PUBLISHED["sd15"].structures[kind]
        assert isinstance(structure.folder, Hub)
        for place in (shelf, models):
            write_structure(place, structure.folder, tiny_sd15_unet(), structure.network)
    net = models / "TencentARC/t2iadapter_color_sd14v1/diffusion_pytorch_model.bin"
    save_file(
        torch.load(net, weights_only=True),
        net.with_suffix(".safetensors"),
        metadata={"format": "pt"},
    )
    net.unlink()
    renamed(models, form)
    structures = tuple(
        Structure(kind=kind, image=picture(5, 128, 128)) for kind in ("canny", "palette")
    )
    asked = replace(REQUEST, structures=structures)
    assert np.array_equal(drawn(sd15(models), asked), drawn(sd15(shelf), asked))
    found = adapter_file(PUBLISHED["sd15"], models, no_report)  # trainings ask for it, too
    assert found.suffix == (".bin" if "bin" in form else ".safetensors")
    assert found.is_file()


def test_the_folder_may_be_given_from_where_one_is(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--models-dir models, as the README has it."""
    monkeypatch.chdir(shelf.parent)
    assert np.array_equal(drawn(sd15(Path(shelf.name))), drawn(sd15(shelf)))


@pytest.mark.parametrize(
    ("wanted", "others"),
    [
        (
            "unet/diffusion_pytorch_model.fp16.safetensors",
            [
                "unet/diffusion_pytorch_model.safetensors",
                "unet/diffusion_pytorch_model.fp16.bin",
                "unet/diffusion_pytorch_model.bin",
            ],
        ),
        (
            "model.safetensors",
            ["model.fp16.safetensors", "pytorch_model.bin", "pytorch_model.fp16.bin"],
        ),
        (
            "diffusion_pytorch_model.bin",
            [
                "diffusion_pytorch_model.safetensors",
                "diffusion_pytorch_model.fp16.safetensors",
                "diffusion_pytorch_model.fp16.bin",
            ],
        ),
        (
            "models/ip-adapter_sd15.safetensors",
            [
                "models/ip-adapter_sd15.fp16.safetensors",
                "models/ip-adapter_sd15.bin",
                "models/ip-adapter_sd15.fp16.bin",
            ],
        ),
        ("config.json", []),
    ],
)
def test_names_that_serve_for_a_wanted_one(wanted: str, others: list[str], tmp_path: Path) -> None:
    assert served_by(wanted) == (wanted, *others)
    for name in reversed(served_by(wanted)):  # each is preferred to those after it
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        assert file_at(tmp_path, wanted) == tmp_path / name


def test_the_error_lists_only_what_is_absent(models: Path) -> None:
    absent = ["text_encoder/model.fp16.safetensors", "vae/config.json"]
    for name in absent:
        (models / BASE / name).unlink()
    with pytest.raises(ModelError) as refused:
        sd15(models)
    assert str(refused.value).startswith(
        f"missing: {', '.join(absent)} of {BASE}; they could not be fetched"
    )
    shutil.rmtree(models / BASE / "tokenizer")
    with pytest.raises(
        ModelError,
        match=r"tokenizer/merges\.txt, tokenizer/tokenizer_config\.json,"
        r" tokenizer/vocab\.json and 1 more of",
    ):
        sd15(models)


def test_the_mirror_with_more_of_it_is_spoken_of(tmp_path: Path) -> None:
    hub = Hub(repo="someone/something", files=("a.json", "b.json"))
    (tmp_path / "someone--something").mkdir()
    (tmp_path / "someone--something" / "a.json").touch()
    assert local_folder(hub, tmp_path) is None
    with pytest.raises(ModelError, match=r"^missing: b\.json of someone/something"):
        fetched(hub, tmp_path)


def test_a_base_without_preprocessing_takes_clips_own(
    shelf: Path, models: Path, tmp_path: Path
) -> None:
    """In the mirror, and as a folder of its own."""
    folder = tmp_path / "own"
    shutil.copytree(models / BASE, folder)
    for place in (models / BASE, folder):
        shutil.rmtree(place / "feature_extractor")
    ours = sd15(models)
    size = ours._model.image_processor.crop_size
    assert (size["height"], size["width"]) == (224, 224)
    assert ours.generate(replace(REQUEST, references=())).images
    assert sd15(shelf, base=str(folder))._model.image_processor.crop_size == size


# --- a weight that is missing is named -----------------------------------------------------------


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("input_blocks.1.1.proj_in.bias", "'unet' lack down_blocks.0.attentions.0.proj_in.bias"),
        ("input_blocks.0.0.bias", "'unet' lack conv_in.bias"),
        ("decoder.mid.attn_1.q.bias", "'vae' lack decoder.mid_block.attentions.0.to_q.bias"),
        ("layers.1.self_attn.q_proj.bias", "'text_encoder' lack encoder.layers.1.self_attn.q_pro"),
    ],
)
def test_a_checkpoint_that_lacks_a_weight(
    shelf: Path, tmp_path: Path, left_out: str, said: str
) -> None:
    path = tmp_path / "cut.safetensors"
    write_checkpoint(path, tiny_sd15_unet(), tiny_kl(), tiny_text_encoder(), without=left_out)
    with pytest.raises(ModelError) as refused:
        sd15(shelf, base=str(path))
    assert str(refused.value).startswith(f"cut.safetensors: the weights of {said}")
    no_advice(refused.value)


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("label_emb.0.0.weight", "'unet' lack label_emb.0.0.weight"),
        ("1.model.text_projection", "'text_encoder_2' lack text_projection.weight"),
        ("resblocks.1.attn.in_proj_bias", "'text_encoder_2' lack text_model.encoder.layers.1.self"),
    ],
)
def test_an_sdxl_checkpoint_that_lacks_a_weight(
    shelf: Path, tmp_path: Path, left_out: str, said: str
) -> None:
    path = tmp_path / "cut.safetensors"
    write_sdxl_checkpoint(path, without=left_out)
    with pytest.raises(ModelError) as refused:
        load("sdxl", device="cpu", models_dir=shelf, base=str(path))
    assert str(refused.value).startswith(f"cut.safetensors: the weights of {said}")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_a_folder_whose_weights_do_not_fit(models: Path, part: str, damage: str) -> None:
    path = next((models / BASE / part).glob("*.safetensors"))
    tensors = load_file(path)
    key = sorted(tensors)[3]
    if damage == "missing":
        del tensors[key]
    else:
        tensors[key] = torch.zeros(3, dtype=torch.float16)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"'{part}'.* {key.replace('.', '[.]')}") as refused:
        sd15(models)
    no_advice(refused.value)


def no_advice(error: ModelError) -> None:
    """Users do not edit Python."""
    for word in ("from_pretrained", "low_cpu_mem_usage", "ignore_mismatched", "meta tensor", "="):
        assert word not in str(error)


@pytest.mark.parametrize("vae", [True, False])
def test_a_checkpoint_without_a_text_encoder(shelf: Path, tmp_path: Path, vae: bool) -> None:
    path = tmp_path / "base.safetensors"
    write_checkpoint(path, tiny_sd15_unet(), tiny_kl() if vae else None, None)
    with pytest.raises(
        ModelError,
        match=r"base\.safetensors cannot be read .*: it holds a UNet "
        r"without a text encoder$",
    ):
        sd15(shelf, base=str(path))


def test_a_checkpoint_of_something_else_is_named(shelf: Path, tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"

    def refused(name: str) -> str:
        with pytest.raises(ModelError) as error:
            load(name, device="cpu", models_dir=shelf, base=str(path))
        return str(error.value)

    write_checkpoint(path, tiny_sd15_unet(), tiny_kl(), tiny_text_encoder())
    assert "it holds a model of SD 1.5's family: take one of SD 1.5's" in refused("sdxl")
    write_sdxl_checkpoint(path)
    assert "it holds an SDXL model: take one of SDXL's models with --model" in refused("sd15")
    save_file({k: t.contiguous() for k, t in tiny_sd15_unet().state_dict().items()}, path)
    assert "it holds a UNet alone, in diffusers' layout" in refused("sd15")
    for key, what in (
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "a Flux model"),
        ("model.diffusion_model.joint_blocks.0.x", "a Stable Diffusion 3 model"),
        ("lora_unet_x.lora_up.weight", "a LoRA"),
        ("cond_stage_model.model.ln_final.bias", "a Stable Diffusion 2 model"),
    ):
        save_file({key: torch.zeros(1)}, path)
        assert refused("sd15").endswith(f"it holds {what}")


@pytest.mark.parametrize("xl", [False, True], ids=["sd15", "sdxl"])
def test_old_names_of_the_text_encoder(shelf: Path, tmp_path: Path, xl: bool) -> None:
    """Files from before transformers put text_model. into them."""
    texts: tuple[Any, ...] = (tiny_text_encoder(),)
    if xl:
        texts = tuple(tiny_sdxl_text_encoder(21 + i, second=bool(i)) for i in range(2))
    name, path = "sdxl" if xl else "sd15", tmp_path / "old.safetensors"
    unet = tiny_sdxl_unet() if xl else tiny_sd15_unet()
    write_checkpoint(path, unet, tiny_kl(), *texts, old=True)  # type: ignore[misc]
    ours = load(name, device="cpu", dtype="float32", models_dir=shelf, base=str(path))
    plain = load(name, device="cpu", dtype="float32", models_dir=shelf)
    assert np.array_equal(drawn(ours), drawn(plain))


def test_old_names_of_a_vae_s_attention(shelf: Path, tmp_path: Path) -> None:
    """Files of diffusers from before 2023, alone or within a checkpoint."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {key: 1.1 * tensor for key, tensor in tiny_kl().state_dict().items()}
    plain, renamed = tmp_path / "plain.safetensors", tmp_path / "renamed.safetensors"
    save_file(tensors, plain)
    for today, before in old.items():
        tensors = {
            key.replace(f"attentions.0.{today}.", f"attentions.0.{before}."): tensor
            for key, tensor in tensors.items()
        }
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in tensors
    save_file(tensors, renamed)
    found = [drawn(sd15(shelf, vae=path)) for path in (plain, renamed)]
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], drawn(sd15(shelf)))


def test_a_folder_with_old_names_of_the_text_encoder(shelf: Path, models: Path) -> None:
    path = next((models / BASE / "text_encoder").glob("*.safetensors"))
    both = [
        {f"{start}{k.removeprefix('text_model.')}": t for k, t in load_file(path).items()}
        for start in ("", "text_model.")
    ]
    for tensors in both:
        save_file(tensors, path, metadata={"format": "pt"})
        assert np.array_equal(drawn(sd15(models)), drawn(sd15(shelf)))


# --- embeddings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "layout"),
    [
        (
            ".pt",
            lambda v: {
                "string_to_token": {"*": 265},
                "string_to_param": {"*": v},
                "name": "other",
                "step": 5,
                "sd_checkpoint": None,
            },
        ),
        (
            ".pt",
            lambda v: {
                "string_to_token": {"*": torch.tensor(265)},
                "string_to_param": nn.ParameterDict({"*": nn.Parameter(v)}),
            },
        ),
        (".bin", lambda v: {"<zorb>": v}),
        (".PT", lambda v: {"<zorb>": v}),
        (".safetensors", lambda v: {"emb_params": v}),
    ],
    ids=["automatic1111", "first code", "diffusers", "capitals", "emb_params"],
)
@pytest.mark.parametrize("vectors", [1, 2])
def test_an_embedding_of_any_layout(
    shelf: Path,
    tmp_path: Path,
    suffix: str,
    vectors: int,
    layout: Callable[[Tensor], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vector, path = noise(5, vectors, CROSS_DIM), tmp_path / f"zorb{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(layout(vector), path)
    entry = local_entry(PUBLISHED["sd15"], LoadOptions(models_dir=shelf))
    oracle = loaded(StableDiffusionPipeline, entry, variant="fp16", dtype=torch.float32)
    oracle.load_textual_inversion(vector, token="zorb")
    expected = theirs(oracle, entry, prompt="a zorb")
    ours = pixels_of(sd15(shelf, embeddings=(path,)), monkeypatch)
    assert_same(ours(request(prompt="a zorb")), expected, 1e-4)
    assert not torch.allclose(ours(request(prompt="a cube")), expected, atol=1e-4)


def test_an_embedding_may_have_capitals_in_its_name(shelf: Path, tmp_path: Path) -> None:
    pictures = {}
    for name in ("zorb", "EasyZorb"):
        path = tmp_path / f"{name}.safetensors"
        save_file({"emb_params": noise(5, 4, CROSS_DIM)}, path)
        pipeline = sd15(shelf, embeddings=(path,))
        for syntax in ("plain", "weighted"):
            asked = replace(REQUEST, prompt=f"a {name}", prompt_syntax=syntax)
            pictures[name, syntax] = drawn(pipeline, asked)
    expected = pictures["zorb", "plain"]
    assert all(np.array_equal(found, expected) for found in pictures.values())
    assert not np.array_equal(drawn(sd15(shelf), replace(REQUEST, prompt="a zorb")), expected)


class TestWrongEmbeddings:
    def refused(self, shelf: Path, path: Path, name: str = "sd15") -> str:
        with pytest.raises(ModelError) as error:
            load(name, device="cpu", dtype="float32", models_dir=shelf, embeddings=(path,))
        assert "{" not in str(error.value)
        return str(error.value)

    def test_code_is_not_run(self, shelf: Path, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"string_to_param": {"*": Evil()}}, tmp_path / "zorb.pt")
        assert "zorb.pt: holds code or objects" in self.refused(shelf, tmp_path / "zorb.pt")
        assert not (tmp_path / "ran").exists()

    def test_of_the_other_family(self, shelf: Path, tmp_path: Path) -> None:
        path = tmp_path / "zorb.safetensors"
        save_file({"clip_l": noise(1, 1, 8), "clip_g": noise(2, 1, 16)}, path)
        assert self.refused(shelf, path) == (
            "zorb.safetensors does not fit this model: it is made "
            "for SDXL's two text encoders, and the model has one"
        )
        save_file({"emb_params": noise(1, 1, CROSS_DIM)}, path)
        assert (
            "it is made for one text encoder, as SD 1.5 has, and the model has 2"
            in self.refused(shelf, path, "sdxl")
        )
        save_file({"clip_l": noise(1, 1, 8), "clip_g": noise(2, 1, 20)}, path)
        assert "its vectors are 20 wide, and the model's text encoder reads 16" in self.refused(
            shelf, path, "sdxl"
        )

    def test_of_another_width(self, shelf: Path, tmp_path: Path) -> None:
        torch.save({"string_to_param": {"*": noise(1, 1, 30)}}, tmp_path / "zorb.pt")
        assert "its vectors are 30 wide, and the model's text encoder reads 24" in self.refused(
            shelf, tmp_path / "zorb.pt"
        )

    def test_something_else(self, shelf: Path, tmp_path: Path) -> None:
        torch.save({"a": noise(1, 2, CROSS_DIM), "b": noise(1, 2, CROSS_DIM)}, tmp_path / "zorb.pt")
        assert "it is no textual inversion: it holds ['a', 'b']" in self.refused(
            shelf, tmp_path / "zorb.pt"
        )

    def test_a_word_that_is_known(self, shelf: Path, tmp_path: Path) -> None:
        torch.save({"x": noise(1, 1, CROSS_DIM)}, tmp_path / "q.bin")
        assert "'q' is a word of the model already: rename the file" in self.refused(
            shelf, tmp_path / "q.bin"
        )

    def test_a_word_that_is_learnt_in_another_case(self, shelf: Path, tmp_path: Path) -> None:
        """Both would be read as the same."""
        paths = tmp_path / "zOrb.bin", tmp_path / "Zorb.pt"
        for path in paths:
            torch.save({"x": noise(1, 1, CROSS_DIM)}, path)
        with pytest.raises(ModelError, match="'Zorb' is a word of the model already"):
            load("sd15", device="cpu", dtype="float32", models_dir=shelf, embeddings=paths)


# --- LoHa, LoKr and what is not read -------------------------------------------------------------


LAYERS = ["attn1.to_q", "attn2.to_v", "ff.net.0.proj", "resnets.0.conv1"]


def lycoris(unet: nn.Module, config: Any) -> tuple[dict[str, Tensor], nn.Module]:
    """A random LoHa or LoKr under the names that trainers write, with alpha at half the rank, and
    the UNet with it merged, by peft."""
    tuned = get_peft_model(unet, config)
    with seeded(12):
        randomise_adapter(tuned)
    tensors = {}
    for key, tensor in tuned.state_dict().items():
        layer, part, name = _parts_of(key)
        if part:
            layer = f"lora_unet_{layer.replace('.', '_')}"
            tensors[f"{layer}.{name}"] = tensor.detach().clone()
            tensors[f"{layer}.alpha"] = torch.tensor(float(config.alpha))
    for layer in {key.partition(".")[0] for key in tensors}:
        if {f"{layer}.lokr_w1", f"{layer}.lokr_w2"} <= set(tensors):  # which have no scale there
            tensors[f"{layer}.lokr_w1"] *= config.alpha / config.r
    return tensors, tuned.merge_and_unload()


def randomise_adapter(tuned: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "hada_" in name or "lokr_" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))


def _parts_of(key: str) -> tuple[str, bool, str]:
    layer, _, rest = key.removeprefix("base_model.model.").partition(".hada_")
    kind = "hada_"
    if not rest:
        layer, _, rest = key.removeprefix("base_model.model.").partition(".lokr_")
        kind = "lokr_"
    return layer, bool(rest), kind + rest.removesuffix(".default")


@pytest.mark.parametrize(
    "config",
    [
        LoHaConfig(r=4, alpha=2, target_modules=LAYERS, init_weights=False),
        LoHaConfig(
            r=4, alpha=2, target_modules=LAYERS, use_effective_conv2d=True, init_weights=False
        ),
        LoKrConfig(r=2, alpha=1, target_modules=LAYERS, init_weights=False),
        LoKrConfig(
            r=2,
            alpha=1,
            target_modules=LAYERS,
            use_effective_conv2d=True,
            decompose_both=True,
            init_weights=False,
        ),
    ],
    ids=["loha", "loha tucker", "lokr", "lokr tucker"],
)
@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_loha_and_lokr_are_what_peft_makes_of_them(
    shelf: Path, unchanged: ImagePromptPipeline, tmp_path: Path, config: Any, weight: float
) -> None:
    plain = {k: t.clone() for k, t in unchanged._model.unet.state_dict().items()}
    fresh = tiny_sd15_unet().half().float()  # as the shelf stores it
    tensors, merged = lycoris(fresh, config)
    save_file({k: t.contiguous() for k, t in tensors.items()}, tmp_path / "style.safetensors")
    ours = sd15(shelf, loras=((tmp_path / "style.safetensors", weight),))._model.unet.state_dict()
    changed = 0
    for key, tensor in merged.state_dict().items():
        expected = plain[key] + weight * (tensor - plain[key])
        torch.testing.assert_close(ours[key], expected, rtol=0, atol=2e-6)
        changed += bool((tensor - plain[key]).abs().max() > 1e-3)
    assert changed == len({key.partition(".")[0] for key in tensors})


def test_loha_beside_lora_and_in_the_text_encoder(shelf: Path, tmp_path: Path) -> None:
    """One file may mix kinds; each layer is changed by its own."""
    layer = "encoder.layers.1.self_attn.q_proj"
    a, b = noise(1, CROSS_DIM, 2), noise(2, 2, CROSS_DIM)
    up, down = noise(3, 8, 2), noise(4, 2, 8)
    attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    changes = squared(f"lora_te_text_model_{layer.replace('.', '_')}", a, b)
    save_file(
        changes
        | {
            f"lora_unet_{attention.replace('.', '_')}.{name}": tensor
            for name, tensor in {
                "lora_up.weight": up,
                "lora_down.weight": down,
                "alpha": torch.tensor(2.0),
            }.items()
        },
        tmp_path / "mixed.safetensors",
    )
    plain, ours = sd15(shelf), sd15(shelf, loras=((tmp_path / "mixed.safetensors", 0.5),))
    (before,), (after,) = plain._model.text.encoders, ours._model.text.encoders
    assert_change(before, after, layer, 0.5 * (a @ b) ** 2)
    assert_change(plain._model.unet, ours._model.unet, attention, 0.5 * up @ down)


def squared(layer: str, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """LoHa with two equal factors and no alpha: the square of their product."""
    return {
        f"{layer}.hada_w{i}_{x}": tensor.clone()
        for i in (1, 2)
        for x, tensor in (("a", a), ("b", b))
    }


def assert_change(before: nn.Module, after: nn.Module, layer: str, expected: Tensor) -> None:
    old, new = before.get_submodule(layer).weight, after.get_submodule(layer).weight
    torch.testing.assert_close(new - old, expected.reshape(old.shape), rtol=0, atol=1e-5)
    changed = after.state_dict()
    others = [(k, t) for k, t in before.state_dict().items() if k != f"{layer}.weight"]
    assert all(torch.equal(t, changed[k]) for k, t in others)


@pytest.mark.parametrize(
    ("theirs", "layer"),
    [  # one block and its sampler fill the first level: its successor's first block is number 3
        (
            "input_blocks_3_1_transformer_blocks_0_attn1_to_q",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        ),
        ("input_blocks_2_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("input_blocks_3_0_emb_layers_1", "down_blocks.1.resnets.0.time_emb_proj"),
        ("middle_block_2_in_layers_2", "mid_block.resnets.1.conv1"),
        ("output_blocks_0_0_skip_connection", "up_blocks.0.resnets.0.conv_shortcut"),
        ("output_blocks_2_0_out_layers_3", "up_blocks.1.resnets.0.conv2"),
        ("label_emb_0_2", "add_embedding.linear_2"),
        ("time_embed_0", "time_embedding.linear_1"),
        ("input_blocks_0_0", "conv_in"),
        ("out_2", "conv_out"),
    ],
)
def test_loha_of_sdxl_under_the_first_code_s_names(
    shelf: Path, tmp_path: Path, theirs: str, layer: str
) -> None:
    weight = tiny_sdxl_unet().get_submodule(layer).weight
    a, b = noise(1, len(weight), 2), noise(2, 2, weight.numel() // len(weight))
    save_file(squared(f"lora_unet_{theirs}", a, b), tmp_path / "xl.safetensors")
    plain, ours = (
        load("sdxl", device="cpu", dtype="float32", models_dir=shelf, loras=loras)
        for loras in ((), ((tmp_path / "xl.safetensors", 1.0),))
    )
    assert_change(plain._model.unet, ours._model.unet, layer, (a @ b) ** 2)


def test_the_first_lora_files_had_bare_processors(shelf: Path, tmp_path: Path) -> None:
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    up, down = noise(3, 8, 2), noise(4, 2, 8)
    save_file(
        {
            f"{layer}.processor.to_q_lora.up.weight": up,
            f"{layer}.processor.to_q_lora.down.weight": down,
        },
        tmp_path / "old.safetensors",
    )
    plain, ours = sd15(shelf), sd15(shelf, loras=((tmp_path / "old.safetensors", 1.0),))
    assert_change(plain._model.unet, ours._model.unet, f"{layer}.to_q", up @ down)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (
            {"lora_unet_x.on_input": torch.zeros(1), "lora_unet_x.weight": torch.ones(4)},
            r"it holds IA3 \(lora_unet_x\), which is not read: LoRA, LoCon, LoHa and LoKr are",
        ),
        ({"lora_unet_x.diff": torch.zeros(4, 4)}, "it holds whole differences of weights"),
        ({"lora_unet_x.oft_blocks": torch.zeros(4, 4)}, "it holds OFT"),
        (
            {
                "lora_unet_x.hada_w1_a": torch.zeros(4, 2),
                "lora_unet_x.hada_w1_b": torch.zeros(2, 4),
                "lora_unet_x.hada_w2_a": torch.zeros(4, 2),
                "lora_unet_x.hada_w2_b": torch.zeros(2, 4),
            },
            "it changes lora_unet_x, which is no layer of this model's",
        ),
        (
            {
                "lora_unet_conv_in.lokr_w1": torch.zeros(2, 2),
                "lora_unet_conv_in.lokr_w2": torch.zeros(2, 2),
            },
            r"its change of lora_unet_conv_in is \(4, 4\), where the model has \(8, 4, 3, 3\)",
        ),
        (
            {"lora_unet_conv_in.hada_w1_a": torch.zeros(4, 2)},
            r"its factors \['hada_w1_a'\] do not fit each other",
        ),
    ],
)
def test_what_is_not_read_is_named(
    shelf: Path, tmp_path: Path, tensors: dict[str, Tensor], said: str
) -> None:
    path = tmp_path / "style.safetensors"
    save_file(tensors, path)
    with pytest.raises(ModelError, match=rf"style\.safetensors does not fit this model: {said}"):
        sd15(shelf, loras=((path, 1.0),))


def test_weights_lie_where_torch_puts_tensors_wherever_a_file_had_them() -> None:
    """MKL rounds by that: equal weights of two files gave other bits."""
    layer = nn.Linear(8, 4)
    before = layer.weight.detach().clone()
    elsewhere = torch.zeros(33)[1:].view(4, 8)
    layer.weight.data = elsewhere.copy_(before)
    assert layer.weight.data_ptr() % ALIGNMENT
    assert aligned(layer) is layer
    assert layer.weight.data_ptr() % ALIGNMENT == 0
    assert torch.equal(layer.weight, before)
