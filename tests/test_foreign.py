"""PNGs of A1111, ComfyUI and InvokeAI: what is taken over, what is said, and hostile files."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import ipadapter_demo as ip
from benchmarks.ports import free_port
from ipadapter_demo.cli import main
from ipadapter_demo.errors import RequestError
from ipadapter_demo.foreign import MAX_TEXT, ForeignSettings, settings_from_png
from ipadapter_demo.foreign.a1111 import pairs
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.record import request_from_png, save_png
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch_options
from ipadapter_demo.ui.run.taken_over import taken_over
from tests.test_batch import Page
from tests.test_ui import built
from tests.tiny import picture

# gradio counts its calls with options that pandas is about to drop.
pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]


def png_of(kind: str = "tEXt", **texts: str) -> bytes:
    """A picture with texts, as the programs write them with Pillow."""
    info, file = PngInfo(), io.BytesIO()
    for name, text in texts.items():
        if kind == "iTXt":
            info.add_itxt(name, text)
        else:
            info.add_text(name, text, zip=kind == "zTXt")
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def read(kind: str = "tEXt", **texts: str) -> ForeignSettings:
    found = settings_from_png(png_of(kind, **texts))
    assert found is not None
    return found


A1111 = """\
a (red:1.2) cat <lora:style:0.8>, naïve
second line
Negative prompt: blurry,
low quality
Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 3773110473, \
Size: 512x768, Model hash: a1535d0a42, Model: dreamshaper_8, Clip skip: 2, \
ControlNet 0: "Module: ip-adapter_clip_sd15, Model: ip-adapter-plus_sd15 [32cd8f7f], Weight: 0.7, \
Resize Mode: Crop and Resize, Guidance Start: 0.1, Guidance End: 0.8, Pixel Perfect: False", \
ControlNet 1: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1", \
Lora hashes: "style: b1b5db", Hires upscale: 2, Version: v1.9.4"""

COMFYUI: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    "2": {
        "class_type": "IPAdapterUnifiedLoader",
        "inputs": {"model": ["1", 0], "preset": "PLUS (high strength)"},
    },
    "3": {"class_type": "LoadImage", "inputs": {"image": "dog.png"}},
    "4": {
        "class_type": "IPAdapterAdvanced",
        "inputs": {
            "model": ["2", 0],
            "ipadapter": ["2", 1],
            "image": ["3", 0],
            "weight": 0.85,
            "weight_type": "style transfer",
            "start_at": 0.0,
            "end_at": 0.9,
            "combine_embeds": "concat",
        },
    },
    "5": {"class_type": "CLIPTextEncode", "inputs": {"text": ["6", 0], "clip": ["1", 1]}},
    "6": {"class_type": "PrimitiveString", "inputs": {"value": "a cat"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["1", 1]}},
    "8": {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {"positive": ["5", 0], "negative": ["7", 0], "image": ["3", 0], "strength": 1},
    },
    "9": {"class_type": "EmptyLatentImage", "inputs": {"width": 640, "height": 512}},
    "10": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 42,
            "steps": 30,
            "cfg": 5.5,
            "sampler_name": "euler_ancestral",
            "scheduler": "sgm_uniform",
            "denoise": 1.0,
            "model": ["4", 0],
            "positive": ["8", 0],
            "negative": ["8", 1],
            "latent_image": ["9", 0],
        },
    },
    "11": {"class_type": "LatentUpscale", "inputs": {"samples": ["10", 0], "width": 1280}},
    "12": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 1,
            "steps": 10,
            "cfg": 8,
            "sampler_name": "euler",
            "denoise": 0.5,
            "positive": ["5", 0],
            "negative": ["7", 0],
            "latent_image": ["11", 0],
        },
    },
    "13": {"class_type": "VAEDecode", "inputs": {"samples": ["12", 0], "vae": ["1", 2]}},
    "14": {"class_type": "SaveImage", "inputs": {"images": ["13", 0]}},
    "15": {"class_type": "NotUsed", "inputs": {}},
}

