"""What a request turns into before sampling, and which network runs when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ipadapter_demo.adapter import ImagePrompt
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.imaging import PAD_COLOUR
from ipadapter_demo.models.annotators import DETECTORS, annotate, is_empty
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.loras import Loras
from ipadapter_demo.models.sources import Hub
from ipadapter_demo.models.structure import ControlCondition, ControlResiduals
from ipadapter_demo.models.text import TextStates
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline.cache import digest
from ipadapter_demo.pipeline.conditioning import Conditioner, ContentCache
from ipadapter_demo.pipeline.conditioning.text import added_conditions
from ipadapter_demo.pipeline.conditions import (
    ActiveControl,
    Conditions,
    TimedPrompt,
    is_active,
    joined,
)
from ipadapter_demo.pipeline.denoiser import UNetDenoiser, _with_mask
from ipadapter_demo.pipeline.latents import LatentEncoder
from ipadapter_demo.pipeline.sampler import Call
from ipadapter_demo.pipeline.schedule import NoiseLevel
from ipadapter_demo.request import FITS, GenerateRequest, Inpaint, Reference, Structure
from tests.tiny import CROSS_DIM, box_mask, noise, picture

EDGES = Structure(kind="canny", image=picture(3))
COLOURS = Structure(kind="palette", image=picture(4))


@contextmanager
def recorded(network: nn.Module) -> Iterator[list[tuple[dict[str, Any], Any]]]:
    """(inputs by name, output) of every call; the first two positional ones are "0" and "1"."""
    calls: list[tuple[dict[str, Any], Any]] = []

    def record(_: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        calls.append(({str(i): value for i, value in enumerate(args)} | kwargs, output))

    hook = network.register_forward_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


@pytest.fixture
def conditioner(model: BaseModel) -> Conditioner:
    return Conditioner(model)


def read(conditioner: Conditioner, **fields: Any) -> Conditions:
    return conditioner.condition(GenerateRequest(**fields), (64, 64))


def prompts_of(conditions: Conditions) -> list[ImagePrompt]:
    return [timed.prompt for timed in conditions.image_prompts]


class TestEncoderView:
    @pytest.mark.parametrize("size", [16, 64])
    def test_a_square_reaches_the_encoder_as_clip_s_own_processor_sends_it(
        self, conditioner: Conditioner, model: BaseModel, size: int
    ) -> None:
        square = Image.fromarray(
            np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        )
        expected = model.image_processor(square, return_tensors="pt").pixel_values
        view = conditioner.references.input.view(Reference(image=square))
        assert view.size == (16, 16)
        # Two implementations of bicubic may round to neighbouring grey levels.
        atol = 1e-6 if size == 16 else 1.1 / 255 / min(model.image_processor.image_std)
        torch.testing.assert_close(
            conditioner.references.input.clip_pixels(view), expected, rtol=0, atol=atol
        )

    def test_the_fit_decides_what_is_seen_of_a_wide_picture(self, conditioner: Conditioner) -> None:
        wide = Image.new("RGB", (96, 32), "red")
        wide.paste("blue", (32, 0, 64, 32))
        seen = {
            fit: conditioner.references.input.view(Reference(image=wide, fit=fit)) for fit in FITS
        }
        assert {view.size for view in seen.values()} == {(16, 16)}
        red, blue = (255, 0, 0), (0, 0, 255)
        assert [seen["crop"].getpixel((x, 8)) for x in (2, 8)] == [blue, blue]
        assert [seen["squash"].getpixel((x, 8)) for x in (2, 8)] == [red, blue]
        assert [seen["pad"].getpixel((2, y)) for y in (2, 8)] == [PAD_COLOUR, red]

    def test_embeddings_are_of_length_one_each(self, pipeline: ImagePromptPipeline) -> None:
        found = pipeline.image_embeds([picture(1), picture(2), picture(3)])
        torch.testing.assert_close(found.norm(dim=1), torch.ones(3))

    def test_padding_is_close_to_zero_for_the_encoder(self, conditioner: Conditioner) -> None:
        pixels = conditioner.references.input.clip_pixels(Image.new("RGB", (16, 16), PAD_COLOUR))
        assert pixels.abs().max() < 0.01


class TestImagePrompts:
    def test_the_empty_picture_stands_in_the_unconditional_half(
        self, conditioner: Conditioner, model: BaseModel
    ) -> None:
        pair = (Reference(image=picture(1)), Reference(image=picture(2)))
        having, without = prompts_of(read(conditioner, references=pair, count=3))
        assert (having.rows, without.rows) == (slice(3, 6), slice(0, 3))
        empty = model.adapters["base"].tokens_from_embeds(model.adapters["base"].empty_embeds(1))
        assert empty.abs().max() > 0.1, "zero tokens would be something else"
        torch.testing.assert_close(without.tokens, torch.cat([empty, empty], dim=1))
        assert having.tokens.shape == (1, 8, CROSS_DIM)

    def test_without_guidance_there_is_no_unconditional_half(
        self, conditioner: Conditioner
    ) -> None:
        conditions = read(
            conditioner, references=(Reference(image=picture(1)),), count=3, guidance=1.0
        )
        assert [prompt.rows for prompt in prompts_of(conditions)] == [slice(0, 3)]
        assert len(conditions.text_states) == 3

    def test_the_adapter_named_reads_the_references(
        self, conditioner: Conditioner, model: BaseModel
    ) -> None:
        reference = (Reference(image=picture(1)),)
        for place, (name, adapter) in enumerate(model.adapters.items()):
            for prompt in prompts_of(read(conditioner, references=reference, adapter=name)):
                assert prompt.adapter_index == place
                assert prompt.tokens.shape == (1, adapter.num_tokens, CROSS_DIM)
        with pytest.raises(RequestError, match=r"adapter must be .* tiny \(base, plus\), got 'xl'"):
            read(conditioner, references=reference, adapter="xl")
        with pytest.raises(RequestError, match=r"tiny \(base, plus\), got 'xl'"):
            read(conditioner, adapter="xl")
        bare = Conditioner(replace(model, adapters={}))
        with pytest.raises(RequestError, match=r"those of tiny \(\), got 'none'"):
            read(bare, references=reference)
        assert read(bare).image_prompts == ()

    def test_weights_weigh_the_tokens_of_their_reference(self, conditioner: Conditioner) -> None:
        pair = (Reference(image=picture(1)), Reference(image=picture(2), weight=0.5))
        for prompt in prompts_of(read(conditioner, references=pair)):
            assert prompt.token_weights is not None
            assert prompt.token_weights.tolist() == [1.0] * 4 + [0.5] * 4

    def test_a_masked_reference_has_a_branch_of_its_own(self, conditioner: Conditioner) -> None:
        masked = Reference(image=picture(2), weight=0.5, mask=box_mask((0, 0, 32, 64)))
        prompts = prompts_of(
            read(conditioner, references=(Reference(image=picture(1)), masked), image_scale=0.8)
        )
        assert [prompt.scale for prompt in prompts] == [0.8, 0.4, 0.8, 0.4]
        assert [prompt.mask is None for prompt in prompts] == [True, False, True, False]
        assert prompts[1].mask is not None
        assert prompts[1].mask.mean() == 0.5

    def test_a_window_of_its_own_makes_a_branch_of_its_own(self, conditioner: Conditioner) -> None:
        early = Reference(image=picture(2), window=(0.0, 0.5))
        conditions = read(conditioner, references=(Reference(image=picture(1)), early))
        windows = [timed.window for timed in conditions.image_prompts]
        assert windows == [(0.0, 1.0), (0.0, 0.5)] * 2  # the empty picture leaves with it

    def test_a_reference_may_be_for_one_image_of_the_request(
        self, conditioner: Conditioner
    ) -> None:
        pair = tuple(Reference(image=picture(i), only_image=i) for i in range(2))
        prompts = prompts_of(read(conditioner, references=pair, count=3))
        assert [p.rows for p in prompts] == [slice(3, 4), slice(4, 5), slice(0, 1), slice(1, 2)]
        assert not torch.equal(prompts[0].tokens, prompts[1].tokens)

    def test_references_can_be_averaged(self, conditioner: Conditioner, model: BaseModel) -> None:
        pair = (Reference(image=picture(1)), Reference(image=picture(2), weight=0.5))
        adapter = model.adapters["base"]
        embeds = [
            adapter.embeds_from_clip_pixels(
                conditioner.references.input.clip_pixels(conditioner.references.input.view(r)),
                model.image_encoder,
            )
            for r in pair
        ]
        prompt = prompts_of(read(conditioner, references=pair, combine="average"))[0]
        expected = adapter.tokens_from_embeds((2 * embeds[0] + embeds[1]) / 3)
        torch.testing.assert_close(prompt.tokens, expected)
        assert prompt.token_weights is None
        alone = prompts_of(read(conditioner, references=pair[:1], combine="average"))[0]
        assert torch.equal(alone.tokens, adapter.tokens_from_embeds(embeds[0]))
        [faint, _] = prompts_of(read(conditioner, references=pair[1:], combine="average"))
        assert faint.token_weights is not None, "one alone is no average: it keeps its weight"
        assert faint.token_weights.tolist() == [0.5] * 4

    def test_a_negative_reference_takes_the_place_of_the_empty_picture(
        self, conditioner: Conditioner
    ) -> None:
        one, other = Reference(image=picture(1)), Reference(image=picture(2))

        def read_of(*references: Reference) -> list[Tensor]:
            return [p.tokens for p in prompts_of(read(conditioner, references=references))]

        having, empty = read_of(one)
        against = read_of(one, replace(other, negative=True))
        assert torch.equal(against[0], having)
        assert torch.equal(against[1], read_of(other)[0])
        silent = read_of(one, replace(other, negative=True, weight=0.0))
        assert torch.equal(silent[1], empty)
        assert not torch.equal(against[1], empty)

    def test_they_act_inside_a_mask_where_a_network_reads_what_is_around_it(
        self, conditioner: Conditioner, model: BaseModel
    ) -> None:
        given = Inpaint(image=picture(7), mask=box_mask((16, 16, 48, 48)), background_weight=0.0)
        without = Conditioner(replace(model, inpaint_adapter=None))
        for reader, confined in ((conditioner, True), (without, False)):
            prompts = prompts_of(
                read(reader, references=(Reference(image=picture(1)),), inpaint=given)
            )
            assert [prompt.mask is not None for prompt in prompts] == [confined] * 2

    def test_the_network_that_reads_what_is_around_a_mask_acts_fully_in_every_step(
        self, conditioner: Conditioner
    ) -> None:
        given = Inpaint(image=picture(7), mask=box_mask((16, 16, 48, 48)))
        conditions = read(conditioner, inpaint=given)
        for step in range(4):
            assert [control.weight for control in conditions.at(step, 4).structures] == [1.0]

    def test_layers_are_checked_against_the_model(self, conditioner: Conditioner) -> None:
        reference = (Reference(image=picture(1)),)
        factors = (0.0, 1.0, 0.5, 0.0, 0.0, 0.0, 1.0)
        prompts = prompts_of(read(conditioner, references=reference, image_layers=factors))
        assert [prompt.layer_scales for prompt in prompts] == [factors] * 2
        assert prompts_of(read(conditioner, references=reference))[0].layer_scales is None
        with pytest.raises(RequestError, match=r"each of the 7 .* of tiny, got 2"):
            read(conditioner, references=reference, image_layers=(1.0, 0.5))
        with pytest.raises(RequestError, match="'style' is known for SD 1"):
            read(conditioner, references=reference, image_layers="style")

    @pytest.mark.parametrize(
        "fields",
        [
            {"references": (Reference(image=picture(1)),), "image_scale": 0.0},
            {"references": (Reference(image=picture(1), weight=0.0),)},
            {"references": ()},
        ],
    )
    def test_nothing_is_computed_for_nothing(
        self, conditioner: Conditioner, model: BaseModel, fields: dict[str, Any]
    ) -> None:
        with recorded(model.image_encoder) as calls:
            assert read(conditioner, **fields).image_prompts == ()
        assert not calls

    def test_every_input_is_read_once_and_alone(
        self, conditioner: Conditioner, model: BaseModel
    ) -> None:
        same = GenerateRequest(
            prompt="a",
            negative_prompt="b",
            structures=(COLOURS,),
            references=(Reference(image=picture(1)), Reference(image=picture(2))),
        )
        net = model.structures["palette"].net
        with (
            recorded(model.image_encoder) as images,
            recorded(model.text.encoders[0]) as texts,
            recorded(net) as maps,
        ):
            for request in (same, same, replace(same, prompt="b", seed=9, image_scale=0.1)):
                conditioner.condition(request, (64, 64))
        assert (len(images), len(texts), len(maps)) == (2, 2, 1)
        assert all(len(call["0"]) == 1 for call, _ in images)


def test_a_prompt_that_is_too_long_is_cut(conditioner: Conditioner) -> None:
    conditions = read(conditioner, prompt="a cube " * 20)
    assert conditions.text_states.shape == (2, 16, CROSS_DIM)


class TestWhenNetworksRun:
    def test_image_tokens_never_reach_a_controlnet(
        self, pipeline: ImagePromptPipeline, model: BaseModel
    ) -> None:
        """Law 5: it gets the text alone, so before the first step it cannot know of an image."""
        request = GenerateRequest(
            prompt="a", steps=2, structures=(EDGES,), references=(Reference(image=picture(1)),)
        )
        with recorded(model.structures["canny"].net) as calls:
            pipeline.generate(request)
            pipeline.generate(replace(request, references=()))
        text = pipeline._conditioner.condition(request, (64, 64)).text_states
        assert all(torch.equal(call["encoder_hidden_states"], text) for call, _ in calls)
        assert not any("cross_attention_kwargs" in call for call, _ in calls)
        (_, having), _, (_, without), _ = calls
        for ours, theirs in zip(flat(having), flat(without), strict=True):
            assert torch.equal(ours, theirs)

    @pytest.mark.parametrize(
        ("window", "expected"),
        [
            ((0.0, 1.0), [1, 2, 3, 4]),
            ((0.0, 0.5), [1, 2]),
            ((0.25, 0.75), [2, 3]),
            ((0.1, 0.6), [2]),
            ((0.0, 0.1), []),
        ],
    )
    def test_a_controlnet_runs_once_per_step_inside_its_window(
        self,
        pipeline: ImagePromptPipeline,
        model: BaseModel,
        window: tuple[float, float],
        expected: list[int],
    ) -> None:
        """Law 6."""
        request = GenerateRequest(
            prompt="a", steps=4, count=2, structures=(replace(EDGES, window=window),)
        )
        with recorded(model.structures["canny"].net) as calls, recorded(model.unet) as steps:
            pipeline.generate(request)
        helped = [
            i for i, (call, _) in enumerate(steps, 1) if "down_block_additional_residuals" in call
        ]
        assert helped == expected
        assert len(calls) == len(expected)
        assert all(len(call["0"]) == 4 for call, _ in calls)

    def test_a_t2i_adapter_runs_once_per_request(
        self, pipeline: ImagePromptPipeline, model: BaseModel
    ) -> None:
        """Law 6, and its features still act at every step of their window."""
        structure = replace(COLOURS, window=(0.0, 0.5))
        request = GenerateRequest(prompt="a", steps=4, count=2, structures=(structure,))
        with recorded(model.structures["palette"].net) as calls, recorded(model.unet) as steps:
            pipeline.generate(request)
        assert len(calls) == 1
        assert ["down_intrablock_additional_residuals" in call for call, _ in steps] == [
            True,
            True,
            False,
            False,
        ]

    def test_the_window_of_the_scale(self, pipeline: ImagePromptPipeline, model: BaseModel) -> None:
        request = GenerateRequest(
            prompt="a",
            steps=4,
            image_window=(0.25, 0.75),
            references=(Reference(image=picture(1)),),
        )
        with recorded(model.unet) as steps:
            pipeline.generate(request)
        assert [call["cross_attention_kwargs"] is not None for call, _ in steps] == [
            False,
            True,
            True,
            False,
        ]

    def test_without_guidance_only_one_half_runs(
        self, pipeline: ImagePromptPipeline, model: BaseModel
    ) -> None:
        request = GenerateRequest(prompt="a", steps=1, count=3, structures=(EDGES, COLOURS))
        for guidance, rows in ((1.0, 3), (1.5, 6)):
            with recorded(model.unet) as steps:
                pipeline.generate(replace(request, guidance=guidance))
            assert [len(call["0"]) for call, _ in steps] == [rows]


def test_a_map_of_classes_keeps_them_at_another_size(model: BaseModel) -> None:
    kinds = {"segmentation": model.entry.structures["canny"]}
    pipeline = ImagePromptPipeline(replace(model, entry=replace(model.entry, structures=kinds)))
    given = picture(1, 192, 100)
    own = set(given.get_flattened_data()) | {(0, 0, 0)}
    for fit in FITS:
        drawn = pipeline.structure_map(Structure(kind="segmentation", image=given, fit=fit))
        assert set(drawn.get_flattened_data()) <= own
    bare = ImagePromptPipeline(replace(model, entry=replace(model.entry, structures={})))
    with pytest.raises(RequestError) as refusal:
        bare.structure_map(EDGES)
    assert str(refusal.value) == ("structure.kind must be one of those of tiny (none), got 'canny'")


def test_noise_is_each_image_s_own_and_a_picture_is_encoded_once(model: BaseModel) -> None:
    latents = LatentEncoder(model)
    assert latents.shape((64, 48)) == (4, 12, 16)
    init = latents.init((5, 9), (64, 48), None, 1.0)
    own = [torch.Generator().manual_seed(seed) for seed in (5, 9)]
    assert torch.equal(init.noise, torch.stack([torch.randn(4, 12, 16, generator=g) for g in own]))
    fresh = torch.stack([torch.randn(4, 12, 16, generator=g) for g in own])
    assert torch.equal(init.more_noise(), fresh), "and goes on from there"
    assert (init.init_latents, init.strength) == (None, 1.0)
    pixels = [noise(i, 1, 3, 48, 64).clamp(-1, 1) for i in (1, 2)]
    with recorded(model.vae.autoencoder.encoder) as calls:
        encoded = [latents.encode(given) for given in (*pixels, pixels[0].clone())]
    found = [latents.init((5,), (64, 48), own, 0.5) for own in encoded]
    assert len(calls) == 2
    for one, given in zip(found, (*pixels, pixels[0]), strict=True):
        assert one.init_latents is not None
        assert torch.equal(one.init_latents, model.vae.latents_from_pixels(given))
        assert one.strength == 0.5
    assert found[0].noise.dtype == model.dtype


def test_sdxl_reads_the_size_beside_the_text() -> None:
    """Height first, and no crop; a row for each image of each half."""
    pooled = [noise(i, 1, 3) for i in (6, 7)]
    texts = [TextStates(noise(i, 1, 6, 4), own) for i, own in enumerate(pooled)]
    added = added_conditions(texts, 2, (96, 64))
    assert added is not None
    assert added.keys() == {"text_embeds", "time_ids"}
    assert added["time_ids"].tolist() == [[64.0, 96.0, 0.0, 0.0, 64.0, 96.0]] * 4
    assert torch.equal(added["text_embeds"], torch.cat([pooled[i] for i in (0, 0, 1, 1)]))
    half = [TextStates(noise(1, 1, 6, 4), noise(2, 1, 3).bfloat16())]
    assert {t.dtype for t in (added_conditions(half, 1, (8, 8)) or {}).values()} == {torch.bfloat16}
    assert added_conditions([TextStates(noise(1, 1, 6, 4))], 2, (96, 64)) is None


def test_pictures_are_told_apart_by_pixels_mode_and_size() -> None:
    each = [
        Image.new("RGB", (4, 2)),
        Image.new("RGB", (2, 4)),
        Image.new("L", (4, 6)),
        Image.new("L", (6, 4)),
        Image.new("RGB", (4, 2), "navy"),
    ]
    assert len({digest(image) for image in each}) == 5
    assert [digest(image) for image in each] == [digest(image.copy()) for image in each]


def test_a_cache_keeps_the_latest() -> None:
    cache, made = ContentCache(2), []

    def get(key: str) -> str:
        return cache.get(key, lambda: made.append(key) or key.upper())

    assert [get(key) for key in "abacab"] == list("ABACAB")
    assert made == ["a", "b", "c", "b"]  # b was used longest ago when c came


class Recording:
    """A structure network that only keeps what it is called with."""

    def __init__(self, conditional_only: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.conditional_only = conditional_only

    def residuals(self, *given: Any) -> ControlResiduals:
        self.calls.append(given)
        return ControlResiduals()


def numbered(first: int, *shape: int) -> Tensor:
    """Row i holds nothing but `first` + i."""
    return (
        torch.arange(first, first + shape[0])
        .float()
        .view(-1, *[1] * (len(shape) - 1))
        .expand(shape)
    )


def conditions_of(
    first: int, count: int, net: Any, guided: bool = True, **fields: Any
) -> Conditions:
    """Of a request of `count` images: one branch for all of them and one for the last alone, in
    each half; the numbers from `first` tell its rows."""
    rows = count * (1 + guided)
    halves = [count, 0] if guided else [0]
    prompts = [
        TimedPrompt(
            (0.0, 1.0), ImagePrompt(rows=slice(begin, end), tokens=noise(1, 1, 4, 2), scale=scale)
        )
        for half in halves
        for begin, end, scale in (
            (half, half + count, first + 0.5),
            (half + count - 1, half + count, first + 0.75),
        )
    ]
    seen = ControlCondition(net, (numbered(first, 1, 1, 2, 2), numbered(first + 50, 1, 1, 1, 1)))
    values: dict[str, Any] = {
        "text_states": numbered(first, rows, 3, 2),
        "added": None,
        "image_prompts": tuple(prompts),
        "image_window": (0.0, 1.0),
        "structures": (ActiveControl(seen, 0.5, (0.0, 0.5)),),
        "maps": (),
        "unconditional": count if guided else 0,
    }
    return Conditions(**values | fields)


class TestSharedCall:
    """Rows are those of one request after those of the other."""

    def test_every_row_comes_to_its_place(self) -> None:
        net, other = Recording(), Recording()
        each = [
            conditions_of(0, 1, net),
            conditions_of(10, 2, other),
            conditions_of(20, 2, net, guided=False),
        ]
        both = joined(each)
        assert both.text_states[:, 0, 0].tolist() == [0, 1, 10, 11, 12, 13, 20, 21]
        assert both.text_states.shape == (8, 3, 2)
        assert [(timed.prompt.rows, timed.prompt.scale) for timed in both.image_prompts] == [
            (slice(1, 2), 0.5),
            (slice(1, 2), 0.75),
            (slice(0, 1), 0.5),
            (slice(0, 1), 0.75),
            (slice(4, 6), 10.5),
            (slice(5, 6), 10.75),
            (slice(2, 4), 10.5),
            (slice(3, 4), 10.75),
            (slice(6, 8), 20.5),
            (slice(7, 8), 20.75),
        ]
        assert both.added is None
        assert both.mask_conditioning is None
        first, second = both.structures
        assert (first.rows, first.weight) == ((0, 1, 6, 7), 0.5)
        seen, features = first.condition.seen
        assert seen[:, 0, 0, 0].tolist() == [0, 0, 20, 20]
        assert features[:, 0, 0, 0].tolist() == [50, 50, 70, 70]
        nets: list[Any] = [one.condition.net for one in both.structures]
        assert nets == [net, other]
        assert second.rows == (2, 3, 4, 5)

    def test_what_was_computed_of_a_prompt_goes_along(self) -> None:
        conditions = conditions_of(0, 1, Recording())
        kept = (noise(1, 1, 2, 4, 2), noise(2, 1, 2, 4, 2))
        prompts_of(conditions)[0].kv_cache[3] = kept
        moved = prompts_of(joined([conditions_of(10, 2, Recording()), conditions]))[4]
        assert moved.kv_cache == {3: kept}
        assert (moved.rows, moved.tokens) == (slice(5, 6), prompts_of(conditions)[0].tokens)

    def test_a_network_of_another_weight_runs_by_itself(self) -> None:
        net = Recording()
        weak, strong = (conditions_of(i, 1, net, guided=False) for i in (0, 10))
        [control] = strong.structures
        strong = replace(strong, structures=(replace(control, weight=0.9), control))
        twice = replace(weak, structures=weak.structures * 2)
        found = joined([weak, strong, twice]).structures
        assert [(one.weight, one.rows) for one in found] == [
            (0.5, (0, 1, 2)),
            (0.9, (1,)),
            (0.5, (2,)),
        ]

    def test_one_for_the_conditional_half_has_no_rows_of_the_other(self) -> None:
        net = Recording(conditional_only=True)
        each = [conditions_of(0, 2, net), conditions_of(10, 1, net, guided=False)]
        [control] = joined(each).structures
        assert control.rows == (2, 3, 4)

    def test_what_sdxl_and_inpainting_unets_read_besides(self) -> None:
        net = Recording()
        each = [
            conditions_of(
                first,
                count,
                net,
                added={
                    "time_ids": numbered(first, 2 * count, 6),
                    "text_embeds": numbered(first, 2 * count, 4),
                },
                mask_conditioning=numbered(first, 1, 5, 2, 2),
            )
            for first, count in ((0, 2), (10, 1))
        ]
        both = joined(each)
        assert both.added is not None
        assert both.added.keys() == {"time_ids", "text_embeds"}
        for rows in both.added.values():
            assert rows[:, 0].tolist() == [0, 1, 2, 3, 10, 11]
        assert both.mask_conditioning is not None
        assert both.mask_conditioning[:, 0, 0, 0].tolist() == [0, 0, 0, 0, 10, 10]
        latents = numbered(100, 6, 4, 2, 2)
        read = _with_mask(latents, both.mask_conditioning)
        assert torch.equal(read[:, :4], latents)
        assert read[:, 4:].shape == (6, 5, 2, 2)
        assert read[:, 4, 0, 0].tolist() == [0, 0, 0, 0, 10, 10]
        assert _with_mask(latents, None) is latents

    @pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([0, 3])])
    def test_a_network_adds_zeros_to_all_other_rows(self, rows: Any) -> None:
        part = ControlResiduals(
            (numbered(1, 2, 3, 2, 2),), numbered(5, 2, 3, 1, 1), (numbered(7, 2, 1, 2, 2),)
        )
        whole = part.on_rows(rows, 4)
        for found, given in zip(
            (*whole.skips, whole.middle, *whole.encoder),
            (*part.skips, part.middle, *part.encoder),
            strict=True,
        ):
            assert found is not None
            assert given is not None
            assert torch.equal(found[rows], given)
            assert found.shape == (4, *given.shape[1:])
            assert found.abs().sum() == given.abs().sum()
        nothing = ControlResiduals().on_rows(rows, 4)
        assert (nothing.skips, nothing.middle, nothing.encoder) == ((), None, ())

    def test_those_that_act_in_a_step(self) -> None:
        net = Recording()
        early, late = (0.0, 0.5), (0.5, 1.0)
        prompts = tuple(
            TimedPrompt(window, prompt.prompt)
            for window, prompt in zip(
                (early, late), conditions_of(0, 1, net).image_prompts[:2], strict=True
            )
        )
        seen = ControlCondition(net, ())
        controls = tuple(
            ActiveControl(seen, weight, window)
            for weight, window in ((0.5, early), (1.0, late), (0.0, early))
        )
        whole = conditions_of(0, 1, net, image_prompts=prompts, structures=controls)
        for step, prompt, control in ((0, 0, 0), (1, 0, 0), (2, 1, 1), (3, 1, 1)):
            now = whole.at(step, 4)
            assert now.image_prompts == (prompts[prompt],)
            assert now.structures == (controls[control],)
            assert now.text_states is whole.text_states
        later = replace(whole, image_window=late)
        assert later.at(1, 4).image_prompts == ()
        assert later.at(1, 4).structures == (controls[0],)
        assert later.at(2, 4).image_prompts == (prompts[1],)

    def test_what_a_structure_network_is_told(self) -> None:
        net = Recording()
        latents, level = (
            numbered(0, 4, 4, 2, 2),
            NoiseLevel(*(torch.tensor(float(i)) for i in (7, 1, 2))),
        )
        given = conditions_of(0, 2, net, image_prompts=(), added={"time_ids": numbered(0, 4, 6)})
        unet_calls: list[Any] = []

        def unet(*args: Any, **kwargs: Any) -> Any:
            unet_calls.append((args, kwargs))
            return SimpleNamespace(sample=latents)

        denoiser = UNetDenoiser(unet, Loras(None, {}))
        [output] = denoiser.predict([Call(latents, level, given)])
        assert output is latents
        [(seen, noisy, timestep, text, weight, added)] = net.calls
        assert [rows[:, 0, 0, 0].tolist() for rows in seen] == [[0] * 4, [50] * 4]
        assert torch.equal(noisy, latents)
        assert (float(timestep), weight) == (7.0, 0.5)
        assert torch.equal(text, given.text_states)
        assert torch.equal(added["time_ids"], numbered(0, 4, 6))
        [((sample, t), kwargs)] = unet_calls
        assert sample is latents
        assert t is level.timestep
        assert kwargs == {
            "encoder_hidden_states": given.text_states,
            "added_cond_kwargs": given.added,
            "cross_attention_kwargs": None,
        }

    def test_a_network_for_the_conditional_half_is_told_of_that_alone(self) -> None:
        net = Recording(conditional_only=True)
        latents = numbered(0, 4, 4, 2, 2)
        level = NoiseLevel(*(torch.tensor(float(i)) for i in (7, 1, 2)))
        given = conditions_of(0, 2, net, image_prompts=())

        def unet(*args: Any, **kwargs: Any) -> Any:
            return SimpleNamespace(sample=latents)

        UNetDenoiser(unet, Loras(None, {})).predict([Call(latents, level, given)])
        [(_, noisy, _, text, _, _)] = net.calls
        assert noisy[:, 0, 0, 0].tolist() == text[:, 0, 0].tolist() == [2, 3]

    def test_every_row_of_a_shared_call_has_its_timestep(self) -> None:
        unet_calls: list[Any] = []

        def unet(*args: Any, **kwargs: Any) -> Any:
            unet_calls.append(args)
            return SimpleNamespace(sample=args[0] + 1)

        net = Recording()
        calls = [
            Call(
                numbered(first, rows, 4, 2, 2),
                NoiseLevel(timestep, *map(torch.tensor, (1.0, 2.0))),
                conditions_of(first, rows, net, guided=False, image_prompts=()),
            )
            for first, rows, timestep in (
                (0, 2, torch.tensor(981)),
                (10, 1, torch.tensor(7.25)),
            )
        ]
        outputs = UNetDenoiser(unet, Loras(None, {})).predict(calls)
        assert [output[:, 0, 0, 0].tolist() for output in outputs] == [[1, 2], [11]]
        [(latents, timesteps)] = unet_calls
        assert latents[:, 0, 0, 0].tolist() == [0, 1, 10]
        assert timesteps.tolist() == [981.0, 981.0, 7.25]
        assert timesteps.dtype == torch.float32
        [(_, _, told, *_)] = net.calls
        assert told.tolist() == timesteps.tolist()

    def test_what_a_unet_for_inpainting_and_its_image_prompts_are_told(self) -> None:
        latents = numbered(0, 4, 4, 2, 2)
        level = NoiseLevel(*(torch.tensor(float(i)) for i in (7, 1, 2)))
        mask = numbered(30, 1, 5, 2, 2)
        given = conditions_of(0, 2, Recording(), structures=(), mask_conditioning=mask)
        unet_calls: list[Any] = []

        def unet(*args: Any, **kwargs: Any) -> Any:
            unet_calls.append((args, kwargs))
            return SimpleNamespace(sample=latents)

        UNetDenoiser(unet, Loras(None, {})).predict([Call(latents, level, given)])
        [((sample, _), kwargs)] = unet_calls
        assert torch.equal(sample, torch.cat([latents, mask.expand(4, -1, -1, -1)], dim=1))
        prompts = tuple(timed.prompt for timed in given.image_prompts)
        assert kwargs["cross_attention_kwargs"] == {"ip_hidden_states": prompts}


def flat(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [t for part in output for t in flat(part)]


def test_every_step_belongs_to_one_of_two_windows_that_share_a_step_s_border() -> None:
    for steps in (1, 5, 10, 20, 30, 50):
        for cut in range(1, steps):
            border = cut / steps
            for step in range(steps):
                assert is_active((0.0, border), step, steps) is not is_active(
                    (border, 1.0), step, steps
                )


EXAMPLE = Path(__file__).parents[1] / "assets" / "examples" / "two-solids.png"
DRAWING = ["palette", *(name for name, detector in DETECTORS.items() if not detector.weights)]
NETWORKS = [name for name in DETECTORS if name not in DRAWING]


class TestStructureMaps:
    @pytest.mark.parametrize("annotator", DRAWING)
    @pytest.mark.parametrize("size", [(64, 64), (72, 88), (128, 64), (200, 104), (97, 65)])
    def test_annotators_keep_the_size(self, annotator: str, size: tuple[int, int]) -> None:
        drawn = annotate(annotator, picture(1, *size))
        assert (drawn.size, drawn.mode) == (size, "RGB")
        assert len(drawn.getcolors(maxcolors=2**16) or ()) > 1

    @pytest.mark.parametrize("annotator", DRAWING)
    def test_the_same_picture_gives_the_same_map(self, annotator: str) -> None:
        first, second = (annotate(annotator, picture(1)) for _ in range(2))
        assert first == second

    @pytest.mark.parametrize("annotator", NETWORKS)
    def test_a_detector_without_its_weights_says_what_it_needs(
        self, annotator: str, tmp_path: Path
    ) -> None:
        hub = DETECTORS[annotator].weights
        assert hub is not None
        asked: list[Hub] = []

        def locate(wanted: Hub) -> Path:
            asked.append(wanted)
            return tmp_path

        with pytest.raises(ModelError, match=f"the detector {annotator} cannot be loaded from"):
            annotate(annotator, picture(1), locate)
        assert asked == [hub]

    @pytest.mark.parametrize("contrast", [0.1, 0.15, 1.0])
    def test_pale_edges_are_seen(self, contrast: float) -> None:
        """As many as those of the same picture at full contrast."""
        scene = np.asarray(Image.open(EXAMPLE).convert("RGB")).astype(float)
        pale = Image.fromarray(
            (128 + contrast * (scene - scene.mean())).round().astype(np.uint8)
            if contrast < 1
            else scene.astype(np.uint8)
        )
        edges = np.asarray(annotate("canny", pale).convert("L")) > 127
        assert abs(edges.sum() - 2948) < 60

    def test_edges_of_an_ordinary_picture_are_those_of_canny_s_published_thresholds(self) -> None:
        import cv2

        scene = np.asarray(Image.open(EXAMPLE).convert("RGB"))
        expected = cv2.Canny(scene, 100, 200)
        assert np.array_equal(
            np.asarray(annotate("canny", Image.fromarray(scene)))[..., 0], expected
        )

    @pytest.mark.parametrize("noise", [0, 1, 2, 5])
    def test_noise_is_no_edge(self, noise: int) -> None:
        drawn = np.random.default_rng(0).normal(200, noise, (128, 128, 3)).round().clip(0, 255)
        assert is_empty(annotate("canny", Image.fromarray(drawn.astype(np.uint8))))

    @pytest.mark.parametrize("size", [(128, 32), (40, 40), (64, 8)])
    @pytest.mark.parametrize("annotator", DRAWING)
    def test_a_narrow_picture_can_be_annotated(self, annotator: str, size: tuple[int, int]) -> None:
        assert annotate(annotator, picture(1, *size)).size == size

    def test_a_map_is_drawn_at_the_size_of_the_output(self, pipeline: ImagePromptPipeline) -> None:
        structure = Structure(kind="canny", image=picture(1, 300, 200), annotator="canny")
        assert pipeline.structure_map(structure).size == (64, 64)
        request = GenerateRequest(structures=(structure,), steps=1, width=72, height=64)
        assert [drawn.size for drawn in pipeline.generate(request).maps] == [(72, 64)]

    def test_a_picture_that_is_a_map_stays_as_it_is(self, pipeline: ImagePromptPipeline) -> None:
        assert pipeline.structure_map(EDGES) == EDGES.image

    def test_the_palette_is_the_mean_colour_of_coarse_cells(self) -> None:
        chequered = Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255)
        assert annotate("palette", chequered.convert("RGB")).getextrema() == ((128, 128),) * 3

    @pytest.mark.parametrize(
        ("structure", "message"),
        [
            (
                Structure(kind="depth", image=picture(1)),
                r"structure.kind must be one of those of tiny \(canny, palette\), got 'depth'",
            ),
            (
                Structure(kind="canny", image=picture(1), annotator="palette"),
                "structure.annotator for canny must be one of canny, lineart, none, got 'palette'",
            ),
        ],
    )
    def test_what_the_model_does_not_have_is_refused(
        self, pipeline: ImagePromptPipeline, structure: Structure, message: str
    ) -> None:
        for refused in (
            lambda: pipeline.structure_map(structure),
            lambda: pipeline.generate(GenerateRequest(structures=(structure,))),
        ):
            with pytest.raises(RequestError, match=message):
                refused()


def test_a_full_cache_forgets_what_was_used_longest_ago() -> None:
    cache = ContentCache(2)
    computed = []

    def get(key: str) -> str:
        return cache.get(key, lambda: computed.append(key) or key)

    assert [get(key) for key in "abacab"] == list("abacab")
    assert computed == ["a", "b", "c", "b"]
