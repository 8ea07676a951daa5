"""LoRAs and UNets that were distilled to few steps, in the layouts in which they are published.

Law 4: what is drawn with them equals diffusers' pipeline with `load_lora_weights` and the sampler
that their pages name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from playwright.sync_api import Browser, expect
from safetensors.torch import save_file
from torch import Tensor, nn

import ipadapter_demo as ip
from benchmarks.ports import free_port
from ipadapter_demo.cli.start import start_of
from ipadapter_demo.compare import spec_from_document
from ipadapter_demo.compare.cells import grid_from_spec
from ipadapter_demo.compare.complete import completed
from ipadapter_demo.errors import ModelError
from ipadapter_demo.foreign import ForeignSettings
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.catalog import CatalogEntry, LoraEntry
from ipadapter_demo.models.few_step import FewStep
from ipadapter_demo.models.few_step_files import SD15_LORAS, SDXL_LORAS
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.sources import Hub
from ipadapter_demo.pipeline import ImagePromptPipeline, ModelInfo
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.sampling import check_sampling
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch_options
from ipadapter_demo.ui.run.model_input import model_input
from ipadapter_demo.ui.run.running import build_tab
from ipadapter_demo.ui.tabs import TABS
from ipadapter_demo.ui.widgets.loras import on_few_step
from tests.browsing import browser, open_section, open_tab, visit
from tests.oracle import NOISE_LEVELS, assert_same, loaded, pixels_of, reference, request, theirs
from tests.published import tiny_sd15_unet, write_published
from tests.test_oracle_sdxl import loaded_xl
from tests.tiny import noise, picture, tiny_sdxl_unet, write_tiny_model, write_tiny_sdxl

__all__ = ["browser"]  # a fixture

RANK, ALPHA = 4, 2.0
LORAS = {"sd15": SD15_LORAS, "sdxl": SDXL_LORAS}
ALL = [(family, name) for family, loras in LORAS.items() for name in loras]


def changed_layers(unet: UNet2DConditionModel) -> dict[str, nn.Module]:
    """The kinds of layer that these files change: projections, attention, feed-forward, and the
    convolutions and time embeddings of the residual blocks."""
    ends: tuple[str, ...] = (
        "proj_in",
        "proj_out",
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "net.0.proj",
        "net.2",
    )
    ends += ("conv1", "conv2", "time_emb_proj", "conv_shortcut", "downsamplers.0.conv")
    return {
        name: module
        for name, module in unet.named_modules()
        if name.endswith(ends) and isinstance(module, nn.Linear | nn.Conv2d)
    }


def factors(layer: nn.Module, seed: int) -> tuple[Tensor, Tensor]:
    """(down, up) of low rank, as a convolution where the layer is one."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    out, inner, *kernel = weight.shape
    down = 0.2 * noise(seed, RANK, inner, *kernel)
    return down, 0.2 * noise(seed + 1, out, RANK, *[1] * len(kernel))