INVOKEAI: dict[str, Any] = {
    "app_version": "4.2.9",
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": "a cat",
    "negative_prompt": "blurry",
    "width": 832,
    "height": 1216,
    "seed": 99,
    "rand_device": "cpu",
    "cfg_scale": 7.5,
    "cfg_rescale_multiplier": 0.4,
    "steps": 28,
    "scheduler": "dpmpp_2m_sde_k",
    "model": {"key": "1", "name": "juggernaut", "base": "sdxl", "type": "main"},
    "vae": None,
    "loras": [{"model": {"name": "style"}, "weight": 0.6}],
    "ipAdapters": [
        {
            "image": {"image_name": "dog.png"},
            "ip_adapter_model": {"name": "ip-adapter-plus_sdxl_vit-h"},
            "method": "composition",
            "weight": 0.7,
            "begin_step_percent": 0.2,
            "end_step_percent": 0.9,
        }
    ],
    "controlnets": [],
}


def test_a1111_is_taken_over() -> None:
    found = read(parameters=A1111)
    assert found.program == "A1111"
    assert found.fields == {
        "prompt": "a (red:1.2) cat , naïve\nsecond line",
        "negative_prompt": "blurry,\nlow quality",
        "prompt_syntax": "weighted",
        "clip_skip": 1,
        "steps": 25,
        "guidance": 6.5,
        "seed": 3773110473,
        "sampler": "dpm++",
        "noise_schedule": "karras",
        "width": 512,
        "height": 768,
        "image_scale": 0.7,
        "image_window": (0.1, 0.8),
    }
    assert found.adapter == "ip-adapter-plus_sd15 [32cd8f7f]"
    assert found.loras == (("style", 0.8),)
    assert found.left == (
        "Model: dreamshaper_8",
        "reference: the picture is not in the file: give it",
        "ControlNet 1: Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1",
        "Hires upscale: 2",
    )
    assert read("iTXt", parameters=A1111) == read("zTXt", parameters=A1111) == found


UNET_FOR_TEXT = "its text encoder has the weight of its UNet here"


@pytest.mark.parametrize(
    ("weights", "weight", "why"),
    [
        ("", 1, ""),
        (":1e-1", 0.1, ""),
        (":-5E-1", -0.5, ""),
        (":0.8:0.8", 0.8, ""),
        (":te=0.7:unet=0.7", 0.7, ""),
        (":unet=0.7", 0.7, UNET_FOR_TEXT),
        (":1:0.5", 0.5, UNET_FOR_TEXT),
        (":0.8:unet=0", 0, UNET_FOR_TEXT),
        (":te=0.5", 0.5, ""),
        (":unet=much", None, "no weight of its UNet is found"),
        (":strong", None, "no weight of its UNet is found"),
    ],
)
def test_the_weight_of_a_lora_of_a1111_is_that_of_its_unet(
    weights: str, weight: float | None, why: str
) -> None:
    found = read(parameters=f"a cat <lora:x{weights}>\nSteps: 20")
    assert found.fields["prompt"] == "a cat"
    assert found.loras == (() if weight is None else (("x", weight),))
    assert found.left == ((f"LoRA: x{weights} ({why})",) if why else ())


@pytest.mark.parametrize("layers", [1, 2, 3, 12])
def test_clip_skip_of_a1111_is_not_one_of_sdxl(layers: int, pipeline: ImagePromptPipeline) -> None:
    """There as here both text encoders are read without their last layer, whatever it says."""
    found = read(parameters=f"a cat\nSteps: 20, Clip skip: {layers}")
    fields, left = found.fitted(pipeline.info)
    assert (fields["clip_skip"], left) == (layers - 1, [])
    fields, left = found.fitted(replace(pipeline.info, second_prompt=True))
    assert fields["clip_skip"] == 0
    said = f"Clip skip: {layers} (with two text encoders the last layer alone is left out)"
    assert left == ([said] if layers > 2 else [])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Sampler: DPM++ 2M Karras", ("dpm++", "karras")),  # before version 1.9
        ("Sampler: DPM++ 2M", ("dpm++", None)),
        ("Sampler: DPM++ 2M, Schedule type: Automatic", ("dpm++", "karras")),
        ("Sampler: Euler a, Schedule type: Automatic", ("euler_a", None)),
        ("Sampler: Euler, Schedule type: Simple", ("euler", "trailing")),
        ("Sampler: PLMS", ("pndm", None)),
        ("Sampler: DPM++ 2M SDE, Schedule type: Exponential", ("dpm++ sde", None)),
        ("Sampler: DPM++ SDE Karras", (None, None)),
        ("Sampler: DDIM, Schedule type: Karras", ("ddim", None)),
    ],
)
def test_samplers_of_a1111(line: str, expected: tuple[Any, Any]) -> None:
    found = read(parameters=f"a cat\nSteps: 20, {line}")
    assert (found.fields.get("sampler"), found.fields.get("noise_schedule")) == expected
    said = [sentence for sentence in found.left if sentence.startswith(("sampler", "noise"))]
    assert len(said) == (expected[0] is None or any(w in line for w in ("Exponential", "DDIM")))


