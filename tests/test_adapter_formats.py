"""Adapters as people have them: other layouts give the same adapter, other files are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ipadapter_demo.adapter import (
    ImageAdapter,
    Resampler,
    encoder_needed,
    image_encoder_named,
    load_image_adapter,
)
from ipadapter_demo.adapter.checkpoint import adapter_like
from ipadapter_demo.adapter.unsupported import what_it_is
from ipadapter_demo.errors import CheckpointError
from tests.ldm_layout import write_checkpoint
from tests.published import tiny_kl, tiny_sd15_unet
from tests.test_checkpoint import VARIANTS, flat_tensors
from tests.tiny import (
    noise,
    tiny_controlnet,
    tiny_t2i_adapter,
    tiny_text_encoder,
    tiny_unet,
    tiny_vae,
    tiny_vision_encoder,
)

Tensors = dict[str, Tensor]


def nested(
    tensors: Tensors, projection: str = "image_proj", layers: str = "ip_adapter"
) -> dict[str, Any]:
    sections: dict[str, Any] = {projection: {}, layers: {}}
    for key, tensor in tensors.items():
        section, rest = key.split(".", 1)
        sections[projection if section == "image_proj" else layers][rest] = tensor
    return sections


def flat(tensors: Tensors, projection: str, layers: str) -> Tensors:
    sections = nested(tensors, projection, layers)
    return {f"{name}.{key}": t for name, part in sections.items() for key, t in part.items()}


def raw(tensors: Tensors) -> Tensors:
    """What the first trainer's accelerator writes: the whole module that it trained, the frozen
    UNet too, whose processors are the adapter's own layers once more."""
    unet = {f"unet.{key}": t for key, t in tiny_unet().state_dict().items()}
    again = {
        f"unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.{kind}.weight": tensors[
            f"ip_adapter.13.{kind}.weight"
        ].clone()
        for kind in ("to_k_ip", "to_v_ip")
    }
    return unet | again | flat(tensors, "image_proj_model", "adapter_modules")


def counted(tensors: Tensors) -> dict[str, Any]:
    return {
        **nested(tensors),
        "epoch": 3,
        "global_step": 1000,
        "config": {"lr": 1e-4},
        "optimizer": {"state": torch.ones(2)},
    }


def parallel(tensors: Tensors) -> Tensors:
    return {f"module.{key}": tensor for key, tensor in tensors.items()}


def accelerate(tensors: Tensors, folder: Path, safe: bool = True) -> None:
    """As its `save_state` writes them, with what else is in such a folder."""
    folder.mkdir()
    torch.save({"state": {}}, folder / "optimizer.bin")
    if safe:
        save_file(tensors, folder / "model.safetensors")
    else:
        torch.save(tensors, folder / "pytorch_model.bin")


def invoke(tensors: Tensors, folder: Path) -> None:
    folder.mkdir()
    torch.save(nested(tensors), folder / "ip_adapter.bin")
    (folder / "image_encoder.txt").write_text("InvokeAI/ip_adapter_sd_image_encoder\n")


def invoke_safetensors(tensors: Tensors, folder: Path) -> None:
    folder.mkdir()
    save_file(tensors, folder / "ip_adapter.safetensors")


