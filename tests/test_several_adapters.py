"""Several image adapters in one picture: each reference has its own, with its own layers."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image

import ipadapter_demo as ip
from ipadapter_demo.adapter import cross_attention_layers
from ipadapter_demo.cli import main
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.models.base_model import BaseModel, load_base_model
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.record import request_from_json, request_to_json
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.settings import load_options, settings_from_args
from tests.oracle import assert_same, loaded, pixels_of, reference, request, theirs
from tests.published import write_published
from tests.tiny import box_mask, picture, tiny_vision_encoder, write_tiny_sdxl

BOTH = ("base", "plus")


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    return write_tiny_sdxl(tmp_path_factory.mktemp("models") / "xl")


@pytest.fixture(params=["SD 1.5", "SDXL"])
def case(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, Any, CatalogEntry, BaseModel]:
    """(request -> our pixels, diffusers' pipeline, the model's entry, the model)."""
    if request.param == "SD 1.5":
        entry, model = request.getfixturevalue("entry"), request.getfixturevalue("model")
        model = replace(model, inpaint_adapter=None)
        oracle = loaded(StableDiffusionPipeline, entry)
    else:
        entry = request.getfixturevalue("xl")
        model = load_base_model(entry, "cpu", torch.float32)
        oracle = loaded(StableDiffusionXLPipeline, entry)
        oracle.register_modules(image_encoder=model.vision, feature_extractor=model.image_processor)
    return pixels_of(ImagePromptPipeline(model), monkeypatch), oracle, entry, model


def pair(**plus: Any) -> tuple[Reference, Reference]:
    """A picture that the first adapter reads, and one that Plus reads."""
    return reference(1, weight=0.8), reference(2, adapter="plus", weight=0.5, **plus)


def test_diffusers_draws_the_same_with_two_adapters(case: Any) -> None:
    """Law 4: `load_ip_adapter` with two files, each with its scale and its picture."""
    ours, oracle, entry, _ = case
    one, other = pair()
    expected = theirs(
        oracle,
        entry,
        scale=[0.8, 0.5],
        adapter=BOTH,
        ip_adapter_image=[one.image, other.image],
    )
    assert_same(ours(request(references=(one, other))), expected, tolerance=2e-5)


def test_diffusers_draws_the_same_with_layers_of_each(case: Any) -> None:
    """One adapter acts on the way up, the other on the way down and in the middle."""
    ours, oracle, entry, model = case
    names = list(cross_attention_layers(model.unet))
    up, down = (tuple(float(n.startswith(w)) for n in names) for w in ("up", ("down", "mid")))
    one, other = pair(layers=down)
    expected = theirs(
        oracle,
        entry,
        scale=[{"up": 0.8}, {"down": 0.5, "mid": 0.5}],
        adapter=BOTH,
        ip_adapter_image=[one.image, other.image],
    )
    given = request(references=(replace(one, layers=up), other))
    assert_same(ours(given), expected, tolerance=2e-5)


def test_without_strength_both_are_the_base_model_bit_for_bit(case: Any) -> None:
    """Law 1."""
    ours, _, _, _ = case
    base = ours(request())
    one, other = pair()
    none = ours(request(references=(replace(one, weight=0), replace(other, weight=0))))
    assert torch.equal(ours(request(references=(one, other), image_scale=0)), base)
    assert torch.equal(none, base)
    assert not torch.equal(ours(request(references=(one, other))), base)


def test_the_order_of_references_does_not_matter(case: Any) -> None:
    ours, _, _, _ = case
    three = (*pair(), reference(3, mask=box_mask((0, 0, 32, 64)), adapter="plus"))
    first, *others = (ours(request(references=given)) for given in itertools.permutations(three))
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=4e-6)  # a sum's order


def test_the_adapter_of_the_request_is_the_same_named_or_not(pipeline: ImagePromptPipeline) -> None:
    """References of one adapter share a softmax, whoever names it."""
    plain = GenerateRequest(
        references=(Reference(image=picture(1)), Reference(image=picture(2))),
        adapter="plus",
        image_layers="ease in",
        steps=2,
    )
    named = replace(
        plain,
        references=(
            Reference(image=picture(1), adapter="plus", layers="ease in"),
            Reference(image=picture(2)),
        ),
    )
    one, other = (pipeline.generate(asked).images[0].tobytes() for asked in (plain, named))
    assert one == other


def test_a_negative_reference_is_that_of_its_adapter(case: Any) -> None:
    """In the unconditional half the other one still reads the empty picture."""
    ours, oracle, entry, _ = case
    one, other = pair()
    against = reference(3, adapter="plus", weight=0.5, negative=True)
    theirs(oracle, entry, scale=[0.8, 0.5], adapter=BOTH, ip_adapter_image=[one.image, other.image])
    first, second = oracle.prepare_ip_adapter_image_embeds(
        [one.image, other.image], None, "cpu", 1, True
    )
    _, third = oracle.prepare_ip_adapter_image_embeds(
        [one.image, against.image], None, "cpu", 1, True
    )
    mixed = torch.stack([third[1], second[1]])
    expected = theirs(oracle, entry, ip_adapter_image_embeds=[first, mixed])
    assert_same(ours(request(references=(one, other, against))), expected, tolerance=2e-5)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"adapter": "face"}, r"reference.adapter must be one of those of tiny \(base, plus\)"),
        ({"layers": (1.0, 0.5)}, "reference.layers must have a number for each of the"),
        ({"layers": "style"}, "reference.layers 'style' is known for SD 1.5 and SDXL only"),
    ],
)
def test_what_the_model_does_not_have_is_named(
    pipeline: ImagePromptPipeline, how: dict[str, Any], said: str
) -> None:
    given = Reference(image=picture(1), **how)
    with pytest.raises(RequestError, match=said):
        pipeline.generate(GenerateRequest(references=(given,), steps=2))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"adapter": 3}, "reference.adapter must be text, got 3"),
        ({"layers": "x"}, "reference.layers must be one of all, .*, got 'x'"),
        ({"layers": ()}, "reference.layers must be one of all"),
    ],
)
def test_what_is_no_adapter_and_no_layer_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Reference(image=picture(1), **how)


def test_layers_without_effect_are_said(pipeline: ImagePromptPipeline) -> None:
    layers = len(cross_attention_layers(pipeline._model.unet))
    asked = GenerateRequest(
        references=(Reference(image=picture(1), layers=(0.0,) * layers),),
        image_layers="ease in",
        steps=3,
    )
    assert pipeline.generate(asked).warnings == (
        "image_layers has no effect: each reference has layers of its own.",
        "reference.layers: all factors of reference 1 are 0: it has no effect.",
    )


def test_they_are_recorded() -> None:
    """Law 10."""
    asked = GenerateRequest(references=(*pair(layers=(0.5, 1.0)), *pair(layers="ease out")))
    assert request_from_json(json.loads(json.dumps(request_to_json(asked)))) == asked


def test_on_the_command_line(
    pipeline: ImagePromptPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(1).save("R.png")
    picture(2).save("S.png")
    words = "generate --reference R.png --reference S.png --reference-adapter - --steps 2"
    words += " --reference-adapter plus --reference-layers - --out out --reference-layers"
    assert main([*words.split(), "ease in"], lambda *_, **__: pipeline) == 0
    [line] = capsys.readouterr().out.splitlines()
    first, second = ip.request_from_png(json.loads(line)["path"]).references
    assert (first.adapter, first.layers) == (None, None)
    assert (second.adapter, second.layers) == ("plus", "ease in")


class TestOfTheCatalogue:
    def test_a_png_names_those_it_is_made_again_with(self, tmp_path: Path) -> None:
        """Law 10."""
        names = ("sd15", "sd15-plus")
        for name in names:
            write_published(tmp_path, name)
        places = {"models_dir": tmp_path, "device": "cpu", "dtype": "float32"}
        pipeline = load("sd15", adapters=names[1:], **places)
        given = Reference(image=picture(1), adapter="sd15-plus")
        drawn = pipeline.generate(GenerateRequest(references=(given,), steps=2))
        png, out = tmp_path / "made.png", tmp_path / "out"
        ip.save_png(png, drawn.images[0], drawn.request, 0, 0, drawn.provenance)
        words = f"generate --from-png {png} --out {out} --models-dir {tmp_path} --device cpu "
        assert main((words + "--dtype float32").split()) == 0
        assert np.array_equal(np.asarray(Image.open(out / "0.png")), np.asarray(drawn.images[0]))

    def test_three_are_loaded_side_by_side(self, tmp_path: Path) -> None:
        names = ("sd15", "sd15-plus", "sd15-full-face")
        for name in names:
            write_published(tmp_path, name)
        settings = settings_from_args(
            ["--model", "sd15", "--adapters", "sd15-plus, sd15-full-face"], {}
        )
        options = replace(load_options(settings), models_dir=tmp_path)
        pipeline = load("sd15", options, device="cpu", dtype="float32")
        assert pipeline.info.adapters == ("base", "sd15-plus", "sd15-full-face")
        asked = GenerateRequest(
            references=tuple(
                Reference(image=picture(k), adapter=name)
                for k, name in enumerate(pipeline.info.adapters, 1)
            ),
            steps=2,
        )
        drawn = pipeline.generate(asked)
        weights = drawn.provenance["weights"]
        assert isinstance(weights, dict)
        assert sum("ip-adapter" in name for name in weights) == 3
        alone = load("sd15-plus", models_dir=tmp_path, device="cpu", dtype="float32")
        only = replace(asked, references=(Reference(image=picture(2), adapter="sd15-plus"),))
        plain = replace(only, references=(Reference(image=picture(2)),))
        assert np.array_equal(pipeline.generate(only).images[0], alone.generate(plain).images[0])

    def test_each_reads_its_own_image_encoder(self, tmp_path: Path) -> None:
        for name in ("sd15", "sd15-vit-g"):
            model = write_published(tmp_path, name)
        other = tmp_path / model.image_encoder.repo / model.image_encoder.folder
        tiny_vision_encoder(seed=9).save_pretrained(other)
        places = {"models_dir": tmp_path, "device": "cpu", "dtype": "float32"}
        both, alone = load("sd15", adapters=("sd15-vit-g",), **places), load("sd15-vit-g", **places)
        given = Reference(image=picture(1), adapter="sd15-vit-g")
        drawn = both.generate(GenerateRequest(references=(given,), steps=2)).images[0]
        plain = GenerateRequest(references=(replace(given, adapter=None),), steps=2)
        assert np.array_equal(drawn, alone.generate(plain).images[0])
        assert not np.array_equal(drawn, both.generate(plain).images[0])
        saved = both.embeds_of(given, None)
        assert saved.encoder != both.embeds_of(replace(given, adapter=None), None).encoder

    @pytest.mark.parametrize(
        ("name", "beside", "said"),
        [
            ("sd15", "sdxl-plus", "adapters beside sd15 must be of sd15, .*, got 'sdxl-plus'"),
            ("sd15", "tabletop", "must be of"),
            ("tabletop", "sd15", "adapters go with a published model, and tabletop has its own"),
        ],
    )
    def test_others_are_refused_by_name(
        self, tmp_path: Path, name: str, beside: str, said: str
    ) -> None:
        if name in PUBLISHED:
            write_published(tmp_path, name)
        with pytest.raises(ModelError, match=said):
            load(name, adapters=(beside,), models_dir=tmp_path, device="cpu")
