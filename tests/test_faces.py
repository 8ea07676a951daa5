"""FaceID: projections, LoRA, embeds of faces, and the faces of a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image

import ipadapter_demo as ip
from ipadapter_demo.adapter import load_image_adapter, save_image_adapter
from ipadapter_demo.cli import main
from ipadapter_demo.compare import draw_comparison, spec_from_document
from ipadapter_demo.errors import CheckpointError, RequestError
from ipadapter_demo.models.base_model import load_base_model
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.faces import Face, chosen_face, numbered_faces
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.record import request_from_json, request_to_json
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.faces import shown_faces
from ipadapter_demo.ui.widgets.reference_slots import (
    face_properties,
    references_from_slots,
    slots_from_references,
)
from tests.faces import FACE_FILES, RECOGNISER, face_adapter, face_embeds, write_face_adapter
from tests.oracle import COUNT, assert_same, loaded, pixels_of, reference, request, theirs
from tests.test_oracle_sdxl import loaded_xl
from tests.tiny import (
    box_mask,
    picture,
    tiny_unet,
    tiny_vision_encoder,
    write_tiny_model,
    write_tiny_sdxl,
)

PLAIN, PORTRAIT, PLUS, PLUS_V2 = (Path(file).stem for file in FACE_FILES)
CUT = picture(8, 16, 16)  # an upright face, cut out


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    """A model of its own, whose weights a LoRA may change, with all adapters beside each other."""
    entry = write_tiny_model(tmp_path_factory.mktemp("faces"))
    unet = loaded(StableDiffusionPipeline, entry).unet
    files = {Path(file).stem: file for file in FACE_FILES}
    for file in FACE_FILES:
        write_face_adapter(entry.folder, unet, file)
    return replace(entry, adapters=entry.adapters | files, inpaint_adapter=None)


@pytest.fixture(scope="module")
def drawer(faces: CatalogEntry) -> ImagePromptPipeline:
    return ImagePromptPipeline(load_base_model(faces, "cpu", torch.float32))


def face_of(adapter: str, *seeds: int) -> Reference:
    """A face as the adapter reads it: Plus with a picture beside."""
    given = face_embeds(*seeds or (1,))
    return replace(reference(), embeds=given) if "plus" in adapter else Reference(embeds=given)


@pytest.mark.parametrize("adapter", [PLAIN, PORTRAIT, PLUS, PLUS_V2])
def test_diffusers_draws_the_same(
    drawer: ImagePromptPipeline,
    faces: CatalogEntry,
    adapter: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Law 4, with the projections and the LoRA of the same file."""
    expected = with_face(loaded(StableDiffusionPipeline, faces), faces, adapter)
    ours = pixels_of(drawer, monkeypatch)
    assert_same(ours(asked_with_face(adapter)), expected)