COMFY = ("image_proj", "adapter_modules")
LAYOUTS: dict[str, tuple[str, Callable[[Tensors, Path], object]]] = {
    "pth": ("a.pth", lambda t, p: torch.save(nested(t), p)),
    "pth of the old kind": (
        "a.pth",
        lambda t, p: torch.save(nested(t), p, _use_new_zipfile_serialization=False),
    ),
    "ComfyUI, nested": ("a.bin", lambda t, p: torch.save(nested(t, *COMFY), p)),
    "ComfyUI, flat": ("a.safetensors", lambda t, p: save_file(flat(t, *COMFY), p)),
    "trainer": ("pytorch_model.bin", lambda t, p: torch.save(raw(t), p)),
    "trainer, safetensors": ("model.safetensors", lambda t, p: save_file(raw(t), p)),
    "trainer, without a UNet": (
        "a.bin",
        lambda t, p: torch.save(flat(t, "image_proj_model", "adapter_modules"), p),
    ),
    "with counts": ("a.bin", lambda t, p: torch.save(counted(t), p)),
    "flat bin": ("a.bin", torch.save),
    "pt": ("a.pt", lambda t, p: torch.save(nested(t), p)),
    "capitals": ("a.SAFETENSORS", lambda t, p: save_file(t, p)),
    "capitals of a pickle": ("a.PTH", lambda t, p: torch.save(nested(t), p)),
    "trainer, state_dict": ("a.pt", lambda t, p: torch.save({"state_dict": raw(t), "step": 4}, p)),
    "trainer, parallel": ("a.bin", lambda t, p: torch.save(parallel(raw(t)), p)),
    "trainer, parallel, safetensors": (
        "a.safetensors",
        lambda t, p: save_file(parallel(raw(t)), p),
    ),
    "trainer, parallel, state_dict": (
        "a.pt",
        lambda t, p: torch.save({"state_dict": parallel(raw(t))}, p),
    ),
    "DeepSpeed": ("a.pt", lambda t, p: torch.save({"module": raw(t), "dp_world_size": 2}, p)),
    "published, state_dict": ("a.pt", lambda t, p: torch.save({"state_dict": nested(t)}, p)),
    "accelerate": ("checkpoint-2000", lambda t, p: accelerate(raw(t), p)),
    "accelerate, pickled": ("checkpoint-2000", lambda t, p: accelerate(raw(t), p, safe=False)),
    "InvokeAI": ("ip_adapter_sd15", invoke),
    "InvokeAI, safetensors": ("ip_adapter_sd15", invoke_safetensors),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layout_gives_the_same_adapter(tmp_path: Path, variant: str, layout: str) -> None:
    tensors = flat_tensors(variant)
    name, write = LAYOUTS[layout]
    write(tensors, tmp_path / name)
    adapter = load_image_adapter(tmp_path / name)
    assert adapter.variant == {"base": "linear"}.get(variant, variant)
    state = adapter.state_dict()
    assert len(state) == len(tensors)
    for key, tensor in tensors.items():
        section, rest = key.split(".", 1)
        if section == "ip_adapter":
            number, rest = rest.split(".", 1)
            rest = f"{(int(number) - 1) // 2}.{rest}"
        assert torch.equal(
            state[f"{'projection' if section == 'image_proj' else 'layers'}.{rest}"], tensor
        )


def test_a_folder_names_its_image_encoder(tmp_path: Path) -> None:
    invoke(flat_tensors(), tmp_path / "named")
    assert image_encoder_named(tmp_path / "named") == "InvokeAI/ip_adapter_sd_image_encoder"
    invoke_safetensors(flat_tensors(), tmp_path / "unnamed")
    assert image_encoder_named(tmp_path / "unnamed") is None
    assert image_encoder_named(tmp_path / "named" / "ip_adapter.bin") is None
    for text in ("", "../../etc", "one two/three", "just-a-name"):
        (tmp_path / "named" / "image_encoder.txt").write_text(text)
        with pytest.raises(CheckpointError, match=r"named/image_encoder\.txt must name a repos"):
            image_encoder_named(tmp_path / "named")


def test_what_names_no_image_encoder_is_said_in_part(tmp_path: Path) -> None:
    invoke(flat_tensors(), tmp_path / "named")
    note = tmp_path / "named" / "image_encoder.txt"
    note.write_text("a" * 100)
    with pytest.raises(CheckpointError, match=r"a repository, owner/name, got 'a{80}'$"):
        image_encoder_named(tmp_path / "named")
    note.write_bytes(b"\xff\xfeowner/name")  # not UTF-8
    with pytest.raises(CheckpointError, match="got '\ufffd\ufffdowner/name'"):
        image_encoder_named(tmp_path / "named")


# The published files, by their keys and shapes: (projection, K' and V' of each layer) -> what is
# read from them. Written down here from the files' own listing, not from this project's classes.
WIDTHS = {
    768: [320] * 2 + [640] * 2 + [1280] * 5 + [640] * 3 + [320] * 3 + [1280],
    2048: [640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10,
}


def linear(embed: int, cross: int) -> dict[str, tuple[int, ...]]:
    return {
        "proj.weight": (4 * cross, embed),
        "proj.bias": (4 * cross,),
        "norm.weight": (cross,),
        "norm.bias": (cross,),
    }


def full(embed: int, cross: int) -> dict[str, tuple[int, ...]]:
    return {
        "proj.0.weight": (embed, embed),
        "proj.0.bias": (embed,),
        "proj.2.weight": (cross, embed),
        "proj.2.bias": (cross,),
        "proj.3.weight": (cross,),
        "proj.3.bias": (cross,),
    }


def plus(width: int, inner: int, cross: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (1, 16, width),
        "proj_in.weight": (width, 1280),
        "proj_in.bias": (width,),
        "proj_out.weight": (cross, width),
        "proj_out.bias": (cross,),
        "norm_out.weight": (cross,),
        "norm_out.bias": (cross,),
    }
    for i in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"layers.{i}.{norm}.{part}": (width,) for part in ("weight", "bias")}
        shapes |= {
            f"layers.{i}.0.to_q.weight": (inner, width),
            f"layers.{i}.0.to_kv.weight": (2 * inner, width),
            f"layers.{i}.0.to_out.weight": (width, inner),
            f"layers.{i}.1.1.weight": (4 * width, width),
            f"layers.{i}.1.3.weight": (width, 4 * width),
        }
    return shapes


def face(cross: int, tokens: int = 4) -> dict[str, tuple[int, ...]]:
    return {
        "proj.0.weight": (1024, 512),
        "proj.0.bias": (1024,),
        "proj.2.weight": (tokens * cross, 1024),
        "proj.2.bias": (tokens * cross,),
        "norm.weight": (cross,),
        "norm.bias": (cross,),
    }


def face_plus(cross: int) -> dict[str, tuple[int, ...]]:
    inner = {key: shape for key, shape in plus(cross, cross, cross).items() if key != "latents"}
    return face(cross) | {f"perceiver_resampler.{key}": shape for key, shape in inner.items()}


H, H_STATES = "ViT-H/14 (projected", "ViT-H/14 (penultimate"
FULL_SIZE = {
    "ip-adapter_sd15": (linear(1024, 768), "linear", 4, H, 22_319_616),
    "ip-adapter_sd15_light": (linear(1024, 768), "linear", 4, H, 22_319_616),
    "ip-adapter_sd15_light_v11": (linear(1024, 768), "linear", 4, H, 22_319_616),
    "ip-adapter_sd15_vit-G": (linear(1280, 768), "linear", 4, "ViT-bigG/14", 23_106_048),
    "ip-adapter-plus_sd15": (plus(768, 768, 768), "plus", 16, H_STATES, 49_087_488),
    "ip-adapter-plus-face_sd15": (plus(768, 768, 768), "plus", 16, H_STATES, 49_087_488),
    "ip-adapter-full-face_sd15": (full(1280, 768), "full", None, H_STATES, 21_794_304),
    "ip_plus_composition_sd15": (plus(768, 768, 768), "plus", 16, H_STATES, 49_087_488),
    "ip-adapter_sdxl": (linear(1280, 2048), "linear", 4, "ViT-bigG/14", 351_285_248),
    "ip-adapter_sdxl_vit-h": (linear(1024, 2048), "linear", 4, H, 349_188_096),
    "ip-adapter-plus_sdxl_vit-h": (plus(1280, 1280, 2048), "plus", 16, H_STATES, 423_748_864),
    "ip-adapter-plus-face_sdxl_vit-h": (plus(1280, 1280, 2048), "plus", 16, H_STATES, 423_748_864),
    "ip_plus_composition_sdxl": (plus(1280, 1280, 2048), "plus", 16, H_STATES, 423_748_864),
    "ip-adapter-faceid_sd15": (face(768), "face", 4, "InsightFace", 22_844_928),
    "ip-adapter-faceid-portrait_sd15": (face(768, 16), "face", 16, "InsightFace", 32_291_328),
    "ip-adapter-faceid_sdxl": (face(2048), "face", 4, "InsightFace", 349_713_408),
    "ip-adapter-faceid-plus_sd15": (face_plus(768), "face-plus", 4, H_STATES, 52_750_848),
    "ip-adapter-faceid-plusv2_sdxl": (face_plus(2048), "face-plus", 4, H_STATES, 557_913_088),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_every_published_file_in_full_size(name: str) -> None:
    """On the meta device: what kind it is, how large, and what encoder it reads."""
    shapes, variant, tokens, encoder, parameters = FULL_SIZE[name]
    cross = 2048 if "sdxl" in name else 768
    layers = {
        f"ip_adapter.{2 * i + 1}.{kind}.weight": (width, cross)
        for i, width in enumerate(WIDTHS[cross])
        for kind in ("to_k_ip", "to_v_ip")
    }
    tensors = {
        key: torch.empty(shape, dtype=torch.float16, device="meta")
        for key, shape in ({f"image_proj.{k}": s for k, s in shapes.items()} | layers).items()
    }
    adapter: ImageAdapter = adapter_like(tensors, Path(name))
    assert (adapter.variant, adapter.num_tokens) == (variant, tokens)
    assert adapter.layer_widths == tuple(WIDTHS[cross])
    assert sum(p.numel() for p in adapter.parameters()) == parameters
    assert encoder in encoder_needed(adapter)


def layer(cross: int, **more: Tensor) -> Tensors:
    return {
        "ip_adapter.1.to_k_ip.weight": torch.ones(32, cross),
        "ip_adapter.1.to_v_ip.weight": torch.ones(32, cross),
        **more,
    }


def projection(**shapes: tuple[int, ...]) -> Tensors:
    return {
        f"image_proj.{key.replace('__', '.')}": torch.ones(shape) for key, shape in shapes.items()
    }


def resampler(**sizes: int) -> Tensors:
    state = Resampler(**sizes, depth=1).state_dict()
    return {f"image_proj.{key}": t for key, t in state.items()}


OTHERS: dict[str, tuple[Callable[[], Tensors], str]] = {
    "InstantID": (
        lambda: resampler(embed_dim=512, cross_dim=2048, width=1280, heads=20) | layer(2048),
        "an InstantID adapter or .* portrait adapter for SDXL: it reads face embeddings of Insi",
    ),
    "Kolors": (
        lambda: resampler(embed_dim=1024, cross_dim=2048, width=2048, heads=12) | layer(2048),
        "an IP-Adapter for Kolors: it needs Kolors' UNet and CLIP ViT-L/14",
    ),
    "SD 3.5": (
        lambda: (
            resampler(embed_dim=1152, cross_dim=2432, width=1280, heads=20)
            | projection(time_embedding__linear_1__weight=(1280, 320))
            | {
                "ip_adapter.0.to_k_ip.weight": torch.ones(4, 4),
                "ip_adapter.0.norm_ip.linear.weight": torch.ones(4, 4),
            }
        ),
        "an IP-Adapter for SD 3.5: .* needs SD 3.5's transformer",
    ),
    "Flux, XLabs": (
        lambda: {
            "double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": torch.ones(4, 4),
            "ip_adapter_proj_model.proj.weight": torch.ones(4, 4),
        },
        r"an IP-Adapter for Flux \(XLabs\): it needs Flux's transformer",
    ),
    "Flux, InstantX": (
        lambda: (
            projection(
                proj__0__weight=(2304, 1152), proj__2__weight=(128, 2304), norm__weight=(4096,)
            )
            | {"ip_adapter.0.to_k_ip.weight": torch.ones(3072, 4096)}
        ),
        r"an IP-Adapter for Flux \(InstantX\)",
    ),
    "PhotoMaker": (
        lambda: {
            "id_encoder.vision_model.embeddings.weight": torch.ones(2),
            "lora_weights.unet.down_blocks.0.lora.up.weight": torch.ones(2),
        },
        "a PhotoMaker model: it writes into the text's tokens",
    ),
    "LoRA, kohya": (
        lambda: {"lora_unet_down_blocks_0.lora_down.weight": torch.ones(2)},
        "a LoRA, not an IP-Adapter: give it to --lora",
    ),
    "LoRA, diffusers": (
        lambda: {"unet.down_blocks.0.attn1.to_q.lora_A.weight": torch.ones(2)},
        "a LoRA, not an IP-Adapter",
    ),
    "LoRA, the old kind": (
        lambda: {"mid_block.attn1.processor.to_q_lora.down.weight": torch.ones(2)},
        "a LoRA, not an IP",
    ),
    "LoHa": (lambda: {"lora_unet_mid.hada_w1_a": torch.ones(2)}, "a LoRA, not an IP-Adapter"),
    "ControlNet": (lambda: tiny_controlnet(tiny_unet()).state_dict(), "a ControlNet, not an IP-A"),
    "ControlNet, the first code's": (
        lambda: {"control_model.input_hint_block.0.weight": torch.ones(2)},
        "a ControlNet, not an IP-Adapt",
    ),
    "T2I-Adapter": (lambda: tiny_t2i_adapter(tiny_unet()).state_dict(), "a T2I-Adapter, not an IP"),
    "UNet": (lambda: tiny_unet().state_dict(), "a UNet, not an IP-Adapter"),
    "VAE": (lambda: tiny_kl().state_dict(), r"an autoencoder \(VAE\), not an IP-Adapter"),
    "tiny VAE": (lambda: tiny_vae().state_dict(), r"an autoencoder \(VAE\), not an IP-Adapter"),
    "image encoder": (lambda: tiny_vision_encoder().state_dict(), "an image encoder, not an IP-A"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_what_cannot_load_is_named(tmp_path: Path, kind: str, suffix: str) -> None:
    make, told = OTHERS[kind]
    path = tmp_path / f"mine{suffix}"
    if suffix == ".bin":
        torch.save(make(), path)
    else:
        save_file({key: t.clone().contiguous() for key, t in make().items()}, path)
    with pytest.raises(CheckpointError, match=rf"^mine\{suffix}: this is {told}"):
        load_image_adapter(path)


def test_nested_files_are_named_too(tmp_path: Path) -> None:
    instant = resampler(embed_dim=512, cross_dim=2048, width=1280, heads=20) | layer(2048)
    torch.save(nested(instant), tmp_path / "instantid.bin")
    with pytest.raises(CheckpointError, match=r"instantid\.bin: this is an InstantID adapter"):
        load_image_adapter(tmp_path / "instantid.bin")
    torch.save(
        {"id_encoder": {"a": torch.ones(1)}, "lora_weights": {"b": torch.ones(1)}},
        tmp_path / "photomaker-v1.bin",
    )
    with pytest.raises(CheckpointError, match=r"photomaker-v1\.bin: this is a PhotoMaker model"):
        load_image_adapter(tmp_path / "photomaker-v1.bin")


def test_a_whole_base_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "community.safetensors"
    write_checkpoint(path, tiny_sd15_unet(), tiny_kl(), tiny_text_encoder())
    with pytest.raises(CheckpointError, match=r"this is a whole base model, .* give it to --base"):
        load_image_adapter(path)


def test_an_unknown_file_tells_what_it_holds(tmp_path: Path) -> None:
    save_file({"a.b": noise(1, 2), "c": noise(2, 2)}, tmp_path / "x.safetensors")
    expected = r"lacks the section 'image_proj'; it holds \['a.b', 'c'\]"
    with pytest.raises(CheckpointError, match=expected):
        load_image_adapter(tmp_path / "x.safetensors")


def test_what_is_wrong_with_a_file_is_said_in_full(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(CheckpointError) as refused:
            load_image_adapter(path)
        return str(refused.value)

    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty") == (
        "empty: this folder holds no ip_adapter.safetensors or ip_adapter.bin or "
        "model.safetensors or pytorch_model.bin; name the file of an adapter, or a folder as "
        "InvokeAI or a trainer makes one"
    )
    assert refusal(tmp_path / "gone.bin") == f"gone.bin: no such file in {tmp_path}"
    (tmp_path / "a.ckpt").touch()
    assert refusal(tmp_path / "a.ckpt") == (
        "a.ckpt: the name must end in .safetensors, .bin, .pth, .pt"
    )
    save_file({key: torch.ones(1) for key in "dcba"}, tmp_path / "x.safetensors")
    assert refusal(tmp_path / "x.safetensors") == (
        "x.safetensors: not an IP-Adapter, lacks the section 'image_proj'; it holds ['a', 'b', 'c']"
    )
    torch.save([1], tmp_path / "x.bin")
    assert refusal(tmp_path / "x.bin") == "x.bin: holds a list, not a dictionary"


def test_what_lies_beside_an_adapter_does_not_make_it_another_kind(tmp_path: Path) -> None:
    beside = {"vision_model.norm.weight": torch.ones(1), "down_blocks.0.weight": torch.ones(1)}
    save_file(flat_tensors() | beside, tmp_path / "a.safetensors")
    assert load_image_adapter(tmp_path / "a.safetensors").variant == "linear"


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        ({"image_proj.proj.2.weight": (1, 1), "image_proj.norm.weight": (8,)}, None),
        ({"ip_adapter.0.to_q_lora.down.weight": (2, 8)}, None),
        ({"image_proj.norm.weight": (4096,)}, "an IP-Adapter for Flux (InstantX)"),
        ({"image_proj.norm.weight": (4095,)}, None),
        ({"image_proj.norm.weight": ()}, None),
        ({"image_proj.proj_in.weight": (1280, 512)}, "an InstantID adapter or a FaceID portrait"),
        ({"image_proj.proj_in.weight": (1280, 1280)}, None),
        ({"image_proj.proj_in.weight": (1280,)}, None),
        ({"image_proj.layers.0.0.to_out.weight": (2048, 64)}, "an IP-Adapter for Kolors"),
        ({"image_proj.layers.0.0.to_out.weight": (1280, 64)}, None),
        ({"a.vision_model.weight": (1,)}, None),  # names are read from their start
        ({"vision_model.weight": (1,)}, "an image encoder, not an IP-Adapter"),
        ({"image_proj.proj.weight": (1,), "x.lora.up": (1,)}, "a LoRA, not an IP-Adapter"),
        ({}, None),
    ],
)
def test_a_kind_by_its_names_and_shapes(
    shapes: dict[str, tuple[int, ...]], kind: str | None
) -> None:
    found = what_it_is(shapes)
    assert found is None if kind is None else found is not None and found.startswith(kind)