def kohya(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """As LCM-LoRA, TCD and SDXL-Lightning have it: `lora_unet_`, diffusers' names, an alpha."""
    found: dict[str, Tensor] = {}
    for seed, (name, layer) in enumerate(changed_layers(unet).items()):
        down, up = factors(layer, 2 * seed)
        key = f"lora_unet_{name.replace('.', '_')}"
        found |= {
            f"{key}.lora_down.weight": down,
            f"{key}.lora_up.weight": up,
            f"{key}.alpha": torch.tensor(ALPHA),
        }
    return found


def peft(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """As diffusers writes one: `unet.`, and peft's names of the factors."""
    found: dict[str, Tensor] = {}
    for seed, (name, layer) in enumerate(changed_layers(unet).items()):
        down, up = factors(layer, 2 * seed)
        found |= {
            f"unet.{name}.lora_A.weight": down,
            f"unet.{name}.lora_B.weight": up * ALPHA / RANK,
        }
    return found


LAYOUTS: dict[str, Callable[[UNet2DConditionModel], dict[str, Tensor]]] = {
    "kohya": kohya,
    "peft": peft,
}


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def entry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    folder = tmp_path_factory.mktemp(request.param) / request.param
    made = (write_tiny_model if request.param == "sd15" else write_tiny_sdxl)(folder)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    loras = {}
    for layout, written in LAYOUTS.items():
        save_file(written(unet), folder / f"{layout}.safetensors")
        loras[layout] = LoraEntry(file=f"{layout}.safetensors")
    return replace(made, loras=loras, inpaint_adapter=None)


def oracle_of(entry: CatalogEntry, **parts: Any) -> Any:
    if entry.folder.name == "sd15":
        return loaded(StableDiffusionPipeline, entry, **parts)
    return loaded_xl(StableDiffusionXLPipeline, entry, **parts)


def expected(oracle: Any, entry: CatalogEntry, few: FewStep) -> Tensor:
    return theirs(
        oracle,
        entry,
        few.sampler,
        scale=0.7,
        noise_levels=NOISE_LEVELS.get(few.noise_schedule, {}),
        guidance_scale=few.guidance,
        num_inference_steps=few.steps,
        ip_adapter_image=reference().image,
    )


SETTINGS = {
    (few.sampler, few.steps): few
    for loras in LORAS.values()
    for few in (lora.few_step for lora in loras.values())
    if few is not None
}


@pytest.fixture(scope="module")
def loaded_model(entry: CatalogEntry) -> Any:
    return ip.load(entry, device="cpu", dtype="float32")._model


@pytest.fixture(scope="module", params=LAYOUTS)
def with_lora(request: pytest.FixtureRequest, entry: CatalogEntry) -> tuple[str, Any]:
    """A layout, and diffusers' pipeline with the LoRA of it fused."""
    oracle = oracle_of(entry)
    oracle.load_lora_weights(str(entry.folder), weight_name=f"{request.param}.safetensors")
    oracle.fuse_lora()
    return request.param, oracle


@pytest.mark.parametrize("few", SETTINGS.values(), ids=str)
def test_it_draws_what_diffusers_draws(
    entry: CatalogEntry,
    loaded_model: Any,
    with_lora: tuple[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    few: FewStep,
) -> None:
    """With an image prompt."""
    layout, oracle = with_lora
    ours = pixels_of(ImagePromptPipeline(loaded_model), monkeypatch)
    asked = request(references=(reference(),), image_scale=0.7, **few.fields)
    drawn = ours(replace(asked, loras=(Lora(name=layout),)))
    assert_same(drawn, expected(oracle, entry, few), tolerance=1e-4)
    assert (drawn - ours(asked)).abs().max() > 1e-2, "the LoRA changes the picture"


def test_a_whole_unet_in_one_file(
    entry: CatalogEntry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As SDXL-Lightning's: diffusers' keys, configured as the base's."""
    xl = entry.folder.name == "sdxl"
    config = UNet2DConditionModel.load_config(entry.folder / "unet")
    torch.manual_seed(5)
    unet = UNet2DConditionModel.from_config(config)
    file = tmp_path / "sdxl_lightning_4step_unet.safetensors"
    save_file(unet.state_dict(), file)
    few = FewStep(steps=4, sampler="euler", noise_schedule="trailing")
    pipeline = ip.load(entry, device="cpu", dtype="float32", unet=file)
    ours = pixels_of(pipeline, monkeypatch)
    asked = request(references=(reference(),), image_scale=0.7, **few.fields)
    assert_same(ours(asked), expected(oracle_of(entry, unet=unet.eval()), entry, few))
    assert any(file.name in name for name in pipeline.provenance["weights"])
    assert not any(name.startswith("unet/") for name in pipeline.provenance["weights"])
    in_entry = ip.load(replace(entry, unet=str(file)), device="cpu", dtype="float32")
    assert in_entry.generate(asked).images == pipeline.generate(asked).images
    assert xl == (len(pipeline._model.text.encoders) == 2)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"conv_in.weight": noise(1, 8, 4, 3, 3)}, "the weights lack "),
        ({"lora_unet_a.lora_up.weight": noise(1, 2, 2)}, "holds a LoRA, where a UNet"),
        ({"model.diffusion_model.input_blocks.0.0.weight": noise(1, 2)}, "a whole model: give it"),
        ({"a": noise(1, 2)}, "holds something else, where a UNet in diffusers' layout is needed"),
    ],
)
def test_what_is_no_unet_is_named(
    entry: CatalogEntry, tmp_path: Path, tensors: dict[str, Tensor], said: str
) -> None:
    file = tmp_path / "other.safetensors"
    save_file(tensors, file)
    with pytest.raises(ModelError, match=f"unet: other.safetensors.*{said}"):
        ip.load(entry, device="cpu", unet=file)
    with pytest.raises(ModelError, match=r"unet must be a \.safetensors file that is there"):
        ip.load(entry, device="cpu", unet=tmp_path / "missing.safetensors")


