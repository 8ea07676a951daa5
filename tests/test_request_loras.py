"""LoRAs of a request: in the weights while it is drawn, and in nobody else's pictures.

Law 9: afterwards the weights are those that they were. Law 3: whoever draws beside it."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops
from safetensors.torch import load_file, save_file
from torch import Tensor

import ipadapter_demo as ip
from benchmarks.ports import free_port
from ipadapter_demo import cli
from ipadapter_demo.compare import Bundle
from ipadapter_demo.lora import Lora, loras_from_text, loras_from_texts, texts_from_loras
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.weight_hashes import record_hashes
from ipadapter_demo.models.weights import tensors_from_file
from ipadapter_demo.pipeline import ImagePromptPipeline, Preview, Result
from ipadapter_demo.record import (
    record_from_png,
    request_from_json,
    request_from_png,
    request_to_json,
)
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch_options
from ipadapter_demo.ui.widgets.loras import loras_properties
from tests.test_ui import Api, Failed
from tests.tiny import noise, picture, write_tiny_model

ASKED = GenerateRequest(
    prompt="a red cube",
    references=(Reference(image=picture(1)),),
    steps=2,
    guidance=3.0,
    width=64,
    height=64,
)
STYLE, OTHER = (Lora(name="style", weight=0.7),), (Lora(name="other"),)


def kohya(unet_layer: str, width: int, text_width: int | None, seed: int) -> dict[str, Tensor]:
    """A LoRA of one layer of the UNet, and of one of the text encoder where it is to have one."""
    layers = {f"lora_unet_{unet_layer}": width}
    if text_width is not None:
        layers["lora_te_text_model_encoder_layers_0_self_attn_q_proj"] = text_width
    return {
        key: tensor
        for number, (layer, size) in enumerate(layers.items())
        for key, tensor in {
            f"{layer}.lora_up.weight": noise(seed + number, size, 2),
            f"{layer}.lora_down.weight": noise(seed + number + 1, 2, size),
        }.items()
    }


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    """With two LoRAs, the first of which changes the text encoder too."""
    made = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    pipeline = ip.load(made, device="cpu", dtype="float32")._model
    layer = "mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    width = pipeline.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    text = pipeline.text.encoders[0].config.hidden_size
    save_file(kohya(layer, width.in_features, text, 3), made.folder / "style.safetensors")
    save_file(kohya(layer, width.in_features, None, 9), made.folder / "other.safetensors")
    return made


@pytest.fixture(scope="module")
def pipeline(entry: CatalogEntry) -> ImagePromptPipeline:
    files = {name: f"{name}.safetensors" for name in ("style", "other")}
    return ip.load(replace(entry, loras=files), device="cpu", dtype="float32")


def loaded_with(entry: CatalogEntry, *loras: Lora) -> ImagePromptPipeline:
    files = tuple((entry.folder / f"{lora.name}.safetensors", lora.weight) for lora in loras)
    return ip.load(entry, device="cpu", dtype="float32", loras=files)


def pixels(pipeline: ImagePromptPipeline, request: GenerateRequest) -> bytes:
    return pipeline.generate(request).images[0].tobytes()


def weights(pipeline: ImagePromptPipeline) -> list[Tensor]:
    model = pipeline._model
    return [p.clone() for n in (model.unet, *model.text.encoders) for p in n.parameters()]


def test_going_back_and_forth_reads_a_file_once(
    pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a page does that goes from Live to the whole result and back."""
    read: list[Path] = []

    def noted(path: Path) -> dict[str, Tensor]:
        read.append(path)
        return tensors_from_file(path)

    monkeypatch.setattr("ipadapter_demo.models.loras.tensors_from_file", noted)
    styled, plain = (
        replace(ASKED, loras=(Lora(name="style", weight=0.31),)),
        replace(ASKED, loras=()),
    )
    drawn = [pipeline.generate(request).images[0] for request in (styled, plain) * 3]
    assert len(read) == 1
    assert drawn[0].tobytes() == drawn[2].tobytes() == drawn[4].tobytes()
    assert drawn[1].tobytes() == drawn[3].tobytes() == drawn[5].tobytes()
    assert drawn[0].tobytes() != drawn[1].tobytes()