@pytest.mark.parametrize(
    "file", ["ip-adapter-faceid_sdxl.bin", "ip-adapter-faceid-plusv2_sdxl.bin"]
)
def test_diffusers_draws_the_same_with_sdxl(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = write_tiny_sdxl(tmp_path)
    oracle = loaded_xl(StableDiffusionXLPipeline, entry)
    write_face_adapter(entry.folder, oracle.unet, file)
    adapter = Path(file).stem
    entry = replace(entry, adapters={adapter: file})
    expected = with_face(oracle, entry, adapter)
    assert_same(pixels_of(load(entry), monkeypatch)(asked_with_face(adapter)), expected)


def asked_with_face(adapter: str) -> GenerateRequest:
    return request(references=(face_of(adapter),), image_scale=0.7, adapter=adapter)


def with_face(oracle: Any, entry: CatalogEntry, adapter: str) -> torch.Tensor:
    """What a pipeline of diffusers makes of the same."""
    given = face_of(adapter)
    assert given.embeds is not None
    face = torch.from_numpy(given.embeds.values)[None]  # (faces, 1, 512)
    oracle.load_ip_adapter(
        str(entry.folder),
        subfolder="",
        weight_name=entry.adapters[adapter],
        image_encoder_folder=None,
    )
    oracle.set_ip_adapter_scale(0.7)
    if "plus" in adapter:
        seen = oracle.feature_extractor(given.image, return_tensors="pt").pixel_values
        nothing, states = (
            oracle.image_encoder(pixels, output_hidden_states=True).hidden_states[-2]
            for pixels in (torch.zeros_like(seen), seen)
        )
        layer = oracle.unet.encoder_hid_proj.image_projection_layers[0]
        layer.clip_embeds = torch.stack([nothing] * COUNT + [states] * COUNT)
        layer.shortcut = "plusv2" in adapter
    both = torch.cat([torch.zeros_like(face), face])
    return theirs(oracle, entry, ip_adapter_image_embeds=[both])


def pictures(drawer: ImagePromptPipeline, *references: Reference, **how: Any) -> np.ndarray:
    asked = GenerateRequest(references=references, steps=2, guidance=3.0, **how)
    return np.stack([np.asarray(image) for image in drawer.generate(asked).images])


def box_of(left: int, width: int = 10) -> Face:
    """A face by its place in the picture alone."""
    return Face((left, 4, left + width, 4 + width), face_embeds(left).values[0], CUT, RECOGNISER)


FOUND = [box_of(40), box_of(20, 16), box_of(2, 12)]  # in the order of a detector: by its score


class TestFacesOfAPicture:
    @pytest.mark.parametrize(("number", "found"), [(0, 1), (1, 2), (2, 1), (3, 0)])
    def test_the_largest_or_by_number_from_the_left(self, number: int, found: int) -> None:
        assert chosen_face(FOUND, number) is FOUND[found]

    def test_a_face_that_is_not_there_is_said(self) -> None:
        with pytest.raises(RequestError, match=r"0 for the largest, or 1 to 3, .* got 4"):
            chosen_face(FOUND, 4)
        with pytest.raises(RequestError, match="shows no face"):
            chosen_face([], 0)
        with pytest.raises(RequestError, match=r"reference\.face must be from 0 to 100, got 101"):
            Reference(image=picture(1), face=101)
        with pytest.raises(RequestError, match=r"reference\.face chooses a face of a picture"):
            Reference(embeds=face_embeds(1), face=1)

    def test_each_is_shown_with_its_number(self) -> None:
        plain = picture(4, 200, 100)
        shown = np.asarray(numbered_faces(plain, FOUND)).astype(int)
        changed = np.abs(shown - np.asarray(plain)).max(axis=(0, 2)) > 0
        for face in FOUND:
            left, _, right, _ = map(int, face.box)
            assert changed[left : right + 1].all()
        assert not changed[120:].any()

    def test_without_insightface_it_is_said_what_to_install(
        self, drawer: ImagePromptPipeline
    ) -> None:
        said = "pip install insightface onnxruntime .*non-commercial research only.*file of its emb"
        for adapter in (PLAIN, PLUS):
            with pytest.raises(RequestError, match=said):
                pictures(drawer, reference(), adapter=adapter)

    def test_the_chosen_one_is_read(
        self, drawer: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By what an analysis says of a picture, in the place of InsightFace's."""
        reader = drawer._conditioner.references.faces
        found = {(48, 32): FOUND, (16, 16): []}
        monkeypatch.setattr(reader, "analyse", lambda image: found[image.size])
        given = Reference(image=picture(3, 48, 32), face=3)
        saved = drawer.embeds_of(given, PLAIN)
        assert (saved.adapter, saved.encoder, saved.shape) == ("face", RECOGNISER, (1, 512))
        assert np.array_equal(saved.values[0], FOUND[0].embedding)
        alone = pictures(drawer, Reference(embeds=saved), adapter=PLAIN)
        assert np.array_equal(pictures(drawer, given, adapter=PLAIN), alone)
        assert (pictures(drawer, replace(given, face=1), adapter=PLAIN) != alone).any()
        with_cut = pictures(drawer, Reference(image=CUT, embeds=saved), adapter=PLUS_V2)
        assert np.array_equal(pictures(drawer, given, adapter=PLUS_V2), with_cut)
        with pytest.raises(RequestError, match="shows no face"):
            pictures(drawer, reference(), adapter=PLAIN)


class TestFromTheCommandLine:
    @pytest.fixture
    def run(
        self,
        drawer: ImagePromptPipeline,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> Any:
        monkeypatch.chdir(tmp_path)
        picture(1).save("R.png")
        ip.save_embeds("F.safetensors", face_embeds(1))

        def run(words: str) -> Any:
            status = main(words.split(), lambda *_, **__: drawer)
            out, err = capsys.readouterr()
            return json.loads(out) if status == 0 else err

        return run

    def test_a_face_is_drawn_recorded_and_drawn_again(self, run: Any) -> None:
        given = face_embeds(1)
        for words, wanted in (
            (f"--reference F.safetensors --adapter {PLAIN}", Reference(embeds=given)),
            (
                f"--reference R.png --reference-face-embeds F.safetensors --adapter {PLUS_V2}",
                Reference(image=picture(1), embeds=given),
            ),
        ):
            line = run(f"generate {words} --steps 2 --out out")
            assert ip.request_from_png(line["path"]).references == (wanted,)
            again = run(f"generate --from-png {line['path']} --out out")
            one, other = (np.asarray(Image.open(each["path"])) for each in (line, again))
            assert np.array_equal(one, other)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (f"generate --reference R.png --adapter {PLAIN}", "pip install insightface"),
            (f"embeds R.png --adapter {PLAIN} --face 2 --out x.safetensors", "pip install insig"),
            (
                "generate --reference R.png --reference-face -1",
                "reference.face must be from 0 to 1",
            ),
            (
                "generate --reference R.png --reference-face-embeds R.png",
                "--reference-face-embeds R.png: embeds must be a safetensors file",
            ),
            (
                "generate --reference F.safetensors --reference-face 1",
                "reference.face chooses a face of a picture",
            ),
        ],
    )
    def test_mistakes_are_said(self, run: Any, words: str, said: str) -> None:
        assert said in run(words)


def test_what_has_no_effect_is_said(drawer: ImagePromptPipeline) -> None:
    def warnings(given: Reference, adapter: str) -> tuple[str, ...]:
        asked = GenerateRequest(references=(given,), adapter=adapter, steps=3, seed=2)
        return drawer.generate(asked).warnings

    assert warnings(face_of(PLUS), PLUS) == warnings(face_of(PLAIN), PLAIN) == ()
    assert warnings(Reference(image=picture(1), face=2), "base") == (
        "reference.face has no effect on reference 1: its adapter reads no faces.",
    )
    assert warnings(face_of(PLUS), PLAIN) == (
        "reference.image has no effect on reference 1: its adapter reads the embeds of the face "
        "alone.",
    )


def test_a_comparison_has_faces_among_its_references(
    drawer: ImagePromptPipeline, tmp_path: Path
) -> None:
    content = {"f.safetensors": face_embeds(1).content, "g.safetensors": face_embeds(2).content}
    picture(1).save(tmp_path / "a.png")
    content["a.png"] = (tmp_path / "a.png").read_bytes()

    def spec(*references: dict[str, Any]) -> Any:
        asked = {"steps": 2, "adapter": PLAIN, "references": list(references)}
        return spec_from_document(
            {"request": asked, "columns": {"image_scale": [0.5, 1]}}, content.__getitem__
        )

    spec_of_two = spec({"image": "f.safetensors"}, {"image": "g.safetensors", "weight": 0.5})
    draw_comparison(spec_of_two, tmp_path / "out", ModelManager(drawer))
    drawn = np.asarray(Image.open(tmp_path / "out" / "cells" / "p1-r1-c2.png"))
    record = ip.request_from_png(tmp_path / "out" / "cells" / "p1-r1-c2.png")
    assert record.references == (
        Reference(embeds=face_embeds(1)),
        Reference(embeds=face_embeds(2), weight=0.5),
    )
    assert np.array_equal(np.asarray(drawer.generate(record).images[0]), drawn)
    with pytest.raises(RequestError, match=r"reference\.face must be from 0 to 100, got 101"):
        draw_comparison(
            spec({"image": "a.png", "face": 101}), tmp_path / "no", ModelManager(drawer)
        )


def test_a_face_beside_a_picture_in_a_comparison(
    drawer: ImagePromptPipeline, tmp_path: Path
) -> None:
    """In the spec, where the picture is an axis, and as an axis of its own."""
    content = {"f.safetensors": face_embeds(1).content, "g.safetensors": face_embeds(2).content}
    for name, seed in (("a.png", 1), ("b.png", 2)):
        picture(seed).save(tmp_path / name)
        content[name] = (tmp_path / name).read_bytes()
    both = {"image": "a.png", "face_embeds": "f.safetensors"}
    request = {"steps": 2, "adapter": PLUS_V2, "references": [both]}
    columns = {"face_embeds": ["f.safetensors", "g.safetensors"]}

    def cells(document: dict[str, Any], out: str) -> list[tuple[Reference, ...]]:
        spec = spec_from_document(document, content.__getitem__)
        draw_comparison(spec, tmp_path / out, ModelManager(drawer))
        found = sorted((tmp_path / out / "cells").glob("*.png"))
        return [ip.request_from_png(path).references for path in found]

    rows = {"reference": ["a.png", "b.png"]}
    assert cells({"request": request, "rows": rows, "columns": columns}, "grid") == [
        (Reference(image=picture(seed), embeds=face_embeds(face)),)
        for seed in (1, 2)
        for face in (1, 2)
    ]
    kept = cells({"request": request, "columns": rows}, "kept")
    assert [found.embeds for (found,) in kept] == [face_embeds(1)] * 2
    for wrong, said in (
        ({"request": {"steps": 1}, "columns": columns}, "face_embeds needs a reference"),
        (
            {"request": request | {"references": [both | {"image": "g.safetensors"}]}}
            | {"columns": {"seed": [1]}},
            "references.face_embeds needs a picture as image, got embeds",
        ),
    ):
        with pytest.raises(RequestError, match=said):
            cells(wrong, "wrong")


class TestOnThePage:
    def test_a_face_is_chosen_where_the_model_reads_faces(
        self, drawer: ImagePromptPipeline, pipeline: ImagePromptPipeline
    ) -> None:
        assert drawer.info.face_adapters == (PLAIN, PORTRAIT, PLUS, PLUS_V2)
        assert face_properties(drawer.info) == {"value": 0, "visible": True}
        assert face_properties(pipeline.info) == {"value": 0, "visible": False}
        given = (Reference(image=picture(1), face=2), Reference(embeds=face_embeds(1)))
        assert references_from_slots(slots_from_references(given)) == given

    def test_the_faces_of_all_references_are_shown(self) -> None:
        inputs = {name: gr.Image() for name in ("reference", "reference_2")}
        given = {"reference": picture(4, 200, 100), "reference_2": None}
        [shown] = shown_faces(inputs, given, lambda image: FOUND)
        assert shown == numbered_faces(picture(4, 200, 100), FOUND)
        with pytest.raises(RequestError, match="reference is missing"):
            shown_faces(inputs, dict.fromkeys(given))
        with pytest.raises(RequestError, match="pip install insightface"):
            shown_faces(inputs, given)

    def test_an_older_record_without_a_face_restores(self) -> None:
        record = request_to_json(GenerateRequest(references=(Reference(image=picture(1)),)))
        del record["request"]["references"][0]["face"]
        assert request_from_json(record).references == (Reference(image=picture(1)),)


class TestTheLora:
    def test_it_acts_with_the_adapter_and_not_without(self, drawer: ImagePromptPipeline) -> None:
        """Laws 1 and 9: λ = 0, or no reference, is the base model bit for bit."""
        base = pictures(drawer)
        given = face_of(PLAIN)
        faced = pictures(drawer, given, adapter=PLAIN)
        assert (faced != base).any()
        assert np.array_equal(pictures(drawer, given, adapter=PLAIN, image_scale=0.0), base)
        assert np.array_equal(pictures(drawer, adapter=PLAIN), base)
        assert np.array_equal(pictures(drawer, replace(given, weight=0.0), adapter=PLAIN), base)
        assert np.array_equal(pictures(drawer, given, adapter=PLAIN), faced)

    def test_one_that_does_not_fit_the_unet_is_named(self, tmp_path: Path) -> None:
        from ipadapter_demo.adapter import check_fits

        unet, encoder = tiny_unet(), tiny_vision_encoder()
        adapter = face_adapter(unet, "ip-adapter-faceid_sd15.bin")
        whole = dict(adapter.lora)
        down, up = (f"ip_adapter.0.to_q_lora.{end}.weight" for end in ("down", "up"))
        name = r"down_blocks\.0\.attentions\.0\.transformer_blocks\.0\.attn1\.to_q"
        for wrong, said in (
            ({up: None}, f"its LoRA of {name} lacks up"),
            ({up: torch.ones(16, 3)}, rf"its LoRA of {name} is \(16, 3\) x \(2, 16\)"),
            ({down: torch.ones(2, 8)}, f"changes 8 to 16 channels in {name}, .* maps 16 to 16"),
            ({"ip_adapter.99.to_q_lora.up.weight": whole[up]}, "is of layer 99, the UNet has 14"),
        ):
            changed = whole | wrong
            adapter.lora = {key: t for key, t in changed.items() if t is not None}
            with pytest.raises(CheckpointError, match=f"^a.bin does not fit this base .*{said}"):
                check_fits(adapter, unet, adapter.width_read_from(encoder), "a.bin")


class TestAFile:
    @pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
    @pytest.mark.parametrize("file", FACE_FILES)
    def test_it_is_written_as_it_was_read(self, tmp_path: Path, file: str, suffix: str) -> None:
        path = tmp_path / Path(file).with_suffix(suffix)
        made = face_adapter(tiny_unet(), file)
        save_image_adapter(made, path)
        found = load_image_adapter(path)
        assert found.variant == ("face-plus" if "plus" in file else "face")
        assert found.num_tokens == FACE_FILES[file]
        for mine, read in ((made.state_dict(), found.state_dict()), (made.lora, found.lora)):
            assert mine.keys() == read.keys()
            assert all(torch.equal(mine[key], read[key]) for key in mine)

    def test_the_name_alone_tells_plus_v2(self, tmp_path: Path) -> None:
        made = face_adapter(tiny_unet(), "ip-adapter-faceid-plusv2_sd15.bin")
        with pytest.raises(CheckpointError, match=r"a\.bin: .* plusv2 .* must have it"):
            save_image_adapter(made, tmp_path / "a.bin")
        save_image_adapter(made, tmp_path / "My-FaceID-PlusV2.bin")
        assert load_image_adapter(tmp_path / "My-FaceID-PlusV2.bin").projection.shortcut

    @pytest.mark.parametrize(
        ("key", "shape", "said"),
        [
            ("proj.0.weight", (1024, 256), "embeddings 256 wide, where those of faces are 512"),
            ("proj.2.weight", (97, 1024), "97 rows, which is no multiple of the token width 24"),
            ("proj.0.bias", (7,), r"proj.0.bias has shape \(7,\)"),
        ],
    )
    def test_sizes_that_cannot_be_are_said(
        self, tmp_path: Path, key: str, shape: tuple[int, ...], said: str
    ) -> None:
        path = write_face_adapter(tmp_path, tiny_unet(), "ip-adapter-faceid_sd15.bin")
        nested = torch.load(path)
        nested["image_proj"][key] = torch.ones(shape)
        torch.save(nested, path)
        with pytest.raises(CheckpointError, match=said):
            load_image_adapter(path)


class TestEmbedsOfAFace:
    def test_several_are_several_references(self, drawer: ImagePromptPipeline) -> None:
        """Portrait takes several pictures of one person, each with tokens of its own."""
        together = pictures(drawer, face_of(PORTRAIT, 1, 2), adapter=PORTRAIT)
        beside = pictures(drawer, face_of(PORTRAIT, 1), face_of(PORTRAIT, 2), adapter=PORTRAIT)
        assert np.array_equal(together, beside)

    def test_the_picture_and_the_face_both_count_in_plus(self, drawer: ImagePromptPipeline) -> None:
        given = face_of(PLUS_V2)
        drawn = pictures(drawer, given, adapter=PLUS_V2)
        for other in (face_of(PLUS_V2, 5), replace(given, image=picture(9))):
            assert (pictures(drawer, other, adapter=PLUS_V2) != drawn).any()
        assert (pictures(drawer, given, adapter=PLUS) != drawn).any()

    def test_a_saved_face_of_plus_takes_the_place_of_both(
        self, drawer: ImagePromptPipeline
    ) -> None:
        given = face_of(PLUS)
        saved = drawer.embeds_of(given, PLUS)
        assert saved.adapter == "face-plus"
        alone = pictures(drawer, Reference(embeds=saved), adapter=PLUS)
        assert np.array_equal(alone, pictures(drawer, given, adapter=PLUS))

    @pytest.mark.parametrize(
        ("adapter", "given", "said"),
        [
            (PLUS, Reference(embeds=face_embeds(1)), "one face, beside a picture of it, .*no pict"),
            (
                PLUS,
                Reference(image=picture(1), embeds=face_embeds(1, 2)),
                "one face, beside a picture of it, for the FaceID Plus adapter .* got 2 and a pic",
            ),
            (
                PLAIN,
                Reference(image=picture(1), embeds=face_embeds(1), fit="tile"),
                "reference.fit must be crop, pad or squash with the FaceID adapter .* got tile",
            ),
            (
                PLAIN,
                Reference(image=picture(1), noise=0.5),
                "reference.noise must be 0 with a FaceID adapter, .* got 0.5",
            ),
            ("base", Reference(embeds=face_embeds(1)), "embedding of 512, made for face"),
            (
                "plus",
                Reference(image=picture(1), embeds=face_embeds(1)),
                "embedding of 512, made for face",
            ),
        ],
    )
    def test_what_an_adapter_cannot_read_is_said(
        self, drawer: ImagePromptPipeline, adapter: str, given: Reference, said: str
    ) -> None:
        with pytest.raises(RequestError, match=said):
            pictures(drawer, given, adapter=adapter)

    def test_a_background_is_no_face(self, drawer: ImagePromptPipeline) -> None:
        inpaint = ip.Inpaint(image=picture(3), mask=box_mask((16, 16, 48, 48)), background_weight=1)
        with pytest.raises(RequestError, match="background_weight must be 0 with a FaceID adapter"):
            pictures(drawer, face_of(PLAIN), adapter=PLAIN, inpaint=inpaint)

    def test_another_width_is_refused(self) -> None:
        values = np.ones((1, 256), np.float32)
        with pytest.raises(RequestError, match=r"of a face must be 512 wide, .* got 256"):
            ip.ImageEmbeds.of(values, encoder="ab" * 32, adapter="face", fit="face")