@pytest.mark.parametrize(("family", "name"), ALL)
def test_the_catalogue_names_files_settings_and_sums(family: str, name: str) -> None:
    lora = LORAS[family][name]
    assert isinstance(lora.file, Hub)
    assert lora.few_step is not None
    (file,) = lora.file.files
    assert file.endswith(".safetensors")
    assert len(lora.file.revision or "") == 40
    assert len(lora.file.sha256[file]) == 64
    assert lora.few_step.guidance == 1.0
    GenerateRequest(**lora.few_step.fields)  # a sampler with a noise schedule that it takes
    check_sampling(lora.few_step.sampler, lora.few_step.noise_schedule, lora.few_step.steps)
    steps = [int(part) for part in name.split("-")[1:]]
    assert steps in ([], [lora.few_step.steps])


def test_names_of_files_are_the_published_ones() -> None:
    names = {f.files[0] for f in (lora.file for lora in SDXL_LORAS.values()) if isinstance(f, Hub)}
    assert {
        "Hyper-SDXL-1step-lora.safetensors",
        "Hyper-SDXL-8steps-lora.safetensors",
        "sdxl_lightning_4step_lora.safetensors",
        "pytorch_lora_weights.safetensors",
    } <= names


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_one_on_the_hub_is_read_when_it_is_first_asked_for(tmp_path: Path, name: str) -> None:
    """From a folder that mirrors the hub; before, nothing of it need be there."""
    models = tmp_path / "models"
    published = write_published(models, name)
    pipeline = ip.load(name, device="cpu", dtype="float32", models_dir=models)
    assert set(pipeline.info.loras) == set(LORAS[name])
    assert not any(pipeline.info.loras.values())
    few = pipeline.info.few_step_loras["lcm"]
    asked = GenerateRequest(
        references=(Reference(image=picture(1)),), width=64, height=64, **few.fields
    )
    plain = pipeline.generate(asked)
    hub = published.loras["lcm"].file
    assert isinstance(hub, Hub)
    with pytest.raises(ModelError, match=rf"missing .*: pytorch_lora_weights.* of {hub.repo}"):
        pipeline.generate(replace(asked, loras=(Lora(name="lcm"),)))
    unet = (tiny_sdxl_unet if name == "sdxl" else tiny_sd15_unet)()
    (models / hub.repo).mkdir(parents=True)
    save_file(kohya(unet), models / hub.repo / hub.files[0])
    result = pipeline.generate(replace(asked, loras=(Lora(name="lcm"),)))
    assert result.images != plain.images
    assert len(result.provenance["weights"]["lora/lcm"]) == 64


@pytest.mark.parametrize(
    ("name", "steps", "sampler"),
    [
        ("sdxl-lightning-2", 2, "euler"),
        ("sdxl-lightning-4", 4, "euler"),
        ("sdxl-lightning-8", 8, "euler"),
        ("sdxl-turbo", 4, "euler_a"),
    ],
)
def test_whole_models_bring_their_settings(
    tmp_path: Path, name: str, steps: int, sampler: str
) -> None:
    models = tmp_path / "models"
    published = write_published(models, name)
    if published.unet is not None:  # the base's own is not wanted
        (models / published.base.repo / "unet/diffusion_pytorch_model.fp16.safetensors").unlink()
        with pytest.raises(ModelError, match=f"base goes with .* not with {name}: take sdxl"):
            ip.load(name, device="cpu", models_dir=models, base=str(models / published.base.repo))
    pipeline = ip.load(name, device="cpu", dtype="float32", models_dir=models)
    fields = pipeline.info.fields_beside({"references": ("r",)})
    assert (fields["steps"], fields["guidance"], fields["sampler"]) == (steps, 1.0, sampler)
    assert fields["noise_schedule"] == "trailing"
    result = pipeline.generate(
        GenerateRequest(references=(Reference(image=picture(1)),), width=64, height=64, **fields)
    )
    assert not [note for note in result.warnings if note.startswith("steps")]
    assert PUBLISHED[name].loras == {}


