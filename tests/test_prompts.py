"""Prompts with weights, of any length, in windows; clip skip; SDXL's second prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.prompt_windows import windows_of, worded
from ipadapter_demo.models.text import PromptEncoder
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.pipeline.conditioning import Conditioner
from ipadapter_demo.pipeline.conditions import Conditions
from ipadapter_demo.prompt_syntax import parts_of
from ipadapter_demo.record import request_from_json, request_to_json
from ipadapter_demo.request import GenerateRequest, Structure
from tests.oracle import assert_same, loaded, pixels_of, reference, request, theirs
from tests.tiny import (
    picture,
    randomise,
    tiny_sdxl_text_encoder,
    tiny_text_encoder,
    tiny_tokenizer,
    write_tiny_sdxl,
)

LONG = "a red cube, and a blue cone on a floor"  # 30 letters, of which a window reads 14


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> CatalogEntry:
    """With text encoders of three layers: one that is left out leaves one to skip."""
    entry = write_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny-xl")
    for number, name in enumerate(("text_encoder", "text_encoder_2")):
        config = tiny_sdxl_text_encoder(21 + number, second=number > 0).config
        config.num_hidden_layers = 3
        kind = type(tiny_sdxl_text_encoder(0, second=number > 0))
        torch.manual_seed(number)
        kind(config).save_pretrained(entry.folder / name)
    return entry


def diffusers_sd(entry: CatalogEntry) -> Any:
    found = loaded(StableDiffusionPipeline, entry)
    # diffusers 0.42 looks for the last norm where transformers 4 had it
    object.__setattr__(found.text_encoder, "text_model", found.text_encoder)
    return found


def diffusers_xl(entry: CatalogEntry) -> Any:
    return loaded(
        StableDiffusionXLPipeline,
        entry,
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(entry.folder / "image_encoder"),
        feature_extractor=CLIPImageProcessor.from_pretrained(entry.folder / "feature_extractor"),
    )


def read(model: BaseModel, **fields: Any) -> Conditions:
    wanted = GenerateRequest(**{"steps": 2, "guidance": 3.0, **fields})
    return Conditioner(model).condition(wanted, (64, 64))


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    text = tiny_text_encoder()
    randomise(text)
    return PromptEncoder((tiny_tokenizer(),), (text,))


class TestTheRule:
    """As https://github.com/AUTOMATIC1111/stable-diffusion-webui publishes it: in its wiki, and in
    the examples of `parse_prompt_attention`."""

    @pytest.mark.parametrize(
        ("prompt", "found"),
        [
            ("normal text", [("normal text", 1.0)]),
            ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
            ("(unbalanced", [("unbalanced", 1.1)]),
            (r"\(literal\]", [("(literal]", 1.0)]),
            ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
            (
                "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
                [
                    ("a ", 1.0),
                    ("house", 1.3 * 1.1 * 1.1),
                    (" ", 1.1),
                    ("on", 1.0),
                    (" a ", 1.1),
                    ("hill", 0.55),
                    (", sun, ", 1.1),
                    ("sky", 1.1**4),
                    (".", 1.1),
                ],
            ),
            ("a [word]", [("a ", 1.0), ("word", 1 / 1.1)]),
            ("a [[word]]", [("a ", 1.0), ("word", 1 / 1.1**2)]),
            ("a (word: 0.25 )", [("a ", 1.0), ("word", 0.25)]),
            ("(a:-.5)", [("a", -0.5)]),
            ("(a:+2.)", [("a", 2.0)]),
            ("(at 10:30)", [("at 10", 30.0)]),
            ("(a:b)", [("a:b", 1.1)]),
            ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
            ("a) b]", [("a) b]", 1.0)]),
            ("a:1.3)", [("a:1.3)", 1.0)]),
            (r"a \\ b \c", [("a \\ b c", 1.0)]),
            (r"(a\)b:1.5)", [("a)b", 1.5)]),
            ("", []),
        ],
    )
    def test_weights(self, prompt: str, found: list[tuple[str, float]]) -> None:
        [part] = parts_of(prompt)
        assert [fragment.text for fragment in part] == [text for text, _ in found]
        weights = [fragment.weight for fragment in part]
        assert weights == pytest.approx([weight for _, weight in found], abs=1e-12)

    @pytest.mark.parametrize(
        ("prompt", "found"),
        [
            ("a BREAK b", [["a"], ["b"]]),
            ("a\nBREAK\n\nb", [["a"], ["b"]]),
            ("BREAK a", [[], ["a"]]),
            ("a BREAK BREAK b", [["a"], [], ["b"]]),
            ("aBREAK BREAKs break", [["aBREAK BREAKs break"]]),
            ("(a BREAK b:1.2) c", [["a"], ["b", " c"]]),
        ],
    )
    def test_break(self, prompt: str, found: list[list[str]]) -> None:
        assert [[fragment.text for fragment in part] for part in parts_of(prompt)] == found

    def test_the_states_are_multiplied_and_keep_their_mean(self, encoder: PromptEncoder) -> None:
        plain = encoder.encode("a red cube").states
        weights = torch.ones(16)
        weights[2:5] = 1.3  # behind the beginning and "a"
        expected = plain * weights[:, None]
        expected *= plain.mean() / expected.mean()
        found = encoder.encode_windows("a (red:1.3) cube", 1).states
        assert torch.equal(found, expected)
        assert not torch.allclose(found, plain)
        assert found.mean().item() == pytest.approx(plain.mean().item(), rel=1e-3)

    def test_each_window_keeps_its_own_mean(self, encoder: PromptEncoder) -> None:
        first, second = encoder.encode("a").states, encoder.encode("b").states
        found = encoder.encode_windows("a BREAK (b:2)", 2).states
        assert torch.equal(found[:, :16], first)
        assert found[:, 16:].mean().item() == pytest.approx(second.mean().item(), rel=1e-3)

    def test_without_markup_it_is_the_plain_prompt_bit_for_bit(
        self, encoder: PromptEncoder
    ) -> None:
        for prompt in ("a red cube", "", "a, b", "a" * 14):
            assert torch.equal(
                encoder.encode_windows(prompt, 1).states, encoder.encode(prompt).states
            )


class TestWindows:
    @pytest.mark.parametrize(
        ("prompt", "found"),
        [
            ("", [""]),
            ("a" * 14, ["a" * 14]),
            ("a" * 15, ["a" * 14, "a"]),
            ("a" * 28 + "b", ["a" * 14, "a" * 14, "b"]),
            ("aaaa, bbbbbbbbbbbb", ["aaaa,", "bbbbbbbbbbbb"]),  # the part behind the comma is whole
            ("a" * 13 + ", b", ["a" * 13 + ",", "b"]),
            ("a" * 14 + ", b", ["a" * 14, ",b"]),
            ("a, " + "b" * 30, ["a,", "b" * 14, "b" * 14, "bb"]),
            ("a BREAK b", ["a", "b"]),
            ("BREAK a", ["", "a"]),
            ("a BREAK", ["a"]),
            ("a" * 14 + " BREAK b", ["a" * 14, "b"]),
        ],
    )
    def test_where_they_end(self, prompt: str, found: list[str]) -> None:
        tokenizer = tiny_tokenizer()
        windows = [[token for token, _ in window] for window in windows_of(tokenizer, prompt)]
        assert [tokenizer.decode(window).replace(" ", "") for window in windows] == found

    def test_a_comma_that_is_far_back_ends_nothing(self) -> None:
        tokenizer = tiny_tokenizer()
        tokenizer.model_max_length = 32
        for behind, first in ((0, 30), (1, 29), (19, 11), (20, 30), (21, 30)):
            prompt = "a" * (29 - behind) + "," + "b" * (behind + 5)
            assert len(windows_of(tokenizer, prompt)[0]) == first, behind

    @pytest.mark.parametrize("word", ["<cat>", "aCat"])
    def test_a_learnt_word_of_several_vectors_stays_in_one(self, word: str) -> None:
        tokenizer, names = tiny_tokenizer(), [word, f"{word}_1", f"{word}_2"]
        tokenizer.add_tokens(names)
        ids = tokenizer.convert_tokens_to_ids(names)
        assert worded(tokenizer, f"b {word}, b") == f"b {' '.join(names)}, b"
        windows = windows_of(tokenizer, "a" * 12 + f" ({word}:1.5) b")
        assert [len(window) for window in windows] == [12, 4]
        assert windows[1][:3] == [(token, 1.5) for token in ids]

    def test_a_learnt_word_is_whole_in_any_case(self) -> None:
        """As tokenizers read it, and not within a longer one."""
        tokenizer, names = tiny_tokenizer(), ["aCat", "aCat_1", "aCat_2", "aCats", "aCats_1"]
        tokenizer.add_tokens(names)
        numbers = dict(zip(names, tokenizer.convert_tokens_to_ids(names), strict=True))
        for text, expected in (
            ("ACAT", names[:3]),
            ("acat", names[:3]),
            ("Acats", names[3:]),
            ("acat aCats", names),
            ("aCats acat", names[3:] + names[:3]),
        ):
            [window] = windows_of(tokenizer, text)
            assert [token for token, _ in window] == [numbers[name] for name in expected], text

    def test_each_is_read_as_a_whole_prompt(self, encoder: PromptEncoder) -> None:
        parts = ["a red cube,", "and a blue cone", "on a floor", ""]
        assert encoder.count_windows("a red cube, and a blue cone BREAK on a floor") == 3
        found = encoder.encode_windows("a red cube, and a blue cone BREAK on a floor", 4).states
        expected = torch.cat([encoder.encode(part).states for part in parts], dim=1)
        assert torch.equal(found, expected)

    def test_both_halves_are_of_one_length(self, model: BaseModel) -> None:
        """The shorter one goes on with empty windows."""
        weighted = {"prompt_syntax": "weighted"}
        conditions = read(model, prompt=LONG, negative_prompt="blur", **weighted)
        negative, positive = conditions.text_states
        assert len(negative) == len(positive) == 48
        text = model.text
        empty = text.encode("").states[0]
        blur = text.encode("blur").states[0]
        assert torch.equal(negative, torch.cat([blur, empty, empty]))
        conditions = read(model, prompt="a", negative_prompt=LONG, **weighted)
        assert torch.equal(conditions.text_states[1, 16:], torch.cat([empty, empty]))

    def test_a_prompt_alone_has_its_own_length(self, model: BaseModel) -> None:
        conditions = read(
            model, prompt="a", negative_prompt=LONG, guidance=1.0, prompt_syntax="weighted"
        )
        assert conditions.text_states.shape[:2] == (1, 16)

    def test_pictures_equal_those_of_diffusers_with_the_same_states(
        self, entry: CatalogEntry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Law 4, with an image prompt and a ControlNet's place in the same layers."""
        ours = pixels_of(load(entry), monkeypatch)
        oracle = diffusers_sd(entry)

        def states(prompt: str) -> Tensor:
            return oracle.encode_prompt(prompt, "cpu", 1, False)[0]

        expected = theirs(
            oracle,
            entry,
            scale=0.7,
            ip_adapter_image=reference().image,
            prompt=None,
            negative_prompt=None,
            prompt_embeds=torch.cat([states("a red cube,"), states("and")], dim=1),
            negative_prompt_embeds=torch.cat([states("blur"), states("")], dim=1),
        )
        asked = request(
            prompt="a red cube, BREAK and",
            prompt_syntax="weighted",
            references=(reference(),),
            image_scale=0.7,
        )
        assert_same(ours(asked), expected)

    def test_a_controlnet_reads_the_same(self, model: BaseModel) -> None:
        pipeline = ImagePromptPipeline(model)
        seen: list[Tensor] = []
        net = model.structures["canny"].net
        hook = net.register_forward_pre_hook(
            lambda module, args, given: seen.append(given["encoder_hidden_states"]),
            with_kwargs=True,
        )
        edges = Structure(kind="canny", image=picture(3), annotator="none")
        asked = GenerateRequest(
            prompt=LONG, prompt_syntax="weighted", steps=1, guidance=3.0, structures=(edges,)
        )
        try:
            pipeline.generate(asked)
        finally:
            hook.remove()
        expected = read(model, prompt=LONG, prompt_syntax="weighted", steps=1).text_states
        assert torch.equal(seen[0], expected)

    @pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
    def test_there_are_eight_at_most(self, pipeline: ImagePromptPipeline, field: str) -> None:
        fields = {"prompt_syntax": "weighted", "steps": 1, "guidance": 2.0}
        pipeline.generate(GenerateRequest(**{field: "a" * 14 * 8}, **fields))
        with pytest.raises(RequestError) as refusal:
            pipeline.generate(GenerateRequest(**{field: "BREAK " * 8 + "a"}, **fields))
        assert str(refusal.value) == f"{field} must fit in 8 windows of 14 tokens, got 9"


