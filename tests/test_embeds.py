"""Image embeds in the place of pictures, hidden parts, noise, and pictures read as squares."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.numpy import save

import ipadapter_demo as ip
from ipadapter_demo.cli import main
from ipadapter_demo.compare import Bundle, draw_comparison, spec_from_document
from ipadapter_demo.embeds import MAX_EMBEDS_BYTES
from ipadapter_demo.errors import RequestError
from ipadapter_demo.fit import square_boxes
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline.conditioning.encoder_input import noisy
from ipadapter_demo.record import request_from_json, request_to_json
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.widgets.reference_slots import references_from_slots, slots_from_references
from tests.oracle import ENCODER_SIZE, assert_same, loaded, pixels_of, reference, request, theirs
from tests.tiny import box_mask, picture

WIDE = picture(
    5, 3 * ENCODER_SIZE, ENCODER_SIZE
)  # three squares that the encoder reads as they are
SHA = "ab" * 32


@pytest.fixture
def ours(model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    return pixels_of(ImagePromptPipeline(replace(model, inpaint_adapter=None)), monkeypatch)


def embeds(*shape: int, encoder: str = SHA, adapter: str = "linear", **how: Any) -> ip.ImageEmbeds:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return ip.ImageEmbeds.of(values, encoder=encoder, adapter=adapter, fit="crop", **how)


def pictures(pipeline: ImagePromptPipeline, *references: Reference, **how: Any) -> list[np.ndarray]:
    asked = GenerateRequest(references=references, steps=2, guidance=3.0, **how)
    return [np.asarray(image) for image in pipeline.generate(asked).images]


class TestAFile:
    def test_it_says_what_made_it_and_is_the_same_bytes_every_time(self, tmp_path: Path) -> None:
        made = embeds(1, 4, names=["a.png", "b.png"])
        ip.save_embeds(tmp_path / "e.safetensors", made)
        found = ip.read_embeds(tmp_path / "e.safetensors")
        assert found == made
        assert (found.encoder, found.adapter, found.fit) == (SHA, "linear", "crop")
        assert (found.names, found.shape, found.squares) == (("a.png", "b.png"), (1, 4), 1)
        assert np.array_equal(found.values, [[0, 1, 2, 3]])
        assert embeds(1, 4, names=["a.png", "b.png"]).content == made.content
        assert made.named("c.png").names == ("c.png",)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"\x89PNG", "safetensors file of image embeds"),
            (b"\xff" * 64, "safetensors file of image embeds"),
            (bytes(MAX_EMBEDS_BYTES + 1), "at most 8,388,608 bytes"),
            (save({"image_embeds": np.zeros((1, 4), np.float32)}), "say what made them"),
            (embeds(1, 4).content.replace(SHA.encode(), b"x" * 64), "encoder must be a SHA-256"),
            (embeds(1, 4).content[:-1], "cannot be read"),
            (embeds(1, 4).content.replace(b'_embeds"', b'_embedz"'), "hold image_embeds alone"),
            (embeds(1, 4).content.replace(b'"F32"', b'"I32"'), "in float32 or float16, got"),
            (embeds(1, 4).content[:-4] + b"\0\0\xc0\x7f", "finite"),
            (embeds(1, 4).content.replace(b'a\\": 1', b'a\\": 2'), "schema 1"),
        ],
    )
    def test_any_other_file_is_refused(self, content: bytes, said: str) -> None:
        with pytest.raises(RequestError, match=f"place: .*{said}"):
            ip.read_embeds(content, "place")

    @pytest.mark.parametrize("shape", [(4,), (5, 4), (1, 2, 3, 4), (1, 0)])
    def test_so_are_other_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(RequestError, match="embeds must be"):
            embeds(*shape)

    def test_the_mean_is_of_one_encoder_and_one_kind(self) -> None:
        mean = ip.average_embeds([embeds(1, 2, names=["a"]), embeds(3, 2, names=["b"])])
        assert np.array_equal(mean.values, [[1, 2]])  # of (0, 1) and of the mean (2, 3) of three
        assert mean.names == ("a", "b")
        for other in (embeds(1, 3), embeds(1, 2, encoder="cd" * 32), embeds(1, 2, adapter="plus")):
            with pytest.raises(RequestError, match="one image encoder and one kind of adapter"):
                ip.average_embeds([embeds(1, 2), other])
        with pytest.raises(RequestError, match="nothing to average"):
            ip.average_embeds([])


class TestInPlaceOfThePicture:
    @pytest.mark.parametrize("adapter", ["base", "plus"])
    @pytest.mark.parametrize(
        "how",
        [{}, {"fit": "tile"}, {"noise": 0.5}, {"clip_mask": box_mask((0, 0, 20, 16), 48, 16)}],
    )
    def test_they_draw_the_same_pixels(
        self, pipeline: ImagePromptPipeline, adapter: str, how: dict[str, Any]
    ) -> None:
        given = Reference(image=WIDE, **how)
        made = pipeline.embeds_of(given, adapter)
        assert made.squares == given.squares
        [seen] = pictures(pipeline, replace(given, weight=0.7), adapter=adapter)
        [alone] = pictures(pipeline, Reference(embeds=made, weight=0.7), adapter=adapter)
        assert np.array_equal(seen, alone)

    @pytest.mark.parametrize("adapter", ["base", "plus"])
    def test_diffusers_draws_the_same_with_them(
        self, ours: Any, pipeline: ImagePromptPipeline, entry: CatalogEntry, adapter: str
    ) -> None:
        """Law 4: a saved file goes to diffusers as `ip_adapter_image_embeds`, and its embeds come
        here: (unconditional and conditional, pictures, ...)."""
        oracle = loaded(StableDiffusionPipeline, entry)
        theirs(oracle, entry, scale=0.7, adapter=adapter, ip_adapter_image=reference().image)
        [both] = oracle.prepare_ip_adapter_image_embeds(reference().image, None, "cpu", 1, True)
        made = pipeline.embeds_of(reference(), adapter)
        torch.testing.assert_close(torch.from_numpy(made.values), both[1])
        expected = theirs(oracle, entry, ip_adapter_image_embeds=[both])
        given = request(references=(Reference(embeds=made),), image_scale=0.7, adapter=adapter)
        assert_same(ours(given), expected)

    def test_the_mean_is_that_of_combining_by_average(self, pipeline: ImagePromptPipeline) -> None:
        pair = Reference(image=picture(1)), Reference(image=picture(2))
        mean = ip.average_embeds([pipeline.embeds_of(one) for one in pair])
        [both] = pictures(pipeline, *pair, combine="average")
        [one] = pictures(pipeline, Reference(embeds=mean))
        assert np.abs(both.astype(int) - one).max() <= 1
        assert not np.array_equal(one, *pictures(pipeline, *pair))

    def test_those_of_another_encoder_or_adapter_are_refused(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        made = pipeline.embeds_of(Reference(image=picture(1)), "base")
        other = embeds(*made.shape)
        with pytest.raises(RequestError, match=r"of the image encoder of tiny, SHA-256 .* abab"):
            pictures(pipeline, Reference(embeds=other))
        with pytest.raises(
            RequestError,
            match="must be 5 states of 16 for the plus adapter plus of tiny, got one embedding of "
            "20, made for linear",
        ):
            pictures(pipeline, Reference(embeds=made), adapter="plus")

    def test_a_fit_beside_them_is_said_to_be_in_vain(self, pipeline: ImagePromptPipeline) -> None:
        made = pipeline.embeds_of(Reference(image=WIDE, fit="tile"))
        asked = GenerateRequest(references=(Reference(embeds=made, fit="pad"),), steps=3)
        assert pipeline.generate(asked).warnings == (
            "reference.fit has no effect on reference 1: its embeds were made with tile.",
        )

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ({}, "reference.image must be a picture"),
            ({"image": WIDE, "embeds": embeds(1, 4)}, "exclude each other"),
            ({"embeds": embeds(1, 4), "noise": 0.5}, "reference.noise needs a picture"),
            ({"embeds": embeds(1, 4), "clip_mask": box_mask((0, 0, 8, 8))}, "clip_mask needs a"),
            ({"embeds": b"bytes"}, "reference.embeds must be ImageEmbeds, got bytes"),
            ({"image": WIDE, "noise": 1.5}, r"reference.noise must be from 0 to 1, got 1.5"),
            ({"image": WIDE, "fit": "stretch"}, "one of crop, pad, squash, tile, got 'stretch'"),
            (
                {"image": WIDE, "clip_mask": box_mask((0, 0, 8, 8))},
                "proportions of the picture, 48x16, got 64x64",
            ),
        ],
    )
    def test_what_does_not_go_together_is_said(self, how: dict[str, Any], said: str) -> None:
        with pytest.raises(RequestError, match=said):
            Reference(**how)

    def test_they_travel_in_the_record(self) -> None:
        """Law 10; once, however often they are used."""
        made = embeds(2, 5, 16, adapter="plus", names=["cat.png"])
        asked = GenerateRequest(
            references=(
                Reference(embeds=made),
                Reference(embeds=made, negative=True),
                Reference(
                    image=WIDE, fit="tile", noise=0.25, clip_mask=Image.new("L", (96, 32), 255)
                ),
            )
        )
        record = json.loads(json.dumps(request_to_json(asked)))
        assert len(record["images"]) == 3
        assert request_from_json(record) == asked
        [digest] = {record["request"]["references"][0]["embeds"]}
        assert digest == made.sha256
        record["images"][digest] = record["images"][digest][:-8] + "AAAAAAAA"
        with pytest.raises(RequestError, match=r"references\.embeds is damaged"):
            request_from_json(record)


class TestSquares:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ((64, 64), [(0, 0, 64, 64)]),
            ((96, 64), [(0, 0, 64, 64), (32, 0, 96, 64)]),
            ((10, 25), [(0, 0, 10, 10), (0, 8, 10, 18), (0, 15, 10, 25)]),
            ((40, 10), [(i * 10, 0, i * 10 + 10, 10) for i in range(4)]),
            ((100, 10), [(i * 30, 0, i * 30 + 10, 10) for i in range(4)]),
        ],
    )
    def test_they_cover_the_longer_side(self, size: Any, expected: Any) -> None:
        assert square_boxes(size) == expected

    @pytest.mark.parametrize("adapter", ["base", "plus"])
    def test_they_are_the_list_of_pictures_that_diffusers_takes(
        self, ours: Any, entry: CatalogEntry, adapter: str
    ) -> None:
        """Law 4."""
        oracle = loaded(StableDiffusionPipeline, entry)
        squares = [WIDE.crop(box) for box in square_boxes(WIDE.size)]
        expected = theirs(
            oracle, entry, scale=0.7, adapter=adapter, ip_adapter_image=[[squares[0], *squares[1:]]]
        )
        tiled = Reference(image=WIDE, fit="tile")
        assert_same(ours(request(references=(tiled,), image_scale=0.7, adapter=adapter)), expected)

    def test_a_square_picture_is_cropped(self, pipeline: ImagePromptPipeline) -> None:
        one, other = (Reference(image=picture(1), fit=fit) for fit in ("crop", "tile"))
        assert np.array_equal(*pictures(pipeline, one), *pictures(pipeline, other))

    def test_the_encoder_sees_them_side_by_side(self, pipeline: ImagePromptPipeline) -> None:
        assert pipeline.encoder_view(Reference(image=WIDE, fit="tile")) == WIDE
        tall = WIDE.transpose(Image.Transpose.TRANSPOSE)
        assert pipeline.encoder_view(Reference(image=tall, fit="tile")) == tall

    def test_a_weight_is_that_of_all_squares(
        self, ours: Any, pipeline: ImagePromptPipeline
    ) -> None:
        """As of three references of this weight, but for the encoder's rounding in a batch."""
        squares = [WIDE.crop(box) for box in square_boxes(WIDE.size)]
        other = Reference(image=picture(2), weight=0.5)
        tiled = Reference(image=WIDE, fit="tile", weight=1.5)
        parts = [Reference(image=square, weight=1.5) for square in squares]
        [one], [each] = pictures(pipeline, tiled, other), pictures(pipeline, *parts, other)
        assert np.abs(one.astype(int) - each).max() <= 1

    def test_attention_maps_are_of_references_not_of_squares(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        squares = [Reference(image=WIDE.crop(box)) for box in square_boxes(WIDE.size)]
        other = Reference(image=picture(2))

        def maps(*references: Reference) -> list[np.ndarray]:
            asked = GenerateRequest(references=references, steps=2, guidance=3.0)
            *_, result = pipeline.stream(asked, record_attention=True)
            assert isinstance(result, ip.Result)
            return [np.asarray(amount).astype(int) for amount in result.attention_maps[0]]

        tiled, beside = maps(Reference(image=WIDE, fit="tile"), other)
        *parts, alone = maps(*squares, other)
        assert np.abs(sum(parts) - tiled).max() <= 2  # each is rounded by itself
        assert np.array_equal(beside, alone)

    def test_each_has_its_price(self, pipeline: ImagePromptPipeline) -> None:
        """Law 14."""
        one, three = (
            pipeline.price(GenerateRequest(references=(Reference(image=WIDE, fit=fit),)))
            for fit in ("crop", "tile")
        )
        parts = GenerateRequest(references=(Reference(image=WIDE),) * 3)
        assert one.total < three.total == pipeline.price(parts).total


class TestHiddenParts:
    def test_what_is_hidden_is_the_mean_colour_and_does_not_matter(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        shown, other = picture(1, 16, 16), picture(2, 16, 16)
        mask = box_mask((0, 0, 8, 16), 16, 16)
        mixed = Image.composite(shown, other, mask)
        plain, hidden, same = (
            Reference(image=shown),
            Reference(image=shown, clip_mask=mask),
            Reference(image=mixed, clip_mask=mask),
        )
        [pixels] = pipeline._conditioner.references.input.pixels(hidden)
        [whole] = pipeline._conditioner.references.input.pixels(plain)
        assert torch.equal(pixels[..., :8], whole[..., :8])
        assert not pixels[..., 8:].any()
        drawn = [pictures(pipeline, one)[0] for one in (plain, hidden, same)]
        assert np.array_equal(drawn[1], drawn[2])
        assert not np.array_equal(drawn[0], drawn[1])
        view = np.asarray(pipeline.encoder_view(hidden))
        assert (view[:, 8:] == (123, 117, 104)).all()
        white = replace(plain, clip_mask=Image.new("L", (16, 16), 255))
        assert np.array_equal(drawn[0], *pictures(pipeline, white))

    def test_diffusers_draws_the_same_of_masked_pixels(
        self, ours: Any, entry: CatalogEntry
    ) -> None:
        """Law 4: its own encoder, on the normalised pixels times the mask."""
        oracle = loaded(StableDiffusionPipeline, entry)
        mask = box_mask((0, 0, 8, 16), 16, 16)
        pixels = oracle.feature_extractor(reference().image, return_tensors="pt").pixel_values
        pixels = pixels * (torch.from_numpy(np.array(mask)) / 255)
        seen = oracle.image_encoder(pixels).image_embeds
        expected = theirs(
            oracle,
            entry,
            scale=0.7,
            ip_adapter_image_embeds=[torch.stack([torch.zeros_like(seen), seen])],
        )
        assert_same(
            ours(request(references=(reference(clip_mask=mask),), image_scale=0.7)), expected
        )

    @pytest.mark.parametrize("fit", ["crop", "pad", "squash", "tile"])
    def test_the_mask_goes_the_way_of_its_picture(
        self, pipeline: ImagePromptPipeline, fit: Any
    ) -> None:
        """A white picture whose hidden half is black: what is seen is white, all else the mean."""
        mask = box_mask((0, 0, 48, 32), 96, 32)
        given = Reference(image=mask.convert("RGB"), clip_mask=mask, fit=fit)
        red = torch.cat(pipeline._conditioner.references.input.pixels(given))[:, 0]
        white, mean = red > 1, red.abs() < 0.1
        assert white.any()
        assert mean.any()
        assert (white | mean).float().mean() > 0.9  # all but the border between them


class TestNoise:
    def test_it_is_the_fade_of_the_peers(self) -> None:
        """image · (1 - s) + noise · s, with noise uniform in [0, 1]."""
        square = picture(1, 64, 64)
        alone = np.asarray(noisy(square, 1.0)).astype(float)
        assert abs(alone.mean() - 127.5) < 2
        assert abs(alone.std() - 255 / 12**0.5) < 2
        mixed = np.asarray(noisy(square, 0.25)).astype(float)
        assert np.abs(mixed - (np.asarray(square) * 0.75 + alone * 0.25)).max() <= 1
        assert noisy(square, 1.0) == noisy(picture(2, 64, 64), 1.0)
        assert noisy(square, 1.0) != noisy(square, 1.0, 1)

    def test_a_negative_picture_of_noise_changes_the_result_by_its_strength(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        given = Reference(image=picture(1))
        against = [replace(given, negative=True, noise=share) for share in (0.0, 0.5, 1.0)]
        drawn = [pictures(pipeline, given, one)[0].tobytes() for one in against]
        assert len({*drawn, pictures(pipeline, given)[0].tobytes()}) == 4
        view = pipeline.encoder_view(against[2])
        assert view == noisy(view, 1.0)
        [same] = pictures(pipeline, given, Reference(image=view, negative=True))
        assert same.tobytes() == drawn[2]


class TestFromTheCommandLine:
    @pytest.fixture
    def run(
        self,
        pipeline: ImagePromptPipeline,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> Callable[..., Any]:
        monkeypatch.chdir(tmp_path)
        WIDE.save("R.png")
        picture(2).save("S.png")
        box_mask((0, 0, 24, 16), 48, 16).save("M.png")

        def run(words: str) -> Any:
            status = main(words.split(), lambda *_, **__: pipeline)
            out, err = capsys.readouterr()
            return json.loads(out) if status == 0 else err

        return run

    def test_saved_and_used(self, run: Any, pipeline: ImagePromptPipeline, tmp_path: Path) -> None:
        saved = run("embeds R.png --fit tile --adapter plus --out R.safetensors")
        assert saved == {
            "path": "R.safetensors",
            "shape": [3, 5, 16],
            "encoder": pipeline._model.encoder_sha256("plus"),
        }
        made = ip.read_embeds("R.safetensors")
        assert (made.names, made.fit, made.adapter) == (("R.png",), "tile", "plus")
        drawn = run("generate --reference R.safetensors --adapter plus --steps 2 --out out")
        again = run("generate --reference R.png --fit tile --adapter plus --steps 2 --out out")
        one, other = (np.asarray(Image.open(line["path"])) for line in (drawn, again))
        assert np.array_equal(one, other)
        assert ip.request_from_png(drawn["path"]).references == (Reference(embeds=made),)
        restored = run(f"generate --from-png {drawn['path']} --out out")
        assert np.array_equal(one, np.asarray(Image.open(restored["path"])))
        assert run("embeds R.png R.safetensors S.png --adapter plus --out mean.safetensors")
        assert ip.read_embeds("mean.safetensors").names == ("R.png", "R.png", "S.png")

    def test_hidden_and_noisy(self, run: Any) -> None:
        line = run(
            "generate --reference R.png --reference-clip-mask M.png --fit squash "
            "--negative-noise 0.5 --steps 2 --out out"
        )
        mask = Image.open("M.png")
        assert ip.request_from_png(line["path"]).references == (
            Reference(image=WIDE, fit="squash", clip_mask=mask),
            Reference(image=WIDE, fit="squash", noise=0.5, negative=True),
        )

    def test_noise_is_read_as_the_picture_is(self, run: Any) -> None:
        line = run(
            "generate --reference R.png --reference-adapter plus --reference-layers 1,0,1,0,1,0,1 "
            "--negative-noise 0.5 --steps 2 --out out"
        )
        read: dict[str, Any] = {"adapter": "plus", "layers": (1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0)}
        assert ip.request_from_png(line["path"]).references == (
            Reference(image=WIDE, **read),
            Reference(image=WIDE, noise=0.5, negative=True, **read),
        )

    def test_on_the_page_too(self) -> None:
        """And a record of before, whose noise has neither, is shown as noise."""
        first = Reference(image=WIDE, adapter="plus", layers="style")
        second = Reference(image=picture(1))
        noise = Reference(image=WIDE, noise=0.5, negative=True)
        given = (first, second, replace(noise, adapter="plus", layers="style"))
        for old in (given, (first, second, noise)):
            shown = slots_from_references(old)
            assert shown["negative_noise"] == 0.5
            assert references_from_slots(shown) == given
        shown = slots_from_references((first, replace(noise, fit="pad")))
        assert shown["negative_noise"] == 0

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("embeds R.png --out R.bin", "--out must end in .safetensors, got R.bin"),
            ("generate --negative-noise 0.5", "--negative-noise needs a --reference"),
            ("generate --reference . --reference-clip-mask M.png", "not of a folder"),
            ("generate --reference no.safetensors", "--reference no.safetensors cannot be read"),
        ],
    )
    def test_mistakes_are_said(self, run: Any, words: str, said: str) -> None:
        assert said in run(words)

    def test_a_folder_is_drawn_with_each_picture_in_noise(
        self, pipeline: ImagePromptPipeline, tmp_path: Path
    ) -> None:
        folder = tmp_path / "given"
        folder.mkdir()
        WIDE.save(folder / "R.png")
        given = Reference(image=picture(9))
        asked = GenerateRequest(
            references=(given, replace(given, noise=0.5, negative=True)), steps=2
        )
        [line] = ip.draw_folder(pipeline, asked, folder, tmp_path / "out")
        first, second = ip.request_from_png(tmp_path / "out" / str(line["path"])).references
        assert first.picture == second.picture == WIDE


def test_a_comparison_has_embeds_among_its_references(
    pipeline: ImagePromptPipeline, tmp_path: Path
) -> None:
    """As files like its pictures, in the bundle too, and drawn again from there."""
    made = pipeline.embeds_of(Reference(image=picture(1)))
    content = {"a.safetensors": made.content}
    for name, image in (("a.png", picture(1)), ("m.png", box_mask((0, 0, 32, 64)))):
        image.save(tmp_path / name)
        content[name] = (tmp_path / name).read_bytes()
    spec = spec_from_document(
        {
            "request": {
                "steps": 2,
                "references": [{"image": "a.png", "clip_mask": "m.png", "noise": 0.5}],
            },
            "columns": {"reference": ["a.png", "a.safetensors"]},
            "rows": {"fit": ["crop", "tile"]},
            "beside": ["reference"],
        },
        content.__getitem__,
    )
    with pytest.raises(RequestError, match="needs a picture"):
        draw_comparison(spec, tmp_path / "no", ModelManager(pipeline))
    spec = spec_from_document(
        {
            "request": {"steps": 2},
            "columns": {"reference": ["a.png", "a.safetensors"]},
            "beside": ["reference"],
        },
        content.__getitem__,
    )
    bundle = draw_comparison(spec, tmp_path / "out", ModelManager(pipeline))
    one, other = (
        np.asarray(Image.open(tmp_path / "out" / "cells" / f"p1-r1-c{c}.png")) for c in (1, 2)
    )
    assert np.array_equal(one, other)
    again = list(Bundle(bundle).verified(ModelManager(pipeline)))
    assert [found.difference for found in again] == [0, 0], [found.message for found in again]