TURBO = ModelInfo(
    name="turbo",
    native_size=64,
    recommended=PUBLISHED["sdxl-turbo"].recommended,
    adapters=("base",),
    structures={},
    loras={"few": 0.0},
    few_step_loras={"few": FewStep(steps=2, sampler="ddim", noise_schedule="trailing")},
    layer_presets={},
    words=(),
    note="",
)


class TestAnotherSampler:
    """That does not take the schedule which the model recommends, and nobody asked for."""

    @pytest.mark.parametrize("sampler", ["lcm", "tcd"])
    @pytest.mark.parametrize("loras", [{}, {"loras": (Lora(name="few"),)}], ids=["model", "lora"])
    def test_on_the_command_line(self, sampler: str, loras: dict[str, Any]) -> None:
        assert start_of(None, {"sampler": sampler} | loras, TURBO).noise_schedule == "default"
        assert start_of(None, {"sampler": "euler"} | loras, TURBO).noise_schedule == "trailing"
        assert start_of(None, loras, TURBO).noise_schedule == "trailing"
        given = {"sampler": sampler, "noise_schedule": "trailing"}
        with pytest.raises(ip.RequestError, match="noise_schedule must be default for the sampler"):
            start_of(None, given | loras, TURBO)

    def test_beside_what_another_program_says(self) -> None:
        found = ForeignSettings(
            program="A1111", fields={"sampler": "euler"}, adapter=None, loras=(), left=()
        )
        assert start_of(found, {"sampler": "lcm"}, TURBO).sampler == "lcm"

    @pytest.mark.parametrize(
        ("document", "schedule"),
        [
            ({"columns": {"sampler": ["lcm", "tcd"]}}, "default"),
            ({"columns": {"sampler": ["euler", "lcm"]}}, "default"),
            ({"columns": {"sampler": ["euler", "ddim"]}}, "trailing"),
            ({"columns": {"seed": [1]}, "request": {"sampler": "lcm"}}, "default"),
            ({"columns": {"seed": [1]}}, "trailing"),
        ],
    )
    def test_in_a_comparison(self, document: dict[str, Any], schedule: str) -> None:
        """Cells differ in what is named, and in nothing else."""
        spec = completed(spec_from_document(document, lambda name: b""), TURBO)
        cells = grid_from_spec(spec, TURBO).cells
        assert {cell.planned.noise_schedule for cell in cells} == {schedule}


FEW = FewStep(steps=3, sampler="lcm", guidance=1.5)


def few_step_pipeline(entry: CatalogEntry) -> ip.ImagePromptPipeline:
    loras = {
        "lcm": LoraEntry(file="kohya.safetensors", few_step=FEW),
        "style": "peft.safetensors",
    }
    return ip.load(replace(entry, loras=loras), device="cpu", dtype="float32")


def test_a_request_of_the_command_line_takes_its_settings(entry: CatalogEntry) -> None:
    info = few_step_pipeline(entry).info
    assert info.few_step_loras == {"lcm": FEW}
    plain = info.recommended.fields_beside({})
    assert info.fields_beside({}) == info.fields_beside({"loras": ()}) == plain
    assert info.fields_beside({"loras": (Lora(name="style"),)}) == plain
    off = (Lora(name="lcm", weight=0.0),)
    assert info.fields_beside({"loras": off}) == plain
    both = (Lora(name="style"), Lora(name="lcm", weight=0.8))
    assert info.fields_beside({"loras": both}) == plain | FEW.fields


