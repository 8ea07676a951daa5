"""LoRAs as trainers write them: every layer of a file is merged as its formula says, or named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from peft import (
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from safetensors.torch import save_file
from torch import Tensor

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.first_code import first_code_names
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.settings import embeddings, loras
from tests.published import tiny_sd15_unet, tiny_sdxl_unet
from tests.shelf import offline, shelf
from tests.test_model_files import assert_change
from tests.tiny import CROSS_DIM, noise, seeded

__all__ = ["offline", "shelf"]  # fixtures
ON_THE_SHELF = ("sdxl", "sd15")

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
LAYERS = ["attn1.to_q", "attn2.to_v", "ff.net.0.proj", "resnets.0.conv1"]


def model(shelf: Path, lora: Path | None = None, weight: float = 1.0, name: str = "sd15") -> Any:
    loras = () if lora is None else ((lora, weight),)
    pipeline: ImagePromptPipeline = load(
        name, device="cpu", dtype="float32", models_dir=shelf, loras=loras
    )
    return pipeline._model


@pytest.fixture(scope="module")
def unchanged(shelf: Path) -> Any:
    """The model as it is, which no test changes."""
    return model(shelf)


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def plain_lora(layer: str, width: int = 8, seed: int = 3) -> dict[str, Tensor]:
    """Of rank 2, in the names of kohya's trainer, alpha half the rank."""
    return {
        f"{layer}.lora_up.weight": noise(seed, width, 2),
        f"{layer}.lora_down.weight": noise(seed + 1, 2, width),
        f"{layer}.alpha": torch.tensor(1.0),
    }


