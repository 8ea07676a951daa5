"""What has no effect, or not the expected one, is said; nothing is said of an ordinary request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from ipadapter_demo import cli
from ipadapter_demo.imaging import read_image
from ipadapter_demo.models.base_model import BaseModel, load_base_model
from ipadapter_demo.models.catalog import TABLETOP, CatalogEntry
from ipadapter_demo.models.recommended import Recommended
from ipadapter_demo.pipeline import ImagePromptPipeline, effective_request, load
from ipadapter_demo.pipeline.inpainting.crop import crop_to_mask
from ipadapter_demo.pipeline.markup import (
    CHOICE,
    EDIT,
    EMPHASIS,
    READ_IF_WEIGHTED,
    WEIGHT,
    unread_markup,
    without_words,
)
from ipadapter_demo.pipeline.samplers import new_scheduler
from ipadapter_demo.pipeline.schedule import Schedule
from ipadapter_demo.pipeline.sizes import working_size
from ipadapter_demo.pipeline.step_count import steps_taken, unet_calls
from ipadapter_demo.pipeline.warnings import warnings_for
from ipadapter_demo.request import SAMPLERS, GenerateRequest, Inpaint, Reference, Structure
from ipadapter_demo.sampling import FEW_STEP_SAMPLERS
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import model_input
from ipadapter_demo.ui.run.running import build_tab
from ipadapter_demo.ui.run.uploads import Painting
from ipadapter_demo.ui.tabs import TABS, image_text, inpaint, structure, variation
from ipadapter_demo.ui.widgets.examples import FOLDER
from ipadapter_demo.ui.widgets.larger import upscale_from_values
from ipadapter_demo.upscale import Upscale
from tests.tiny import box_mask, picture, tiny_unet

REFERENCE = Reference(image=picture(1))
EDGES = Structure(kind="canny", image=picture(3))


def warnings(pipeline: ImagePromptPipeline, **fields: Any) -> tuple[str, ...]:
    return pipeline.generate(GenerateRequest(**{"steps": 3, "guidance": 3.0} | fields)).warnings


def said(model: BaseModel, **fields: Any) -> tuple[str, ...]:
    """The same of a request that is not drawn."""
    request = GenerateRequest(**{"steps": 3, "guidance": 3.0} | fields)
    cropped = crop_to_mask(request)
    maps = [structure.image for structure in request.structures]
    return warnings_for(request, cropped, working_size(cropped, model.native_size), maps, model)


PLAIN = ", as the prompt syntax is plain"
NO_GUIDANCE = "negative_prompt has no effect at guidance 1."


class TestEdges:
    """Where a warning begins, and where none is given any more."""

    REGION = Reference(image=picture(2), mask=box_mask((8, 8, 16, 16)))

    @pytest.mark.parametrize(
        ("fields", "notes"),
        [
            ({"prompt": "a" * 14}, ()),
            (
                {"prompt": "a" * 15},
                (f"prompt: it has 17 tokens; the model reads the first 16{PLAIN}.",),
            ),
            (
                {"prompt": "(" + "a" * 60 + ")"},
                (
                    f"prompt: it has 64 tokens; the model reads the first 16{PLAIN}.",
                    f"prompt: emphasis by brackets is read as plain text{PLAIN}: (" + "a" * 39,
                ),
            ),
            (
                {"negative_prompt": "a" * 15},
                (f"negative_prompt: it has 17 tokens; the model reads the first 16{PLAIN}.",),
            ),
            ({"negative_prompt": "a" * 15, "guidance": 1.0}, (NO_GUIDANCE,)),
            ({"strength": 0.5}, ()),
            ({"guidance": 1.0}, ()),
            (
                {
                    "guidance": 1.0,
                    "references": (Reference(image=picture(1), negative=True, weight=0),),
                },
                (),
            ),
            ({"guidance": 1.001, "negative_prompt": "b", "guidance_rescale": 0.5}, ()),
            ({"image_layers": (1.0,) * 7}, ("image_layers has no effect without a reference.",)),
            (
                {"image_layers": (1.0,) * 7, "references": (replace(REFERENCE, weight=0.0),)},
                ("image_layers has no effect without a reference.",),
            ),
            ({"image_layers": (1.0,) * 7, "references": (replace(REFERENCE, weight=0.001),)}, ()),
            ({"steps": 2}, ()),
            (
                {"image_window": (0.4, 0.6), "references": (REFERENCE,)},
                ("image_window: no step of 3 lies wholly in 0.4 to 0.6.",),
            ),
            ({"image_window": (0.4, 0.6)}, ()),
            ({"image_window": (0.4, 0.6), "references": (replace(REFERENCE, weight=0.0),)}, ()),
            ({"image_window": (0.4, 0.6), "references": (REFERENCE,), "image_scale": 0.0}, ()),
            (
                {
                    "references": (
                        replace(REFERENCE, weight=0.0),
                        replace(REFERENCE, window=(0.1, 0.3)),
                    )
                },
                (
                    "reference.window: no step of 3 lies wholly in 0.1 to 0.3, so reference 2 has "
                    "no effect.",
                ),
            ),
            ({"references": (replace(REFERENCE, window=(0.1, 0.3)),), "image_scale": 0.0}, ()),
            ({"structures": (replace(EDGES, window=(0.5, 0.6), weight=0.0),)}, ()),
            (
                {"structures": (replace(EDGES, window=(0.5, 0.6), weight=0.001),)},
                (
                    "structure.window: no step of 3 lies wholly in 0.5 to 0.6, so structure 1 "
                    "(canny) has no effect.",
                ),
            ),
            (
                {"structures": (replace(EDGES, image=Image.new("RGB", (64, 64))),)},
                ("structure.image: the map of structure 1 (canny) is empty, so it holds nothing.",),
            ),
            (
                {"structures": (replace(EDGES, image=Image.new("RGB", (64, 64)), weight=0.0),)},
                (),
            ),
            (
                {
                    "structures": (
                        EDGES,
                        replace(EDGES, kind="shuffle", image=Image.new("RGB", (64, 64))),
                    )
                },
                (),
            ),
            ({"references": (REGION,)}, ()),
            (
                {"references": (REFERENCE, replace(REGION, mask=Image.new("L", (64, 64))))},
                ("reference.mask: the region of reference 2 is black, so it has no effect.",),
            ),
            (
                {"references": (replace(REGION, mask=box_mask((8, 8, 9, 16))),)},
                (
                    "reference.mask: the region of reference 1 is too thin or outside of what is "
                    "drawn: the model has cells of 8 pixels, so it has no effect.",
                ),
            ),
            (
                {"references": (replace(REGION, mask=Image.new("L", (64, 64)), weight=0.0),)},
                (),
            ),
            (
                {
                    "references": (replace(REGION, mask=Image.new("L", (64, 64))),),
                    "image_scale": 0.0,
                },
                (),
            ),
            (
                {"references": (replace(REGION, mask=box_mask((0, 0, 40, 40), 96, 64)),)},
                (
                    "reference.mask: the region of reference 1, 96x64, is stretched over the "
                    "output, 64x64.",
                ),
            ),
            (
                {
                    "references": (replace(REGION, mask=box_mask((0, 0, 40, 40), 96, 64)),),
                    "width": 80,
                },
                (),
            ),
            ({"structures": (replace(EDGES, image=picture(3, 72, 64)),)}, ()),  # a step of 8 pixels
            (
                {"structures": (replace(EDGES, image=picture(3, 83, 64)),)},
                (
                    "structure.fit: the picture of structure 1 (canny) is cropped to the "
                    "proportions of the output, 64x64.",
                ),
            ),
            (
                {"init_image": picture(4, 96, 64), "height": 64, "width": 64},
                ("init_image: it is cropped to the proportions of the output, 64x64.",),
            ),
        ],
    )
    def test_of(self, model: BaseModel, fields: dict[str, Any], notes: tuple[str, ...]) -> None:
        assert said(model, **fields) == notes

    def test_of_inpainting(self, model: BaseModel) -> None:
        """A close-up is measured by the picture that it is a part of."""
        given = Inpaint(image=picture(4, 128, 64), mask=box_mask((0, 0, 64, 64), 128, 64))
        near = replace(given, context=0.5)
        wide = replace(EDGES, image=picture(3, 128, 64))
        for inpainted in (given, near):
            assert said(model, inpaint=inpainted, structures=(wide,)) == ()
            [note] = said(model, inpaint=inpainted, structures=(EDGES,))
            assert note == (
                "structure.fit: the picture of structure 1 (canny) is cropped to the "
                f"proportions of the output, {'128x64' if inpainted is near else '88x48'}."
            )
        tiny = replace(given, mask=box_mask((60, 30, 63, 33), 128, 64), background_weight=1.0)
        assert said(model, inpaint=tiny, references=(REFERENCE,)) == (
            "inpaint.mask: it is too small for references to act in it: the model has cells of "
            "8 pixels. A lower inpaint.context draws it larger.",
        )
        own = replace(REFERENCE, mask=box_mask((0, 0, 64, 64), 128, 64))
        assert said(model, inpaint=tiny, references=(own,)) == ()

    def test_of_inpainting_with_other_settings(self, model: BaseModel) -> None:
        given = Inpaint(image=picture(4, 128, 64), mask=box_mask((0, 0, 64, 64), 128, 64))
        assert said(model, inpaint=given, strength=0.5) == (
            "strength has no effect on inpainting: inpaint.strength has.",
        )
        assert said(model, inpaint=given, width=64, height=64) == (
            "inpaint.image: 128x64 is squeezed to 64x64; leave width or height open to keep its "
            "proportions.",
        )
        small = replace(given, mask=box_mask((60, 30, 63, 33), 128, 64))
        [note] = said(model, inpaint=small, references=(REFERENCE,))
        assert note.startswith("inpaint.mask: it is too small for references to act in it")
        without = replace(model, inpaint_adapter=None)
        assert said(without, inpaint=small, references=(REFERENCE,)) == ()

    def test_the_steps_that_a_model_takes(self, model: BaseModel) -> None:
        for recommended, warned in ((4, False), (5, True)):
            entry = replace(model.entry, recommended=Recommended(steps=recommended))
            notes = said(replace(model, entry=entry), steps=2)
            assert notes == (
                (f"steps: 2 of them leave a picture unfinished; tiny takes about {recommended}.",)
                if warned
                else ()
            )

    def test_the_words_that_a_small_model_knows(self, model: BaseModel) -> None:
        entry = replace(model.entry, words=("red", "cube"))
        small = replace(model, entry=entry)
        assert said(small, prompt="<lora:x:1>") == (
            "prompt: a tag is read as plain text: <lora:x:1>",
        )
        unknown = [2 * letter for letter in "bcdefg"]
        assert said(small, prompt=" ".join(["a", *unknown])) == (
            f"prompt: tiny does not know {', '.join(unknown)}. It knows: red, cube.",
        )
        assert said(small, prompt="an old-fashioned cube9 on the_red")[0] == (
            f"prompt: it has 31 tokens; the model reads the first 16{PLAIN}."
        )
        assert said(small, prompt="the_red x9y") == (
            "prompt: tiny does not know x, y. It knows: red, cube.",
        )
        assert said(small, prompt="a red 🍎 cube, ☀️ 🍎")[-1] == (
            "prompt: tiny does not know 🍎, ☀. It knows: red, cube."
        )
        words = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}q" for i in range(60)]
        [_, note] = said(small, prompt=" ".join(words))
        assert note == f"prompt: tiny does not know {', '.join(words):.200}. It knows: red, cube."

    def test_the_synonyms_in_a_models_folder(self, model: BaseModel, tmp_path: Path) -> None:
        (tmp_path / "synonyms.json").write_text('{"cube": ["box", "Polka-dot block"]}')
        entry = replace(model.entry, words=("red", "cube"), folder=tmp_path)
        assert entry.synonyms == ("box", "polka", "dot", "block")
        assert said(replace(model, entry=entry), prompt="a polka box jar") == (
            "prompt: tiny does not know jar. It knows: red, cube.",
        )
        assert replace(entry, words=()).synonyms == ()


class TestPrompts:
    def test_one_that_is_too_long(self, pipeline: ImagePromptPipeline) -> None:
        long = "a cube " * 20
        said = f"it has 102 tokens; the model reads the first 16{PLAIN}."
        assert warnings(pipeline, prompt=long) == (f"prompt: {said}",)
        assert warnings(pipeline, negative_prompt=long) == (f"negative_prompt: {said}",)

    @pytest.mark.parametrize(
        ("prompt", "found"),
        [
            ("a (cube:1.2)", "a weight in brackets is read as plain text: (cube:1.2)"),
            ("(a:.5)", "a weight in brackets is read as plain text: (a:.5)"),
            ("[a:b:0.5]", "a weight in brackets is read as plain text: [a:b:0.5]"),
            ("((a))", "a weight in brackets is read as plain text: (("),
            ("a BREAK b", "BREAK is read as plain text: BREAK"),
            ("<lora:x:1>", "a tag is read as plain text: <lora:x:1>"),
            ("x (a (b) c:1.3)", "a weight in brackets is read as plain text: (a (b) c:1.3)"),
            ("(cube:-0.5)", "a weight in brackets is read as plain text: (cube:-0.5)"),
            ("(a :1.25 )", "a weight in brackets is read as plain text: (a :1.25 )"),
            ("a [cube]", "emphasis by brackets is read as plain text: [cube]"),
            ("a (cube)", "emphasis by brackets is read as plain text: (cube)"),
            ("([cube]) (b)", "emphasis by brackets is read as plain text: ([cube])"),
            ("[a|b]", "a choice in brackets is read as plain text: [a|b]"),
            ("a {a|b}", "a choice in brackets is read as plain text: {a|b}"),
            ("a AND b", "AND is read as plain text: AND"),
            ("embedding:a-2", "an embedding is read as plain text: embedding:a-2"),
            ("(at 10:30)", "emphasis by brackets is read as plain text: (at 10:30)"),
        ],
    )
    def test_markup_that_is_taken_literally(
        self, pipeline: ImagePromptPipeline, prompt: str, found: str
    ) -> None:
        if found.startswith(READ_IF_WEIGHTED):
            found = found.replace(" text:", f" text{PLAIN}:")
        assert warnings(pipeline, prompt=prompt) == (f"prompt: {found}",)
        assert warnings(pipeline, negative_prompt=prompt) == (f"negative_prompt: {found}",)

    @pytest.mark.parametrize(
        ("prompt", "found"),
        [
            ("a (cube:1.2) [b] BREAK ((c))", {}),
            ("[a:b:0.5]", {EDIT: "[a:b:0.5]"}),
            ("[ in front::0.5]", {EDIT: "[ in front::0.5]"}),
            (r"\[a:b:0.5\]", {}),
            ("(a) [b|c]", {CHOICE: "[b|c]"}),
            ("a AND <lora:x:1> {b|c}", {"AND": "AND", "a tag": "<lora:x:1>", CHOICE: "{b|c}"}),
        ],
    )
    def test_markup_that_is_taken_literally_among_weights(
        self, prompt: str, found: dict[str, str]
    ) -> None:
        assert unread_markup(prompt, "weighted") == found

    @pytest.mark.parametrize(
        "prompt",
        [
            "a 16:9",
            "(16:9)",
            "break",
            "(10:30)",
            "a: b",
            "a and b",
            "{a}",
            r"a \(b\)",
            "a :) b (",
            "a | b",
            "embedding: b",
            "1) a 2) b",
            "[1]",
            ")a(",
        ],
    )
    def test_ordinary_brackets_and_colons(self, pipeline: ImagePromptPipeline, prompt: str) -> None:
        assert warnings(pipeline, prompt=prompt) == ()

    @pytest.mark.parametrize(
        "part",
        [
            "(",
            "((",
            "[",
            "(a",
            "(a:",
            "a:1",
            "(a:1",
            "(a)",
            "<lora:",
            "embedding:",
            ":",
            " ",
            "\\",
            "{|",
            "(a:1)",
            "1",
            "(a|",
        ],
    )
    def test_long_markup_takes_no_time(self, part: str) -> None:
        for prompt in (
            (part * 2000)[:2000],
            "(" * 900 + part * 10 + ":1)" * 300,
            "(a:" + " " * 1000 + "1" * 900 + "!)",
        ):
            start = time.process_time()
            unread_markup(prompt, "plain")
            assert time.process_time() - start < 0.01

    def test_words_that_a_small_model_does_not_know(self, model: BaseModel) -> None:
        entry = replace(model.entry, words=("red", "cube"))
        small = ImagePromptPipeline(replace(model, entry=entry))
        assert warnings(small, prompt="a fat Dog, red") == (
            "prompt: tiny does not know fat, dog. It knows: red, cube.",
        )
        assert warnings(small, negative_prompt="dog") == (
            "negative_prompt: tiny does not know dog. It knows: red, cube.",
        )
        assert warnings(small, prompt="a (fat) cube") == (
            f"prompt: emphasis by brackets is read as plain text{PLAIN}: (fat)",
            "prompt: tiny does not know fat. It knows: red, cube.",
        )
        for known in ("a red Cube!", "", "an red cube"):
            assert warnings(small, prompt=known) == ()


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("(b) (a:1.2)", {WEIGHT: "(a:1.2)"}),  # which says the same of all brackets
        ("(a) (b)", {EMPHASIS: "(a)"}),
        ("([a]) [b]", {EMPHASIS: "([a])"}),
        ("{a|b} [c]", {CHOICE: "{a|b}", EMPHASIS: "[c]"}),
        ("[a|b] {c|d}", {CHOICE: "[a|b]"}),
        ("(a|b)", {EMPHASIS: "(a|b)"}),
        ("(X)", {EMPHASIS: "(X)"}),
        ("()", {}),
        ("| (a)", {EMPHASIS: "(a)"}),
        (": (a)", {EMPHASIS: "(a)"}),
        ("{a:1}", {}),
        ("{a}", {}),
        ("((a", {WEIGHT: "(("}),
        ("a))", {WEIGHT: "))"}),
        ("(a]", {}),
        (r"\\(a)", {EMPHASIS: "(a)"}),  # a backslash that is escaped itself
        (r"\(a) (b\)", {}),
        ("x BREAK y AND z", {"BREAK": "BREAK", "AND": "AND"}),
        ("<lora:a:1> <lyco:b>", {"a tag": "<lora:a:1>"}),
        ("embedding:a-2, b", {"an embedding": "embedding:a-2"}),
        ("", {}),
    ],
)
def test_each_kind_of_markup_and_its_first(prompt: str, found: dict[str, str]) -> None:
    assert unread_markup(prompt, "plain") == found


def test_words_with_a_meaning_elsewhere_leave_a_space() -> None:
    assert without_words("aBREAK BREAK b") == "aBREAK   b"
    assert without_words("x<lora:y:1>z embedding:w") == "x z  "
    assert without_words("(a) [b]") == "(a) [b]"


def test_pndm_takes_one_step_twice_from_two_on() -> None:
    asked = [GenerateRequest(sampler="pndm", steps=steps) for steps in (1, 2, 3)]
    assert [steps_taken(request) for request in asked] == [1, 3, 4]
    given = Inpaint(image=picture(1), mask=box_mask((8, 8, 40, 40)), strength=0.5)
    for passes, calls in ((1, 4), (3, 10)):
        request = GenerateRequest(inpaint=replace(given, repaint_passes=passes), steps=8)
        assert unet_calls(request) == calls
    assert unet_calls(GenerateRequest(steps=5)) == 5


class TestGuidance:
    def test_what_needs_guidance(self, pipeline: ImagePromptPipeline) -> None:
        negative = Reference(image=picture(2), negative=True)
        fields = {
            "references": (REFERENCE, negative),
            "negative_prompt": "b",
            "guidance_rescale": 0.5,
            "guidance_window": (0.0, 0.5),
        }
        assert warnings(pipeline, guidance=1.0, **fields) == (
            "negative_prompt has no effect at guidance 1.",
            "reference.negative: a negative reference has no effect at guidance 1.",
            "guidance_rescale has no effect at guidance 1.",
            "guidance_window has no effect at guidance 1.",
        )
        assert warnings(pipeline, **fields) == ()

    def test_the_recommended_window_is_nobodys_choice(
        self, entry: CatalogEntry, pipeline: ImagePromptPipeline
    ) -> None:
        own = replace(entry, recommended=replace(entry.recommended, guidance_window=(0.0, 0.5)))
        recommending = load(own, device="cpu")
        fields = {"references": (REFERENCE,), "guidance": 1.0}
        assert warnings(recommending, guidance_window=(0.0, 0.5), **fields) == ()
        assert warnings(recommending, guidance_window=(0.0, 0.4), **fields) == (
            "guidance_window has no effect at guidance 1.",
        )

    def test_it_is_true(self, pipeline: ImagePromptPipeline) -> None:
        """None of the four changes a pixel there."""
        plain = GenerateRequest(references=(REFERENCE,), guidance=1.0, steps=3)
        said = replace(
            plain,
            references=(REFERENCE, Reference(image=picture(2), negative=True)),
            negative_prompt="b",
            guidance_rescale=0.5,
            guidance_window=(0.0, 0.5),
        )
        assert pipeline.generate(plain).images == pipeline.generate(said).images

    def test_a_window_that_no_step_lies_in(self, pipeline: ImagePromptPipeline) -> None:
        """Then a prompt that nothing reads is not too long, either."""
        fields = {"guidance_window": (0.4, 0.6), "negative_prompt": "a" * 15}
        assert warnings(pipeline, **fields) == (
            "guidance_window: no step of 3 lies wholly in 0.4 to 0.6, so guidance has no effect.",
        )

    def test_a_window_that_no_step_of_the_second_pass_lies_in(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        fields = {"guidance_window": (0.0, 0.7), "steps": 10, "upscale": Upscale(strength=0.3)}
        assert warnings(pipeline, **fields) == ()
        fields["upscale"] = Upscale(strength=0.1)
        assert warnings(pipeline, **fields) == (
            "guidance_window: no step of 1 lies wholly in 0 to 0.7, so guidance has no effect in "
            "that pass.",
        )

    def test_a_negative_reference_outside_of_it(self, pipeline: ImagePromptPipeline) -> None:
        early = Reference(image=picture(2), negative=True, window=(0.0, 0.4))
        fields = {"references": (REFERENCE, early), "guidance_window": (0.5, 1.0)}
        assert warnings(pipeline, **fields) == (
            "reference.window: reference 2 is negative, and guidance_window has no step of it, "
            "so it has no effect.",
        )
        assert warnings(pipeline, **fields | {"guidance_window": (0.0, 0.5)}) == ()
        [note] = warnings(pipeline, **fields | {"guidance_window": (0.4, 0.6)})
        assert note.startswith("guidance_window: ")


class TestWindows:
    @pytest.mark.parametrize(
        "fields",
        [
            {"image_window": (0.4, 0.6), "references": (REFERENCE,)},
            {"references": (replace(REFERENCE, window=(0.4, 0.6)),)},
            {"references": (replace(REFERENCE, window=(0.0, 0.5)),), "image_window": (0.6, 1.0)},
        ],
    )
    def test_one_that_no_step_lies_in(
        self, pipeline: ImagePromptPipeline, fields: dict[str, Any]
    ) -> None:
        [note] = warnings(pipeline, **fields)
        assert "no step of 3 lies wholly in" in note
        assert note.startswith(("image_window: ", "reference.window: "))
        silent = GenerateRequest(steps=3, guidance=3.0)
        done = pipeline.generate(replace(silent, **fields))
        assert done.images == pipeline.generate(silent).images, "the note is true"

    def test_a_structure_s(self, pipeline: ImagePromptPipeline) -> None:
        assert warnings(pipeline, structures=(EDGES, replace(EDGES, window=(0.5, 0.6)))) == (
            "structure.window: no step of 3 lies wholly in 0.5 to 0.6, so structure 2 (canny) has "
            "no effect.",
        )

    def test_the_steps_are_those_that_are_taken(self, pipeline: ImagePromptPipeline) -> None:
        late = (replace(REFERENCE, window=(0.8, 1.0)),)
        assert warnings(pipeline, references=late, steps=10) == ()
        [note] = warnings(pipeline, references=late, steps=10, strength=0.3, init_image=picture(4))
        assert "no step of 3" in note

    @pytest.mark.parametrize("sampler", SAMPLERS)
    @pytest.mark.parametrize("strength", [0.05, 0.37, 1.0])
    @pytest.mark.parametrize("steps", [1, 7, 20])
    def test_how_many_are_taken(
        self, model: BaseModel, sampler: Any, strength: float, steps: int
    ) -> None:
        request = GenerateRequest(
            init_image=picture(1), sampler=sampler, strength=strength, steps=steps
        )
        scheduler = new_scheduler(sampler, model.scheduler_config)
        taken = Schedule(scheduler, steps, strength)
        assert steps_taken(request) == len(taken)
        assert steps_taken(replace(request, init_image=None)) == steps + (
            sampler == "pndm" and steps > 1
        )

    @pytest.mark.parametrize("sampler", SAMPLERS)
    @pytest.mark.parametrize("repaint_passes", [1, 3])
    def test_how_often_the_unet_runs(
        self, pipeline: ImagePromptPipeline, model: BaseModel, sampler: Any, repaint_passes: int
    ) -> None:
        given = Inpaint(
            image=picture(1),
            mask=box_mask((8, 8, 40, 40)),
            strength=0.6,
            repaint_passes=repaint_passes,
        )
        request = GenerateRequest(inpaint=given, steps=5, sampler=sampler)
        calls: list[Any] = []
        hook = model.unet.register_forward_hook(lambda *_: calls.append(None))
        try:
            pipeline.generate(request)
        finally:
            hook.remove()
        assert len(calls) == unet_calls(request)
        assert effective_request(request).sampler == ("ddim" if repaint_passes > 1 else sampler)


class TestRegions:
    @pytest.mark.parametrize(
        ("mask", "why"),
        [
            (Image.new("L", (64, 64)), "is black"),
            (
                box_mask((31, 0, 32, 64)),
                "is too thin or outside of what is drawn: the model has cells of 8 pixels",
            ),
            (box_mask((0, 31, 64, 32)), "is too thin or outside"),
            (box_mask((310, 0, 311, 640), 640, 640), "is too thin or outside"),
        ],
    )
    def test_one_that_reaches_no_place(
        self, pipeline: ImagePromptPipeline, mask: Image.Image, why: str
    ) -> None:
        masked = Reference(image=picture(2), mask=mask)
        [note] = warnings(pipeline, references=(REFERENCE, masked))
        assert note.startswith(f"reference.mask: the region of reference 2 {why}")
        assert note.endswith("so it has no effect.")

    def test_one_that_is_wide_enough(self, pipeline: ImagePromptPipeline) -> None:
        for mask in (box_mask((16, 16, 32, 32)), box_mask((0, 0, 8, 64))):
            assert warnings(pipeline, references=(Reference(image=picture(2), mask=mask),)) == ()
        edge = Reference(image=picture(2), mask=box_mask((0, 0, 8, 32), 128, 32))
        assert warnings(pipeline, references=(edge,), width=128, height=32) == ()

    def test_cells_are_those_of_the_first_block_with_attention(self, model: BaseModel) -> None:
        fine = replace(model, unet=tiny_unet())
        thin = Reference(image=picture(2), mask=box_mask((31, 0, 32, 64)))
        for base, cell in ((model, 8), (fine, 4)):
            [note] = said(base, references=(thin,))
            assert f"the model has cells of {cell} pixels" in note

    def test_one_outside_a_close_up(self, pipeline: ImagePromptPipeline) -> None:
        given = Inpaint(
            image=picture(4, 128, 128), mask=box_mask((0, 0, 24, 24), 128, 128), context=0.0
        )
        away = Reference(image=picture(2), mask=box_mask((64, 64, 128, 128), 128, 128))
        [note] = warnings(pipeline, inpaint=given, references=(away,))
        assert "the region of reference 1 is too thin or outside of what is drawn" in note
        assert warnings(pipeline, inpaint=replace(given, context=1.0), references=(away,)) == ()

    def test_a_mask_too_small_for_references_to_act_in(self, pipeline: ImagePromptPipeline) -> None:
        given = Inpaint(
            image=picture(4, 128, 128),
            mask=box_mask((60, 60, 63, 63), 128, 128),
            background_weight=1.0,
        )
        [note] = warnings(pipeline, inpaint=given, references=(REFERENCE,))
        assert note.startswith("inpaint.mask: it is too small for references to act in it")
        assert (
            warnings(pipeline, inpaint=replace(given, context=0.2), references=(REFERENCE,)) == ()
        )

    def test_one_of_another_shape(self, pipeline: ImagePromptPipeline) -> None:
        wide = Reference(image=picture(2), mask=box_mask((0, 0, 60, 40), 120, 40))
        assert warnings(pipeline, references=(wide,)) == (
            "reference.mask: the region of reference 1, 120x40, is stretched over the output, "
            "64x64.",
        )
        assert warnings(pipeline, references=(wide,), width=96, height=32) == ()


class TestShapes:
    def test_a_picture_to_inpaint_that_both_sides_squeeze(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        given = Inpaint(image=picture(4, 128, 64), mask=box_mask((0, 0, 64, 64), 128, 64))
        assert warnings(pipeline, inpaint=given, width=64, height=64) == (
            "inpaint.image: 128x64 is squeezed to 64x64; leave width or height open to keep its "
            "proportions.",
        )
        assert (
            warnings(pipeline, inpaint=given) == warnings(pipeline, inpaint=given, width=64) == ()
        )

    @pytest.mark.parametrize(
        ("shape", "sides", "drawn", "why"),
        [
            (
                (100, 100),
                {"width": 2048},
                "2048x512",
                "width 2048 leaves at most 512 beside it: a "
                "picture has at most 1024 x 1024 pixels; a width of 1024 or less keeps the "
                "proportions",
            ),
            (
                (100, 100),
                {"height": 1600},
                "648x1600",
                "height 1600 leaves at most 648 beside it: a "
                "picture has at most 1024 x 1024 pixels; a height of 1024 or less keeps the "
                "proportions",
            ),
            (
                (160, 90),
                {"width": 1600},
                "1600x648",
                "width 1600 leaves at most 648 beside it: a "
                "picture has at most 1024 x 1024 pixels; a width of 1360 or less keeps the "
                "proportions",
            ),
            (
                (120, 40),
                {"width": 40},
                "40x32",
                "width 40 would have 13 beside it: a side has at least "
                "32 pixels; a width of 96 or more keeps the proportions",
            ),
            (
                (50, 500),
                {"width": 256},
                "256x1024",
                "at most 4 to 1 is drawn; inpaint.context below 1 draws less of it",
            ),
            (
                (500, 50),
                {"width": 2048},
                "2048x512",
                "at most 4 to 1 is drawn; inpaint.context below 1 draws less of it",
            ),
        ],
    )
    def test_a_picture_to_inpaint_that_one_side_squeezes(
        self,
        pipeline: ImagePromptPipeline,
        model: BaseModel,
        shape: tuple[int, int],
        sides: dict[str, int],
        drawn: str,
        why: str,
    ) -> None:
        given = Inpaint(image=picture(4, *shape), mask=box_mask((0, 0, 40, 40), *shape))
        request = GenerateRequest(inpaint=given, steps=3, **sides)
        size = working_size(request, 1024)
        [note] = [
            n
            for n in warnings_for(request, crop_to_mask(request), size, (), model)
            if n.startswith("inpaint.image")
        ]
        assert note == (f"inpaint.image: {shape[0]}x{shape[1]} is squeezed to {drawn}; {why}.")
        if "keeps" in why:  # and it does
            [(name, _)] = sides.items()
            kept = replace(request, **{name: int(why.split(" of ")[1].split()[0])})
            assert not warnings_for(kept, crop_to_mask(kept), working_size(kept, 1024), (), model)

    def test_a_start_that_both_sides_crop(self, pipeline: ImagePromptPipeline) -> None:
        wide = picture(4, 192, 64)
        fields = {"width": 64, "height": 64, "strength": 0.5, "steps": 4}
        request = GenerateRequest(init_image=wide, **fields)
        result = pipeline.generate(request)
        assert result.warnings == (
            "init_image: it is cropped to the proportions of the output, 64x64.",
        )
        middle = replace(request, init_image=wide.crop((64, 0, 128, 64)))
        assert result.images == pipeline.generate(middle).images
        assert warnings(pipeline, init_image=wide) == ()


class TestMaps:
    @pytest.mark.parametrize("annotator", ["canny", "lineart", "none"])
    def test_an_empty_one(self, pipeline: ImagePromptPipeline, annotator: str) -> None:
        flat = Structure(
            kind="canny", image=Image.new("RGB", (64, 64), "teal"), annotator=annotator
        )
        assert warnings(pipeline, structures=(EDGES, flat)) == (
            "structure.image: the map of structure 2 (canny) is empty, so it holds nothing.",
        )
        assert warnings(pipeline, structures=(replace(flat, weight=0.0),)) == ()

    def test_one_colour_is_a_palette(self, pipeline: ImagePromptPipeline) -> None:
        flat = Structure(kind="palette", image=Image.new("RGB", (64, 64), "teal"))
        assert warnings(pipeline, structures=(flat,)) == ()


def test_layers_that_reach_nothing(pipeline: ImagePromptPipeline) -> None:
    silent = (0.0,) * 7
    assert warnings(pipeline, image_layers=silent) == (
        "image_layers has no effect without a reference.",
    )
    assert warnings(pipeline, image_layers=silent, references=(REFERENCE,)) == (
        "image_layers: all factors are 0, so references have no effect.",
    )
    assert warnings(pipeline, image_layers=(0.0,) * 6 + (1.0,), references=(REFERENCE,)) == ()


def test_the_strength_that_does_not_count(pipeline: ImagePromptPipeline) -> None:
    given = Inpaint(image=picture(4), mask=box_mask((8, 8, 40, 40)), strength=0.5)
    assert warnings(pipeline, inpaint=given, strength=0.5) == (
        "strength has no effect on inpainting: inpaint.strength has.",
    )
    assert warnings(pipeline, inpaint=given) == ()


def test_one_or_two_steps(model: BaseModel, pipeline: ImagePromptPipeline) -> None:
    slow = ImagePromptPipeline(
        replace(model, entry=replace(model.entry, recommended=Recommended(steps=20)))
    )
    for steps in (1, 2):
        assert warnings(slow, steps=steps) == (
            f"steps: {steps} of them leave a picture unfinished; tiny takes about 20.",
        )
    assert warnings(slow, steps=3) == ()
    for sampler in FEW_STEP_SAMPLERS:
        assert warnings(slow, steps=1, sampler=sampler) == (), "they are made for few"
    assert warnings(pipeline, steps=2) == (), "it is made for three"


def test_the_command_line_says_them(
    pipeline: ImagePromptPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    picture(3, 192, 64).save(tmp_path / "C.png")
    words = [
        "generate",
        "--structure",
        f"canny:none={tmp_path / 'C.png'}",
        "--structure-fit",
        "pad",
        "--steps",
        "2",
        "--guidance",
        "1",
        "--negative-prompt",
        "b",
        "--out",
        out,
    ]
    assert cli.main(words, lambda *_, **__: pipeline) == 0
    assert capsys.readouterr().err.splitlines() == [
        "negative_prompt has no effect at guidance 1.",
        "structure.fit: the picture of structure 1 (canny) is padded to the proportions "
        "of the output, 64x64.",
    ]


class TestOrdinary:
    """What the page begins with and offers, on the model that is built in."""

    @pytest.fixture(scope="class")
    @staticmethod
    def tabletop() -> ImagePromptPipeline:
        import torch

        return ImagePromptPipeline(load_base_model(TABLETOP, "cpu", torch.float32))

    @staticmethod
    def said(pipeline: ImagePromptPipeline, request: GenerateRequest) -> tuple[str, ...]:
        return warnings_for(
            request,
            crop_to_mask(request),
            pipeline.working_size(request),
            pipeline.structure_maps(request),
            pipeline._model,
        )

    def test_the_page_s_examples(
        self, tabletop: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows: list[tuple[Any, Any, Any]] = []
        for module in (variation, image_text, structure, inpaint):
            monkeypatch.setattr(module, "examples", lambda *given: rows.append(given))
        manager, requests = ModelManager(tabletop), []
        for kind in TABS.values():
            rows.clear()
            with gr.Blocks():
                tab = build_tab(manager, model_input(manager), kind)
            [(_, inputs, examples)] = rows
            for example in examples:
                requests.append(kind.translate(**self.values(tab.inputs, inputs, example)))
        assert len(requests) >= 12
        for request in requests:
            assert self.said(tabletop, request) == ()
            assert effective_request(request) == request, "what is drawn is what is asked for"

    @staticmethod
    def values(widgets: dict[str, Any], inputs: list[Any], example: list[Any]) -> dict[str, Any]:
        values = {}
        for name, widget in widgets.items():
            if name in ("model", "attention", "shape", "random_seed", "live"):
                continue
            picture = isinstance(widget, (gr.Image, gr.ImageEditor))
            value = None if picture else widget.value
            if name in ("width", "height"):
                value = value or None  # as request_from_values reads 0
            if widget in inputs and (cell := example[inputs.index(widget)]) is not None:
                value = cell
                if picture:
                    value = read_image(FOLDER / cell)
                if isinstance(widget, gr.ImageEditor):
                    value = Painting(value, Image.new("L", value.size), value.size)
            values[name] = value
        values["guidance_window"] = (values.pop("guidance_start"), values.pop("guidance_end"))
        if "upscale_factor" in values:
            values["upscale"] = upscale_from_values(values)
        return values

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"prompt": "a red striped sphere on a green plain floor with a blue wall"},
            {"prompt": "an orange cube and a solid", "negative_prompt": "cone"},
            {"width": 256, "height": 64},
            {"init_image": picture(1, 192, 108)},
            {"image_scale": 0.0, "references": (REFERENCE,)},
        ],
    )
    def test_plain_requests(self, tabletop: ImagePromptPipeline, fields: dict[str, Any]) -> None:
        assert self.said(tabletop, GenerateRequest(**fields)) == ()

    def test_scenes_keep_their_edges(self) -> None:
        """The thresholds for pale pictures are for none that the model was trained on."""
        import cv2

        from ipadapter_demo.models.annotators import annotate
        from ipadapter_demo.tabletop.render import render
        from ipadapter_demo.tabletop.scene import sample_scenes

        drawn = render(sample_scenes(40, 1)).pixels.permute(0, 2, 3, 1).numpy() * 255
        for scene in drawn.round().clip(0, 255).astype(np.uint8):
            edges = np.asarray(annotate("canny", Image.fromarray(scene)))[..., 0]
            assert np.array_equal(edges, cv2.Canny(scene, 100, 200))


@pytest.fixture(autouse=True)
def no_blocks_stay_open() -> Iterator[None]:
    yield
    assert gr.context.Context.root_block is None