def test_few_steps_are_no_mistake_with_it(entry: CatalogEntry) -> None:
    pipeline = few_step_pipeline(entry)
    recommended = replace(pipeline.info.recommended, steps=20)
    model = replace(pipeline._model, entry=replace(pipeline._model.entry, recommended=recommended))
    asked = GenerateRequest(prompt="a", steps=2, sampler="euler", width=64, height=64)

    def noted(request: GenerateRequest) -> bool:
        notes = ip.ImagePromptPipeline(model).generate(request).warnings
        return any(note.startswith("steps: 2 of them") for note in notes)

    assert noted(asked)
    assert noted(replace(asked, loras=(Lora(name="style"),)))
    assert not noted(replace(asked, loras=(Lora(name="lcm"),)))


def test_choosing_it_on_the_page_sets_them(entry: CatalogEntry) -> None:
    """And taking it away brings back the model's own; another LoRA changes nothing."""
    pipeline = few_step_pipeline(entry)
    manager, recommended = ModelManager(pipeline), pipeline.info.recommended
    with gr.Blocks() as page:
        model = model_input(manager)
        tab = build_tab(manager, model, TABS["variation"])
        on_few_step(manager, model, tab.inputs, tab.tab.recommended)
    [choose] = [f for f in page.fns.values() if getattr(f.fn, "__name__", "") == "chosen"]

    def picked(value: str, selected: bool = True) -> dict[str, Any]:
        event = gr.SelectData(None, {"index": 0, "value": value, "selected": selected})
        names = {widget: name for name, widget in tab.inputs.items()}
        updates = choose.fn(event, pipeline.info.name)
        return {names[widget]: change["value"] for widget, change in updates.items()}

    assert picked("lcm") == FEW.fields
    assert picked("lcm:0.8") == FEW.fields
    assert picked("style") == {}
    assert picked("lcm", selected=False) == {
        "steps": recommended.steps,
        "guidance": recommended.guidance,
        "sampler": "dpm++",
        "noise_schedule": "default",
    }


def test_inpainting_takes_no_step_twice_then(entry: CatalogEntry) -> None:
    """Only DDIM can, and the LoRA is for another sampler."""
    pipeline = few_step_pipeline(entry)
    manager = ModelManager(pipeline)
    with gr.Blocks() as page:
        model = model_input(manager)
        tab = build_tab(manager, model, TABS["inpaint"])
        on_few_step(manager, model, tab.inputs, tab.tab.recommended)
    [choose] = [f for f in page.fns.values() if getattr(f.fn, "__name__", "") == "chosen"]
    event = gr.SelectData(None, {"index": 0, "value": "lcm", "selected": True})
    updates = choose.fn(event, pipeline.info.name)
    assert updates[tab.inputs["repaint_passes"]]["value"] == 1
    assert updates[tab.inputs["sampler"]]["value"] == FEW.sampler


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")
@pytest.mark.filterwarnings("ignore:The copy keyword is deprecated")
@pytest.mark.parametrize("entry", ["sd15"], indirect=True)
def test_a_visitor_chooses_it(entry: CatalogEntry, browser: Browser) -> None:
    pipeline = few_step_pipeline(entry)
    settings = Settings(port=free_port())
    page = build_ui(ModelManager(pipeline), settings)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options(settings))
    try:
        with visit(browser, url) as visited:
            panel = open_tab(visited, "Variation")
            steps = panel.get_by_label("number input for Steps")
            loras = open_section(panel, "Advanced", "LoRAs")
            sampler, clear = panel.get_by_label("Sampler", exact=True), panel.get_by_title("Clear")
            for chosen, take_away in (
                (["lcm"], lambda: loras.press("Backspace")),
                (["lcm", "style"], lambda: clear.click()),
                (["style", "lcm"], lambda: clear.press("Enter")),
            ):
                for name in chosen:
                    loras.click()
                    visited.get_by_role("option", name=name).click()
                expect(steps).to_have_value(str(FEW.steps))
                expect(sampler).to_have_value("lcm")
                take_away()
                expect(sampler).to_have_value(pipeline.info.recommended.sampler)
                expect(steps).to_have_value(str(pipeline.info.recommended.steps))
                expect(clear).to_have_count(0)
    finally:
        page.close()