def test_a_request_gets_its_own_and_the_next_none_of_them(
    entry: CatalogEntry, pipeline: ImagePromptPipeline
) -> None:
    """Laws 3 and 9."""
    plain, before = pixels(ip.load(entry, device="cpu", dtype="float32"), ASKED), weights(pipeline)
    assert pixels(pipeline, ASKED) == plain
    both = (*STYLE, *OTHER)
    for chosen in (STYLE, OTHER, both):
        expected = pixels(loaded_with(entry, *chosen), ASKED)
        assert expected != plain
        assert pixels(pipeline, replace(ASKED, loras=chosen)) == expected
        assert pixels(pipeline, ASKED) == plain
    assert all(map(torch.equal, weights(pipeline), before))
    off = (Lora(name="style", weight=0.0),)
    assert pixels(pipeline, replace(ASKED, loras=off)) == plain


def test_requests_whose_steps_alternate_do_not_see_each_other(
    pipeline: ImagePromptPipeline,
) -> None:
    """Law 3."""
    asked = [ASKED, replace(ASKED, loras=STYLE), replace(ASKED, loras=OTHER, seed=5)]
    expected = [pixels(pipeline, request) for request in asked]
    streams = [pipeline.stream(request) for request in asked]
    events: list[list[Preview | Result]] = [[], [], []]
    for _ in range(3):
        for stream, seen in zip(streams, events, strict=True):
            seen.append(next(stream))
    assert [seen[-1].images[0].tobytes() for seen in events] == expected


def test_those_loaded_with_the_model_are_its_usual_ones(entry: CatalogEntry) -> None:
    model = loaded_with(entry, *STYLE)
    assert model.info.loras == {"style": 0.7}
    result = model.generate(ASKED)
    assert result.request.loras == STYLE
    assert len(result.provenance["weights"]["lora/style"]) == 64
    plain = ip.load(entry, device="cpu", dtype="float32")
    none = model.generate(replace(ASKED, loras=()))
    assert none.images[0].tobytes() == pixels(plain, ASKED)
    assert "lora/style" not in none.provenance["weights"]


def test_an_unknown_one_is_named(entry: CatalogEntry, pipeline: ImagePromptPipeline) -> None:
    said = r"lora must be one of those of the model \(style, other\), got 'manga'"
    with pytest.raises(ip.RequestError, match=said):
        pipeline.generate(replace(ASKED, loras=(Lora(name="manga"),)))
    with pytest.raises(ip.ModelError, match="lora: two files would be called style: rename one"):
        loaded_with(entry, *STYLE, *STYLE)
    with pytest.raises(ip.ModelError, match=r"one of the model's \(it has none\), got 'style'"):
        ip.load(entry, device="cpu", loras=((Path("style"), 1.0),))


def test_one_that_does_not_fit_leaves_the_model_as_it_was(entry: CatalogEntry) -> None:
    bad = entry.folder / "bad.safetensors"
    save_file(kohya("mid_block_attentions_0_nothing", 8, None, 1), bad)
    files = {"style": "style.safetensors", "bad": bad.name}
    model = ip.load(replace(entry, loras=files), device="cpu", dtype="float32")
    before = weights(model)
    wrong = replace(ASKED, loras=(*STYLE, Lora(name="bad")))
    with pytest.raises(
        ip.ModelError, match=r"bad\.safetensors does not fit this model: it changes"
    ):
        model.generate(wrong)
    assert all(map(torch.equal, weights(model), before))


def test_records_hold_them() -> None:
    asked = replace(ASKED, loras=(*STYLE, *OTHER))
    assert request_from_json(json.dumps(request_to_json(asked))) == asked
    old = json.loads(json.dumps(request_to_json(ASKED)))
    del old["request"]["loras"]
    assert request_from_json(old).loras is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"weight": 11.0}, r"lora\.weight must be from -10 to 10, got 11"),
        ({"weight": "strong"}, r"lora\.weight must be"),
        ({"name": 3}, r"lora\.name must be"),
    ],
)
def test_a_bad_one_names_the_field(given: dict[str, object], said: str) -> None:
    with pytest.raises(ip.RequestError, match=said):
        Lora(**{"name": "style", **given})