def dora(by: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A random DoRA in names of kohya's or peft's, and the UNet's weights when peft merges it."""
    unet = tiny_sd15_unet().half().float()  # as the shelf stores it
    tuned = get_peft_model(
        unet,
        LoraConfig(
            r=4, lora_alpha=2, use_dora=True, target_modules=LAYERS, init_lora_weights=False
        ),
    )
    tensors = {}
    with torch.no_grad(), seeded(12):
        for key, parameter in tuned.named_parameters():
            layer, _, rest = key.removeprefix("base_model.model.").partition(".lora_")
            if not rest:
                continue
            magnitudes = rest.startswith("magnitude")
            parameter.copy_(
                parameter * (0.5 + torch.rand_like(parameter))
                if magnitudes
                else 0.3 * torch.randn_like(parameter)
            )
            kind = {"A": "lora_down.weight", "B": "lora_up.weight"}.get(rest[0], "dora_scale")
            value = parameter.detach().clone()
            if by == "peft":
                tensors[f"unet.{layer}.lora_{rest.replace('.default', '')}"] = value
                tensors[f"unet.{layer}.alpha"] = torch.tensor(2.0)
                continue
            if magnitudes:  # (out, 1) or (out, 1, 1, 1), as LyCORIS writes it
                value = value.reshape(-1, *[1] * max(1, value.ndim - 1))
            layer = f"lora_unet_{layer.replace('.', '_')}"
            tensors[f"{layer}.{kind}"] = value
            tensors[f"{layer}.alpha"] = torch.tensor(2.0)
    return tensors, tuned.merge_and_unload().state_dict()


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("by", ["kohya", "peft"])
def test_dora_is_what_peft_makes_of_it(
    shelf: Path, tmp_path: Path, weight: float, by: str, unchanged: Any
) -> None:
    plain = {k: t.clone() for k, t in unchanged.unet.state_dict().items()}
    tensors, merged = dora(by)
    ours = model(shelf, written(tmp_path / "dora.safetensors", tensors), weight).unet.state_dict()
    changed = 0
    for key, tensor in merged.items():
        expected = plain[key] + weight * (tensor - plain[key])
        torch.testing.assert_close(ours[key], expected, rtol=0, atol=1e-5)
        changed += bool((tensor - plain[key]).abs().max() > 1e-3)
    assert changed == sum("dora_scale" in key or "magnitude" in key for key in tensors) > 3


def test_dora_with_magnitudes_of_inputs(shelf: Path, tmp_path: Path, unchanged: Any) -> None:
    layer = f"lora_unet_{ATTENTION.replace('.', '_')}"
    tensors = plain_lora(layer) | {f"{layer}.dora_scale": noise(5, 1, 8).abs() + 0.5}
    before = unchanged.unet.get_submodule(ATTENTION).weight
    after = model(shelf, written(tmp_path / "dora.safetensors", tensors))
    changed = (
        before + 0.5 * tensors[f"{layer}.lora_up.weight"] @ tensors[f"{layer}.lora_down.weight"]
    )
    expected = tensors[f"{layer}.dora_scale"] * changed / changed.square().sum(0).sqrt()
    torch.testing.assert_close(
        after.unet.get_submodule(ATTENTION).weight, expected, rtol=0, atol=1e-5
    )


def test_dora_of_another_size_is_named(shelf: Path, tmp_path: Path) -> None:
    layer = f"lora_unet_{ATTENTION.replace('.', '_')}"
    tensors = plain_lora(layer) | {f"{layer}.dora_scale": torch.ones(5, 1)}
    with pytest.raises(ModelError, match=rf"its DoRA magnitudes of {layer} are \(5, 1\), where"):
        model(shelf, written(tmp_path / "dora.safetensors", tensors))


def test_a_convolution_with_a_core(shelf: Path, tmp_path: Path, unchanged: Any) -> None:
    layer = "down_blocks.0.resnets.0.conv1"
    up, mid, down = noise(1, 8, 2, 1, 1), noise(2, 2, 2, 3, 3), noise(3, 2, 8, 1, 1)
    name = f"lora_unet_{layer.replace('.', '_')}"
    path = written(
        tmp_path / "locon.safetensors",
        {
            f"{name}.lora_up.weight": up,
            f"{name}.lora_mid.weight": mid,
            f"{name}.lora_down.weight": down,
        },
    )
    expected = torch.stack(
        [
            sum(
                (up[o, i, 0, 0] * mid[i, j] * down[j, c, 0, 0] for i in range(2) for j in range(2)),
                start=torch.zeros(3, 3),
            )
            for o in range(8)
            for c in range(8)
        ]
    ).reshape(8, 8, 3, 3)
    assert_change(unchanged.unet, model(shelf, path).unet, layer, expected)


@pytest.mark.parametrize("prefix", ["lora_te", "lora_te1"])
@pytest.mark.parametrize("layer", ["q_proj", "v_proj"])
def test_a_text_encoder_s_projection_alone(
    shelf: Path, tmp_path: Path, layer: str, prefix: str, unchanged: Any
) -> None:
    place = f"encoder.layers.1.self_attn.{layer}"
    name = f"{prefix}_text_model_{place.replace('.', '_')}"
    tensors = plain_lora(name, CROSS_DIM)
    (before,) = unchanged.text.encoders
    (after,) = model(shelf, written(tmp_path / "words.safetensors", tensors)).text.encoders
    up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
    assert_change(before, after, place, 0.5 * up @ down)


OF_THE_TEXT = "encoder.layers.1.self_attn.q_proj"
# as every trainer and every time of diffusers has called a layer's tensors: of the UNet, and of the
# text encoder
LAYOUTS = {
    "kohya": (
        f"lora_unet_{ATTENTION.replace('.', '_')}.lora_{{}}.weight",
        f"lora_te_text_model_{OF_THE_TEXT.replace('.', '_')}.lora_{{}}.weight",
    ),
    "LyCORIS' own": (
        f"lycoris_{ATTENTION.replace('.', '_')}.lora_{{}}.weight",
        f"lora_te_text_model_{OF_THE_TEXT.replace('.', '_')}.lora_{{}}.weight",
    ),
    "the first code's": (
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_{}.weight",
        f"text_encoder.text_model.{OF_THE_TEXT}.lora_{{}}.weight",
    ),
    "peft": (
        f"unet.{ATTENTION}.lora_{{}}.weight",
        f"text_encoder.text_model.{OF_THE_TEXT}.lora_{{}}.weight",
    ),
    "peft, named": (
        f"unet.{ATTENTION}.lora_{{}}.default_0.weight",
        f"text_encoder.{OF_THE_TEXT}.lora_{{}}.default.weight",
    ),
    "diffusers": (
        f"unet.{ATTENTION}.lora.{{}}.weight",
        f"text_encoder.text_model.{OF_THE_TEXT}.lora_linear_layer.{{}}.weight",
    ),
    "diffusers' first": (
        f"{ATTENTION.replace('.to_q', '.processor.to_q_lora')}.{{}}.weight",
        f"text_encoder.text_model.{OF_THE_TEXT.replace('q_proj', 'to_q_lora')}.{{}}.weight",
    ),
}


@pytest.mark.parametrize(
    ("layout", "alpha"),
    [(layout, None) for layout in LAYOUTS]
    + [(layout, 1.0) for layout in LAYOUTS if layout != "diffusers' first"],  # which had none
)
def test_every_name_of_a_layer_is_read(
    shelf: Path, tmp_path: Path, layout: str, alpha: float | None, unchanged: Any
) -> None:
    tensors: dict[str, Tensor] = {}
    changes = []
    for key, width in zip(LAYOUTS[layout], (8, CROSS_DIM), strict=True):
        up, down = noise(3, width, 2), noise(4, 2, width)
        ends = ("A", "B") if "peft" in layout else ("down", "up")
        tensors |= dict(zip(map(key.format, ends), (down, up), strict=True))
        if alpha is not None:
            tensors[re.split(r"\.(processor|lora)|to_q_lora", key)[0].rstrip(".") + ".alpha"] = (
                torch.tensor(alpha)
            )
        changes.append(up @ down if alpha is None else up @ down * alpha / 2)
    before = unchanged
    after = model(shelf, written(tmp_path / "some.safetensors", tensors))
    assert_change(before.unet, after.unet, ATTENTION, changes[0])
    assert_change(before.text.encoders[0], after.text.encoders[0], OF_THE_TEXT, changes[1])


LORA = LoraConfig(
    r=4,
    lora_alpha=3,
    target_modules=LAYERS,
    init_lora_weights=False,
    use_rslora=True,
    rank_pattern={"attn2.to_v": 2},
    alpha_pattern={"attn2.to_v": 5, "to_v": 9, "down.*conv1": 7},  # the first that fits counts
)
LOHA = LoHaConfig(r=2, alpha=6, target_modules=["to_k"], init_weights=False)
LOKR = LoKrConfig(r=2, alpha=6, target_modules=["to_k", "ff.net.2"], init_weights=False)


@pytest.mark.parametrize("network", ["unet", ""])
@pytest.mark.parametrize("config", [LORA, LOHA, LOKR], ids=lambda each: str(each.peft_type.value))
def test_the_strength_in_diffusers_header(
    shelf: Path, tmp_path: Path, config: PeftConfig, network: str, unchanged: Any
) -> None:
    """As `save_lora_weights` of a pipeline writes it, and `save_lora_adapter` of a network."""
    plain = {k: t.clone() for k, t in unchanged.unet.state_dict().items()}
    with seeded(13):
        tuned = get_peft_model(tiny_sd15_unet().half().float(), config)
    names = get_peft_model_state_dict(tuned)
    prefix = f"{network}." if network else ""
    tensors = {f"{prefix}{k.removeprefix('base_model.model.')}": t for k, t in names.items()}
    header = {f"{prefix}{name}": value for name, value in config.to_dict().items()}
    path = tmp_path / "adapter.safetensors"
    said = json.dumps(header, default=list)
    save_file(tensors, path, metadata={"format": "pt", "lora_adapter_metadata": said})
    merged = tuned.merge_and_unload().state_dict()
    ours = model(shelf, path).unet.state_dict()
    assert sum(bool((merged[key] - plain[key]).abs().max() > 1e-3) for key in merged) > 3
    for key, tensor in merged.items():
        torch.testing.assert_close(ours[key], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("said", ["{", "[1]", "3"])
def test_a_broken_header_is_said(shelf: Path, tmp_path: Path, said: str) -> None:
    path = tmp_path / "broken.safetensors"
    save_file(plain_lora(GOOD), path, metadata={"lora_adapter_metadata": said})
    with pytest.raises(ModelError, match="header has lora_adapter_metadata that are no JSON obj"):
        model(shelf, path)


@pytest.mark.parametrize("tiny", [tiny_sd15_unet, tiny_sdxl_unet])
def test_the_first_code_s_names_are_what_diffusers_takes_them_for(tiny: Any) -> None:
    unet = tiny()
    theirs, names = {}, first_code_names(unet)
    for key in unet.state_dict():
        layer, _, kind = key.rpartition(".")
        theirs[f"model.diffusion_model.{names[layer]}.{kind}"] = key
    assert len(theirs) == len(unet.state_dict())
    assert "model.diffusion_model.middle_block.1.transformer_blocks.0.norm1.bias" in theirs
    found = convert_ldm_unet_checkpoint(theirs, unet.config)
    assert found == {key: key for key in found}
    assert found.keys() == unet.state_dict().keys()


def test_what_is_no_part_of_a_lora_is_named(shelf: Path, tmp_path: Path) -> None:
    lora = plain_lora(GOOD)
    for more, said in (
        ({"unet.conv_in.scale": noise(1, 2)}, "holds unet.conv_in.scale, which is no part"),
        ({f"unet.{ATTENTION}.lora_B.bias": noise(1, 8)}, "holds changes of biases"),
        ({f"unet.{ATTENTION}.alpha": noise(1, 1)}, "to_q.alpha, which is no part of a LoRA"),
        ({"unet.conv_in.lora_A.weight": noise(1, 2, 8)}, "do not fit each other: 'lora_up"),
        (peft_lora(f"unet.{ATTENTION}"), f"it changes {GOOD} twice, also as unet.{ATTENTION}"),
        (
            peft_lora("model.diffusion_model.middle_block.7"),
            "it changes model.diffusion_model.middle_block.7, which is no layer",
        ),
    ):
        with pytest.raises(ModelError, match=said):
            model(shelf, written(tmp_path / "other.safetensors", lora | more))


GOOD = f"lora_unet_{ATTENTION.replace('.', '_')}"
ALIEN = {
    "kohya, one": (
        plain_lora(GOOD) | plain_lora("lora_unet_down_blocks_7_conv"),
        "it changes lora_unet_down_blocks_7_conv, which is no layer of this model's",
    ),
    "kohya, SDXL's second encoder": (
        plain_lora(GOOD)
        | plain_lora("lora_te2_text_model_encoder_layers_0_mlp_fc1")
        | plain_lora("lora_te2_text_model_encoder_layers_0_mlp_fc2"),
        "it changes lora_te2_text_model_encoder_layers_0_mlp_fc1, lora_te2_text_model_encoder_"
        "layers_0_mlp_fc2, which are no layers of this model's",
    ),
}


def peft_lora(*layers: str) -> dict[str, Tensor]:
    return {
        f"{layer}.lora_{kind}.weight": tensor.clone()
        for layer in layers
        for kind, tensor in (("A", noise(1, 2, 8)), ("B", noise(2, 8, 2)))
    }


ALIEN |= {
    "peft's own": (peft_lora(f"base_model.model.{ATTENTION}"), "it is as peft saves it"),
    "peft, one": (
        peft_lora(f"unet.{ATTENTION}", "unet.down_blocks.7.conv"),
        "it changes unet.down_blocks.7.conv, which is no layer of this model's",
    ),
    "peft, SDXL's second encoder": (
        peft_lora(f"unet.{ATTENTION}", "text_encoder_2.text_model.encoder.layers.0.mlp.fc1"),
        "it changes text_encoder_2.text_model.encoder.layers.0.mlp.fc1, which is no layer",
    ),
    "old processors": (
        {
            f"{place}.processor.to_{kind}_lora.{end}.weight": tensor.clone()
            for place, kind in ((ATTENTION.removesuffix(".to_q"), "out"), ("mid.attn9", "q"))
            for end, tensor in (("down", noise(1, 2, 8)), ("up", noise(2, 8, 2)))
        },
        "it changes mid.attn9.to_q, which is no layer",
    ),
}


def test_an_embedding_trained_with_it_is_left_out(shelf: Path, tmp_path: Path) -> None:
    lora = plain_lora(GOOD)
    plain = written(tmp_path / "plain.safetensors", lora)
    path = written(tmp_path / "both.safetensors", lora | {"bundle_emb.a.clip_l": noise(1, 2, 8)})
    ours, theirs = (model(shelf, each).unet.state_dict() for each in (path, plain))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("kind", ALIEN)
def test_layers_that_fit_nothing_are_named(shelf: Path, tmp_path: Path, kind: str) -> None:
    tensors, said = ALIEN[kind]
    path = written(tmp_path / "alien.safetensors", tensors)
    with pytest.raises(ModelError, match=f"alien.safetensors does not fit this model: {said}"):
        model(shelf, path)


@pytest.mark.parametrize("kind", ["kohya", "peft"])
def test_a_suffix_in_capitals(shelf: Path, tmp_path: Path, kind: str) -> None:
    tensors = plain_lora(GOOD) if kind == "kohya" else peft_lora(f"unet.{ATTENTION}")
    one, other = written(tmp_path / "a.safetensors", tensors), tmp_path / "b.SAFETENSORS"
    other.write_bytes(one.read_bytes())
    first, second = model(shelf, one).unet, model(shelf, other).unet
    assert torch.equal(
        first.get_submodule(ATTENTION).weight, second.get_submodule(ATTENTION).weight
    )


def test_flags_take_every_suffix_that_can_be_read() -> None:
    assert loras("a.SAFETENSORS:0.5, b.safetensors") == (
        (Path("a.SAFETENSORS"), 0.5),
        (Path("b.safetensors"), 1.0),
    )
    names = ("a.PT", "b.pth", "c.Bin", "d.safetensors")
    assert embeddings(", ".join(names)) == tuple(map(Path, names))