def test_comfyui_is_taken_over_from_its_first_pass() -> None:
    found = read(prompt=json.dumps(COMFYUI), workflow="{}")
    assert found.program == "ComfyUI"
    assert found.fields == {
        "prompt": "a cat",
        "negative_prompt": "blurry",
        "seed": 42,
        "steps": 30,
        "guidance": 5.5,
        "sampler": "euler_a",
        "noise_schedule": "trailing",
        "width": 640,
        "height": 512,
        "image_scale": 0.85,
        "image_window": (0.0, 0.9),
        "image_layers": "style",
    }
    assert found.adapter == "PLUS (high strength)"
    assert found.left == (
        "further pass: KSampler",
        "reference: dog.png is not in the file: give it",
        "base: sd15.safetensors (the model that you choose draws)",
        "node: LatentUpscale",
        "node: ControlNetApplyAdvanced",
    )


def decoded(sampler: str, end: str) -> dict[str, Any]:
    """Nodes of ComfyUI that show what a sampler drew."""
    return {
        f"decode {sampler}": {"class_type": "VAEDecode", "inputs": {"samples": [sampler, 0]}},
        f"show {sampler}": {"class_type": end, "inputs": {"images": [f"decode {sampler}", 0]}},
    }


@pytest.mark.parametrize("end", ["SaveImage", "PreviewImage"])
@pytest.mark.parametrize("passes", [2, 3])
def test_the_first_pass_of_comfyui_may_be_saved_as_well(end: str, passes: int) -> None:
    graph = COMFYUI | decoded("10", end)
    if passes == 3:
        graph["16"] = {"class_type": "LatentUpscale", "inputs": {"samples": ["12", 0]}}
        inputs = COMFYUI["12"]["inputs"] | {"seed": 2, "latent_image": ["16", 0]}
        graph["17"] = {"class_type": "KSampler", "inputs": inputs}
        graph |= decoded("17", end)
    once = read(prompt=json.dumps(COMFYUI))
    for nodes in (graph, dict(reversed(graph.items()))):
        found = read(prompt=json.dumps(nodes))
        assert found.fields == once.fields
        assert found.left.count("further pass: KSampler") == passes - 1


def test_a_prompt_of_comfyui_that_is_zeroed_is_empty() -> None:
    graph = COMFYUI | {
        "8": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["5", 0]}},
        "10": {
            "class_type": "KSampler",
            "inputs": COMFYUI["10"]["inputs"] | {"positive": ["5", 0], "negative": ["8", 0]},
        },
    }
    found = read(prompt=json.dumps(graph))
    assert (found.fields["prompt"], found.fields["negative_prompt"]) == ("a cat", "")
    assert "node: ConditioningZeroOut" in found.left
    assert not [
        sentence for sentence in found.left if sentence.startswith(("negative", "further n"))
    ]


def test_adapters_of_comfyui_that_are_not_read_are_said() -> None:
    """One with two weights, and one of a further pass alone."""
    composed = {"model": ["2", 0], "weight_style": 1.0, "weight_composition": 1.0}
    graph = COMFYUI | {
        "4": {"class_type": "IPAdapterStyleComposition", "inputs": composed},
        "12": {
            "class_type": "KSampler",
            "inputs": COMFYUI["12"]["inputs"] | {"model": ["16", 0]},
        },
        "16": COMFYUI["4"] | {"inputs": COMFYUI["4"]["inputs"] | {"model": ["4", 0]}},
    }
    found = read(prompt=json.dumps(graph))
    assert found.adapter is None
    assert [sentence for sentence in found.left if "IPAdapter" in sentence] == [
        "node: IPAdapterAdvanced",
        "node: IPAdapterStyleComposition",
    ]


def test_a_sampler_of_comfyui_that_is_put_together() -> None:
    graph = {
        "1": {"class_type": "RandomNoise", "inputs": {"noise_seed": 5}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat"}},
        "3": {"class_type": "CFGGuider", "inputs": {"cfg": 4, "positive": ["2", 0]}},
        "4": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "dpmpp_2m"}},
        "5": {"class_type": "BasicScheduler", "inputs": {"scheduler": "karras", "steps": 12}},
        "6": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512}},
        "7": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["1", 0],
                "guider": ["3", 0],
                "sampler": ["4", 0],
                "sigmas": ["5", 0],
                "latent_image": ["6", 0],
            },
        },
    }
    fields = read(prompt=json.dumps(graph)).fields
    assert (fields["seed"], fields["guidance"], fields["steps"]) == (5, 4, 12)
    assert (fields["sampler"], fields["noise_schedule"]) == ("dpm++", "karras")
    assert fields["prompt"] == "a cat"