def test_on_the_command_line(
    entry: CatalogEntry,
    pipeline: ImagePromptPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file, or a name; and an output made again with its own, or with others."""
    known = {"tiny": replace(entry, loras={"other": "other.safetensors"})}
    monkeypatch.setattr("ipadapter_demo.pipeline.CATALOG", known)
    style, out = entry.folder / "style.safetensors", tmp_path / "out"

    def generated(*words: str) -> Path:
        common = ("--model", "tiny", "--device", "cpu", "--dtype", "float32", "--out", str(out))
        capsys.readouterr()
        status = cli.main(["generate", *words, *common])
        printed, error = capsys.readouterr()
        assert status == 0, error
        return Path(json.loads(printed)["path"])

    record_hashes(entry.folder)
    picture(1).save(tmp_path / "R.png")
    size = ("--width", "64", "--height", "64", "--steps", "2")
    first = generated("--reference", str(tmp_path / "R.png"), "--lora", f"{style}:.7", *size)
    assert request_from_png(first).loras == STYLE
    second = generated("--from-png", str(first), "--lora", str(style))
    assert request_from_png(second).loras == (Lora(name="style"),)
    third = generated("--from-png", str(first), "--lora", "other:-0.5")
    assert request_from_png(third).loras == (Lora(name="other", weight=-0.5),)
    assert cli.main(["generate", "--from-png", str(first), "--model", "tiny"]) == 2
    assert "got 'style': load its file with the model" in capsys.readouterr().err


def test_on_the_page_they_are_names_with_weights(
    entry: CatalogEntry, pipeline: ImagePromptPipeline
) -> None:
    chosen = (Lora(name="style", weight=0.7), Lora(name="other"), Lora(name="a b", weight=-0.5))
    texts = ["style:0.7", "other", "a b:-0.5"]
    assert texts_from_loras(chosen) == texts
    assert loras_from_texts(texts) == chosen
    assert loras_from_texts([" style : 0.7"]) == STYLE
    assert loras_from_texts([]) == loras_from_texts(None) == ()
    with pytest.raises(ip.RequestError, match=r"loras must be names, .* got 'style:much'"):
        loras_from_texts(["style:much"])
    shown = {"choices": ["style", "other"], "value": [], "visible": True}
    assert loras_properties(pipeline.info) == shown
    usual = loras_properties(loaded_with(entry, *STYLE).info)
    assert usual == {"choices": ["style"], "value": ["style:0.7"], "visible": True}
    plain = ip.load(entry, device="cpu", dtype="float32").info
    assert loras_properties(plain)["visible"] is False


@pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")
@pytest.mark.filterwarnings("ignore:The copy keyword is deprecated")
@pytest.mark.parametrize("text", ["style:50", "style:nan"])
def test_a_weight_out_of_range_says_the_range(text: str) -> None:
    with pytest.raises(ip.RequestError, match=r"^lora\.weight must be from -10 to 10, got "):
        loras_from_texts([text])


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        *((0.7, ":0.7"), (1.0, ""), (2, ":2"), (-10.0, ":-10"), (1e-5, ":1e-05")),
        *((0.1 + 0.2, ":0.30000000000000004"), (1e-7 / 3, ":3.3333333333333334e-08")),
    ],
)
def test_a_weight_comes_back_as_it_was(weight: float, said: str) -> None:
    chosen = (Lora(name="style", weight=weight),)
    texts = texts_from_loras(chosen)
    assert texts == [f"style{said}"]
    assert loras_from_texts(texts) == chosen


def test_over_http(pipeline: ImagePromptPipeline) -> None:
    settings = Settings(port=free_port())
    page = build_ui(ModelManager(pipeline), settings)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options(settings))
    try:
        api = Api(url)
        file = io.BytesIO()
        picture(1).save(file, "PNG")
        uploaded = api.upload(file.getvalue())
        for given, chosen in ((["style:0.7"], STYLE), ([], ())):
            [png] = api.pngs("variation", reference=uploaded, loras=given)
            assert request_from_png(png).loras == chosen
        with pytest.raises(Failed, match="lora must be one of those of the model"):
            api.call("variation", reference=uploaded, loras=["manga"])
        api.http.close()
    finally:
        page.close()


@pytest.mark.parametrize("given", [None, ["other:0.5"], []])
def test_in_a_comparison(entry: CatalogEntry, tmp_path: Path, given: list[str] | None) -> None:
    """Laws 3 and 12: a cell says which it has, those of the model where the spec names none."""
    model = ip.load(
        replace(entry, loras={"other": "other.safetensors"}),
        device="cpu",
        dtype="float32",
        loras=((entry.folder / "style.safetensors", 0.7),),
    )
    picture(1).save(tmp_path / "R.png")
    request = {"references": [{"image": "R.png"}], "steps": 2, "width": 64, "height": 64}
    spec = {
        "title": "loras",
        "request": request | ({} if given is None else {"loras": given}),
        "columns": {"image_scale": [0.5, 1]},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    out = tmp_path / "out"
    bundle = ip.draw_comparison(tmp_path / "spec.json", out, model)
    loras = STYLE if given is None else loras_from_texts(given)
    for number in (1, 2):
        cell = out / "cells" / f"p1-r1-c{number}.png"
        asked = request_from_png(cell)
        assert asked.loras == loras
        alone = model.generate(asked).images[0]  # the cells shared a batch
        _, high = zip(*ImageChops.difference(Image.open(cell), alone).getextrema(), strict=True)
        assert max(high) <= 1
    before = bundle.read_bytes()
    assert ip.draw_comparison(tmp_path / "spec.json", out, model).read_bytes() == before


def test_as_an_axis_of_a_comparison(entry: CatalogEntry, tmp_path: Path) -> None:
    """Cells, and the manifest for all of them, name the file of each by its SHA-256."""
    files = {name: entry.folder / f"{name}.safetensors" for name in ("style", "other")}
    here = {name: shutil.copy(path, tmp_path) for name, path in files.items()}
    sums = {f"lora/{name}": sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    model = ip.load(replace(entry, loras=here), device="cpu", dtype="float32")
    spec = {
        "request": {"prompt": "a red cube", "steps": 2, "width": 64, "height": 64},
        "columns": {"loras": ["none", "style:0.7", "style:0.7, other", "manga"]},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    out = tmp_path / "out"
    ip.draw_comparison(tmp_path / "spec.json", out, model)
    manifest = json.loads((out / "manifest.json").read_text())
    *drawn, unknown = manifest["cells"]
    assert [cell["heads"][2] for cell in drawn] == ["no LoRA", "style:0.7", "style:0.7, other"]
    assert "lora must be one of those of the model (style, other), got 'manga'" in unknown["error"]
    assert sums.items() <= manifest["models"]["tiny"]["weights"].items()
    chosen = [(), STYLE, (*STYLE, *OTHER)]
    for cell, loras in zip(drawn, chosen, strict=True):
        record = record_from_png(out / cell["file"])
        assert record.request.loras == loras
        named = {n: s for n, s in record.provenance["weights"].items() if n.startswith("lora/")}
        assert named == {name: sums[name] for name in named}
        assert set(named) == {f"lora/{lora.name}" for lora in loras}
        assert Image.open(out / cell["file"]).tobytes() == pixels(model, record.request)
    caption = (out / "figure.tex").read_text()
    assert "Columns: no LoRA, style:0.7, style:0.7, other, manga" in caption

    # the same file again: nothing is drawn, nothing differs; another under its name: its cells are
    manager = ModelManager(model)
    assert Bundle(out).changes(manager) == []
    ages = {cell["name"]: (out / cell["file"]).stat().st_mtime_ns for cell in drawn}
    changed = {name: tensor + 1 for name, tensor in load_file(here["other"]).items()}
    save_file(changed, here["other"])
    assert Bundle(out).changes(manager)[0].startswith("tiny: weights was ")
    reloaded = ip.load(replace(entry, loras=here), device="cpu", dtype="float32")
    ip.draw_comparison(tmp_path / "spec.json", out, reloaded)
    again = [c["name"] for c in drawn if (out / c["file"]).stat().st_mtime_ns != ages[c["name"]]]
    assert again == ["p1-r1-c3"]


def test_shared_ones_are_in_the_caption(entry: CatalogEntry, tmp_path: Path) -> None:
    model = loaded_with(entry, *STYLE)
    request = {"prompt": "a red cube", "steps": 1, "width": 64, "height": 64}
    (tmp_path / "spec.json").write_text(
        json.dumps({"request": request, "columns": {"seed": [1, 2]}})
    )
    ip.draw_comparison(tmp_path / "spec.json", tmp_path / "out", model)
    assert "the LoRA style:0.7" in (tmp_path / "out" / "figure.tex").read_text()


def test_a_text_of_several() -> None:
    assert loras_from_text(" none ") == loras_from_text("none") == ()
    assert loras_from_text("style:0.7, other") == (*STYLE, *OTHER)
    with pytest.raises(ip.RequestError, match=r"loras must be names, .* got ' a:much'"):
        loras_from_text("style, a:much")