def test_only_prompts_of_one_length_share_a_call(model: BaseModel) -> None:
    """Law 3: a picture is as it is by itself, whatever lengths are drawn beside it."""
    alone, shared = ImagePromptPipeline(model), ImagePromptPipeline(model, share_steps=4)
    fields = {"steps": 2, "guidance": 3.0, "prompt_syntax": "weighted"}
    requests = [
        GenerateRequest(prompt=prompt, **fields)
        for prompt in ("a (cube:1.3)", LONG, "a cube", "(" + LONG + ")")
    ]
    rows: list[tuple[int, int]] = []
    hook = model.unet.register_forward_pre_hook(
        lambda module, args, given: rows.append(given["encoder_hidden_states"].shape[:2]),
        with_kwargs=True,
    )
    try:
        found = [result.images[0] for result in shared.generate_all(requests)]
    finally:
        hook.remove()
    assert set(rows) == {(4, 16), (4, 48)}
    for image, wanted in zip(found, requests, strict=True):
        other = alone.generate(wanted).images[0]
        pairs = zip(image.tobytes(), other.tobytes(), strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1


def test_what_is_read_once_is_kept_by_all_that_it_depends_on(model: BaseModel) -> None:
    conditioner = Conditioner(model)
    base = GenerateRequest(prompt="a (cube)", guidance=1.0, steps=1)
    asked = [
        base,
        replace(base, prompt_syntax="weighted"),
        replace(base, clip_skip=1),
        replace(base, prompt_syntax="weighted", clip_skip=1),
    ]
    for _ in range(2):
        states = [conditioner.condition(one, (64, 64)).text_states for one in asked]
        for i, one in enumerate(states):
            assert all(one.shape != two.shape or not torch.equal(one, two) for two in states[:i])
    assert len(conditioner.prompts.cache._entries) == 4


class TestClipSkip:
    def test_it_equals_diffusers(
        self, entry: CatalogEntry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Law 4: there too the negative prompt is read by all layers."""
        ours = pixels_of(load(entry), monkeypatch)
        expected = theirs(diffusers_sd(entry), entry, clip_skip=1)
        assert_same(ours(request(clip_skip=1)), expected)
        assert (ours(request()) - expected).abs().max() > 1e-3

    def test_it_equals_diffusers_for_sdxl(
        self, xl: CatalogEntry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours = pixels_of(load(xl), monkeypatch)
        expected = theirs(diffusers_xl(xl), xl, clip_skip=1)
        assert_same(ours(request(clip_skip=1)), expected)
        assert (ours(request()) - expected).abs().max() > 1e-3

    def test_its_limits(self, pipeline: ImagePromptPipeline) -> None:
        for given in (-1, 12, 0.5, "1"):
            with pytest.raises(RequestError, match="clip_skip must"):
                GenerateRequest(clip_skip=given)  # type: ignore[arg-type]
        with pytest.raises(RequestError) as refusal:
            pipeline.generate(GenerateRequest(clip_skip=2, steps=1))
        assert str(refusal.value) == (
            "clip_skip must be from 0 to 1 for this model, whose text encoder has 2 layers, got 2"
        )


class TestTheSecondPrompt:
    @pytest.mark.parametrize(
        ("ours", "other"),
        [
            ({"prompt_2": "a cone"}, {"prompt_2": "a cone"}),
            ({"negative_prompt_2": "dull"}, {"negative_prompt_2": "dull"}),
            (
                {"prompt_2": "b", "negative_prompt": "", "negative_prompt_2": "dull"},
                {"prompt_2": "b", "negative_prompt": "", "negative_prompt_2": "dull"},
            ),
            ({"prompt_2": "", "negative_prompt": ""}, {"negative_prompt": None}),
            ({"prompt_2": "b", "clip_skip": 1}, {"prompt_2": "b", "clip_skip": 1}),
        ],
    )
    def test_it_equals_diffusers(
        self,
        xl: CatalogEntry,
        monkeypatch: pytest.MonkeyPatch,
        ours: dict[str, Any],
        other: dict[str, Any],
    ) -> None:
        drawn = pixels_of(load(xl), monkeypatch)(request(**ours))
        assert_same(drawn, theirs(diffusers_xl(xl), xl, **other))

    def test_it_has_weights_and_windows_too(self, xl: CatalogEntry) -> None:
        model = load(xl)._model
        weighted = {"prompt_syntax": "weighted", "guidance": 2.0}
        conditions = read(model, prompt="a", prompt_2="b BREAK (c:1.4)", **weighted)
        assert conditions.text_states.shape[1] == 32
        width = model.text.encoders[0].config.hidden_size
        own, second = conditions.text_states[1].split([width, 24 - width], dim=-1)
        plain = [model.text.encode(text, second=other).states[0] for text, other in (("a", "b"),)]
        assert torch.equal(own[:16], plain[0][:, :width])
        assert torch.equal(second[:16], plain[0][:, width:])
        nothing = model.text.encode("").states[0]
        assert torch.equal(own[16:], nothing[:, :width])
        c = model.text.encode("c").states[0][:, width:]
        assert second[16:].mean().item() == pytest.approx(c.mean().item(), rel=1e-4)
        assert not torch.allclose(second[16:], c)
        # no negative prompt is zeros, however long the other is
        assert not conditions.text_states[0].any()
        pooled = model.text.encode("a", second="b").pooled
        assert conditions.added is not None
        assert pooled is not None
        assert torch.equal(conditions.added["text_embeds"][1:], pooled)

    def test_without_an_encoder_for_it_that_is_said(self, pipeline: ImagePromptPipeline) -> None:
        fields = {"prompt_2": "a", "negative_prompt_2": "b", "steps": 3}
        assert pipeline.generate(GenerateRequest(**fields, guidance=2.0)).warnings == (
            "prompt_2 has no effect: tiny has one text encoder.",
            "negative_prompt_2 has no effect: tiny has one text encoder.",
        )
        plain = pipeline.generate(GenerateRequest(steps=3, guidance=2.0)).images[0]
        given = pipeline.generate(GenerateRequest(**fields, guidance=2.0)).images[0]
        assert given.tobytes() == plain.tobytes()

    def test_at_guidance_1_the_negative_one_has_no_effect(self, xl: CatalogEntry) -> None:
        asked = GenerateRequest(negative_prompt_2="b", guidance=1.0, steps=3)
        assert load(xl).generate(asked).warnings == (
            "negative_prompt_2 has no effect at guidance 1.",
        )


class TestRecords:
    def test_an_earlier_one_is_plain(self, pipeline: ImagePromptPipeline) -> None:
        """Law 10: brackets in it were read as they stand, and still are."""
        asked = GenerateRequest(prompt="a (cube:1.5) BREAK b", steps=1)
        record: Any = json.loads(json.dumps(request_to_json(asked)))
        for name in ("prompt_syntax", "clip_skip", "prompt_2", "negative_prompt_2"):
            del record["request"][name]
        restored = request_from_json(record)
        assert restored == asked
        assert restored.prompt_syntax == "plain"

    def test_all_of_it_comes_back(self) -> None:
        asked = GenerateRequest(
            prompt="a (b:1.2)",
            prompt_2="c",
            negative_prompt_2="[d]",
            prompt_syntax="weighted",
            clip_skip=2,
        )
        assert request_from_json(json.dumps(request_to_json(asked))) == asked

    @pytest.mark.parametrize(
        "field", ["prompt", "negative_prompt", "prompt_2", "negative_prompt_2"]
    )
    @pytest.mark.parametrize(
        ("prompt", "weight"),
        [("(a:10.5)", "10.5"), ("(a:-11)", "-11"), ("(" * 25 + "a", "10.8"), ("(a:1e3)", None)],
    )
    def test_a_weight_too_large_to_be_meant(
        self, field: str, prompt: str, weight: str | None
    ) -> None:
        if weight is None:  # no weight at all
            GenerateRequest(**{field: prompt}, prompt_syntax="weighted")
            return
        GenerateRequest(**{field: prompt})
        with pytest.raises(RequestError, match=rf"^{field}: a weight must be from .* got {weight}"):
            GenerateRequest(**{field: prompt}, prompt_syntax="weighted")

    def test_the_syntax_is_one_of_two(self) -> None:
        with pytest.raises(RequestError, match="prompt_syntax must be one of plain, weighted"):
            GenerateRequest(prompt_syntax="a1111")  # type: ignore[arg-type]