def test_invokeai_is_taken_over_of_every_version() -> None:
    found = read(invokeai_metadata=json.dumps(INVOKEAI))
    assert found.program == "InvokeAI"
    assert found.fields == {
        "prompt": "a cat",
        "negative_prompt": "blurry",
        "steps": 28,
        "guidance": 7.5,
        "guidance_rescale": 0.4,
        "seed": 99,
        "sampler": "dpm++ sde",
        "noise_schedule": "karras",
        "width": 832,
        "height": 1216,
        "image_scale": 0.7,
        "image_window": (0.2, 0.9),
        "image_layers": "layout",
    }
    assert found.adapter == "ip-adapter-plus_sdxl_vit-h"
    assert found.loras == (("style", 0.6),)
    assert found.left == ("reference: dog.png is not in the file: give it", "model: juggernaut")

    newer = {
        "type": "ip_adapter",
        "image": {"image_name": "dog.png"},
        "model": {"name": "ip-adapter-plus_sdxl_vit-h"},
        "method": "composition",
        "weight": 0.7,
        "beginEndStepPct": [0.2, 0.9],
    }
    bare = {name: value for name, value in INVOKEAI.items() if name != "ipAdapters"}
    canvas = {"canvas_v2_metadata": {"referenceImages": [{"isEnabled": True, "ipAdapter": newer}]}}
    six = {
        "ref_images": [{"isEnabled": True, "config": newer}, {"isEnabled": False, "config": newer}]
    }
    for values in (bare | canvas, bare | six):
        assert read(invokeai_metadata=json.dumps(values)) == found


def test_what_a_request_cannot_have_is_said() -> None:
    line = "Steps: 500, Sampler: Euler, CFG scale: 40, Seed: 18446744073709551615, Size: 511x512"
    found = read(parameters=f"a cat\n{line}")
    assert found.fields == {
        "prompt": "a cat",
        "negative_prompt": "",
        "prompt_syntax": "weighted",
        "sampler": "euler",
    }
    assert [sentence.partition(" (")[0] for sentence in found.left] == [
        "Steps: 500",
        "CFG scale: 40",
        "Seed: 18446744073709551615",
        "size: 511, 512",
    ]
    assert "steps must be from 1 to 200, got 500" in found.left[0]


def test_the_adapter_is_looked_for_in_the_model(pipeline: ImagePromptPipeline) -> None:
    info, found = pipeline.info, read(parameters=A1111)
    fields, left = found.fitted(info)
    assert fields["adapter"] == "plus"
    assert "the model sd15-plus has it; taken is plus of tiny" in " ".join(left)
    assert "LoRA: style:0.8 (tiny has no LoRA of this name; --lora adds files)" in left
    assert left[-1].startswith("seed: A1111 makes other noise")

    own = replace(info, adapters=("ip-adapter-plus_sd15",), loras={"style": 1.0})
    fields, left = found.fitted(own)
    assert fields["adapter"] == "ip-adapter-plus_sd15"
    assert fields["loras"] == (ip.Lora(name="style", weight=0.8),)
    assert not [sentence for sentence in left if sentence.startswith(("adapter", "LoRA"))]

    published = replace(info, name="sd15-plus", adapters=("base",))
    fields, left = found.fitted(published)
    assert "adapter" not in fields
    assert not [sentence for sentence in left if sentence.startswith("adapter")]
    assert "sd15-plus" in PUBLISHED

    fields, left = read(prompt=json.dumps(COMFYUI)).fitted(info)
    assert fields["image_layers"] == "style"
    assert not [sentence for sentence in left if sentence.startswith("layers")]
    fields, left = read(prompt=json.dumps(COMFYUI)).fitted(replace(info, layer_presets={}))
    assert "image_layers" not in fields
    assert "layers: style (tiny has none by name)" in left


def test_our_own_and_unknown_files_are_none(tmp_path: Path) -> None:
    own = io.BytesIO()
    save_png(own, picture(1), GenerateRequest(), 0, 0, {})
    assert settings_from_png(own.getvalue()) is None
    for texts in (
        {},
        {"parameters": "no settings"},
        {"parameters": '{"sui_image_params": {"prompt": "a cat"}}'},
        {"prompt": "[1]"},
        {"prompt": "{}"},
        {"invokeai_metadata": "{"},
        {"Comment": A1111},
    ):
        assert settings_from_png(png_of(**texts)) is None, texts


def test_our_own_file_may_be_larger_than_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    own = io.BytesIO()
    save_png(own, picture(1), GenerateRequest(), 0, 0, {})
    monkeypatch.setattr("ipadapter_demo.imaging.MAX_FILE_BYTES", len(own.getvalue()) - 1)
    assert settings_from_png(own.getvalue()) is None


# Hostile files


def test_a_graph_may_be_cyclic() -> None:
    graph = {
        "1": {
            "class_type": "KSampler",
            "inputs": {
                "seed": ["1", 0],
                "steps": ["2", 0],
                "positive": ["2", 0],
                "negative": ["1", 1],
                "model": ["1", 0],
                "latent_image": ["1", 0],
            },
        },
        "2": {"class_type": "Reroute", "inputs": {"": ["3", 0], "conditioning": ["2", 0]}},
        "3": {"class_type": "Reroute", "inputs": {"": ["2", 0]}},
    }
    found = read(prompt=json.dumps(graph))
    assert found.fields == {}
    assert "seed: not found in the graph" in found.left


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"prompt": json.dumps({str(n): {"inputs": {}} for n in range(5001)})},
            "may have 5,000 nodes, got 5,001",
        ),
        ({"prompt": '{"1": [' + "0," * 200_001 + "0]}"}, "at most 200,000 values"),
    ],
)
def test_what_is_too_large_is_refused(texts: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        settings_from_png(png_of(**texts))


@pytest.mark.parametrize("kind", ["zTXt", "tEXt", "iTXt"])
def test_text_has_a_budget(kind: str) -> None:
    with pytest.raises(RequestError, match=f"at most {MAX_TEXT:,} bytes"):
        settings_from_png(png_of(kind, parameters="a" * (MAX_TEXT + 1)))


@pytest.mark.parametrize(
    "text",
    [
        "a\n" + "Steps: 1, " + "a b-/" * 700_000,
        "a\n" + 'Steps: 1, x: "' + "\\" * 3_000_000,
        "a\n" + 'Steps: 1, x: "' + 'a", "' * 700_000,
        "<lora:" * 600_000 + "\nSteps: 1",
        "a\n" + "Steps: 1, " + "b: c, " * 600_000,
        '{"a":' * 150_000,
    ],
)
def test_no_text_takes_longer_than_its_length(text: str) -> None:
    began = time.process_time()
    for name in ("parameters", "prompt", "invokeai_metadata"):
        settings_from_png(png_of(**{name: text}))
    assert time.process_time() - began < 15


SPACES = "a" + " " * 40_000 + "b"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "prompt",
            json.dumps(
                {
                    "1": {
                        "inputs": {
                            "latent_image": ["1", 0],
                            "model": ["1", 0],
                            "lora_name": SPACES,
                        }
                    }
                }
            ),
        ),
        ("invokeai_metadata", json.dumps({"loras": [{"model": SPACES}]})),
        ("parameters", f"<lora:{'a' * 199}" * 10_000 + "\nSteps: 1"),
    ],
)
def test_names_are_read_in_one_pass(name: str, text: str, pipeline: ImagePromptPipeline) -> None:
    began = time.process_time()
    read("zTXt", **{name: text}).fitted(pipeline.info)
    assert time.process_time() - began < 0.5


def test_walks_through_a_graph_have_a_budget() -> None:
    """Each of many nodes has a text at the end of a long chain."""
    graph: dict[str, Any] = {
        "0": {"inputs": {"latent_image": ["0", 0], "positive": ["c0", 0]}},
        "c200": {"inputs": {}},
        "v1000": {"inputs": {}},
    }
    for n in range(200):
        inputs = {"conditioning": [f"c{n + 1}", 0], "text": ["v0", 0]}
        graph[f"c{n}"] = {"inputs": inputs}
    for n in range(1000):
        graph[f"v{n}"] = {"inputs": {"value": [f"v{n + 1}", 0]}}
    with pytest.raises(RequestError, match="more than 200,000 links"):
        read(prompt=json.dumps(graph))


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        [],
        1,
        {"seed": {"a": 1}, "class_type": ["x"]},
        {"positive": [[], 0]},
        {"seed": float("nan"), "steps": "many", "sampler_name": []},
        {"model": ["1", 0], "weight": []},
        {"positive": ["1", -3], "lora_name": 4},
        {"model": ["1", 0], "lora_name": "a", "strength_model": 10**400, "weight": 10**400},
    ],
)
def test_values_of_any_kind_are_no_error(inputs: Any, pipeline: ImagePromptPipeline) -> None:
    if isinstance(inputs, dict):
        inputs["latent_image"] = ["1", 0]
    node = {"class_type": "IPAdapter", "inputs": inputs}
    lists = ("ipAdapters", "loras", "ref_images")
    for name, values in (
        ("prompt", {"1": node}),
        ("prompt", {"1": inputs}),
        ("invokeai_metadata", dict.fromkeys(INVOKEAI, node)),
        ("invokeai_metadata", {key: [node, inputs] for key in lists}),
    ):
        found = settings_from_png(png_of(**{name: json.dumps(values)}))
        if found is not None:
            fields, left = found.fitted(pipeline.info)
            GenerateRequest(**fields)
            assert all(len(sentence) < 400 for sentence in left)


def test_a_list_of_what_is_left_ends(pipeline: ImagePromptPipeline) -> None:
    many = ", ".join(f"Field {n}: 1" for n in range(500))
    _, left = read(parameters=f"a cat\nSteps: 1, {many}").fitted(pipeline.info)
    assert len(left) == 41
    assert left[-1] == "460 more."


def test_pairs_by_their_grammar() -> None:
    line = 'A: 1, B b: "x, \\"y\\": z", C:, no colon, D: "unclosed, E: 2'
    assert list(pairs(line)) == [
        ("A", "1"),
        ("B b", 'x, "y": z'),
        ("C", ""),
        ("D", '"unclosed, E: 2'),
    ]


# Where it is used


def test_on_the_command_line(
    pipeline: ImagePromptPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs.png").write_bytes(png_of(parameters=A1111))
    picture(1).save(tmp_path / "R.png")
    words = ["generate", "--from-png", str(tmp_path / "theirs.png"), "--out", str(tmp_path / "out")]
    more = [
        "--reference",
        str(tmp_path / "R.png"),
        "--steps",
        "2",
        "--width",
        "64",
        "--height",
        "64",
    ]
    assert main([*words, *more], lambda *_, **__: pipeline) == 0
    out, err = capsys.readouterr()
    request = request_from_png(json.loads(out)["path"])
    assert (request.seed, request.steps, request.image_scale) == (3773110473, 2, 0.7)
    assert (request.sampler, request.noise_schedule, request.adapter) == ("dpm++", "karras", "plus")
    assert request.guidance == 6.5
    assert (
        "is of A1111; taken over: prompt, negative_prompt, prompt_syntax, clip_skip, steps" in err
    )
    assert "not taken over: Hires upscale: 2" in err


def test_on_the_page(pipeline: ImagePromptPipeline) -> None:
    with gr.Blocks():
        tab = built(pipeline, "image_text")
    found = read(parameters=A1111.replace("dreamshaper_8", "<img src=x>"))
    shown = taken_over(found, pipeline.info, tab)
    values = {name: shown[widget] for name, widget in tab.inputs.items() if widget in shown}
    assert (values["prompt"], values["seed"], values["random_seed"]) == (
        "a (red:1.2) cat , naïve\nsecond line",
        3773110473,
        False,
    )
    assert (values["window_start"], values["window_end"]) == (0.1, 0.8)
    assert (values["width"], values["height"], values["adapter"]) == (512, 768, "plus")
    assert "reference" not in values
    status = shown[tab.results.status]
    assert isinstance(status, str)
    assert "<li>Hires upscale: 2</li>" in status
    assert "Model: &lt;img src=x&gt;" in status


def test_dropped_on_the_page(model: Any) -> None:
    settings = Settings(port=free_port())
    page = build_ui(ImagePromptPipeline(model), settings)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options(settings))
    api = Page(page, url)
    try:
        said = api.click("restore", file=api.upload(png_of(parameters=A1111)), model="tiny")
        assert said[-2]["success"], said[-2]
        data = said[-2]["output"]["data"]
        shown = json.dumps(data, ensure_ascii=False)
        assert "Of A1111. Taken over: prompt, negative_prompt" in shown
        assert "(red:1.2) cat" in shown
        assert 3773110473 in data
    finally:
        api.http.close()
        page.close()
