"""Guidance in a part of the steps (arXiv 2404.07724): what is not computed outside of it, and law 4
by diffusers' own pipelines, whose guidance a callback switches between steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor, nn

from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.pipeline import ImagePromptPipeline, Result, load
from ipadapter_demo.pipeline.step_count import guided_calls, unet_calls
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference, Structure, Window
from tests.oracle import (
    COUNT,
    GUIDANCE,
    STEPS,
    assert_same,
    loaded,
    pixels_of,
    reference,
    request,
    theirs,
)
from tests.test_oracle_sdxl import loaded_xl
from tests.tiny import box_mask, picture, write_tiny_sdxl

EDGES = Structure(kind="canny", image=picture(3))
COLOURS = Structure(kind="palette", image=picture(3))
IMAGE = Reference(image=picture(1))
AGAINST = Reference(image=picture(2), negative=True)
GIVEN = Inpaint(image=picture(4), mask=box_mask((8, 8, 40, 40)))
ALL_BUT_ENDS, NONE = (0.25, 0.75), (0.3, 0.4)


@contextmanager
def counted(*networks: nn.Module) -> Iterator[list[int]]:
    """The rows of every call of the networks."""
    rows: list[int] = []
    hooks = [
        network.register_forward_hook(
            lambda _, args, kwargs, __: rows.append(len(args[0] if args else kwargs["sample"])),
            with_kwargs=True,
        )
        for network in networks
    ]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


class TestWhatIsNotComputed:
    """Whatever has no effect costs nothing."""

    @pytest.mark.parametrize(
        ("window", "rows"),
        [
            ((0.0, 1.0), [4, 4, 4, 4]),
            (ALL_BUT_ENDS, [2, 4, 4, 2]),
            ((0.5, 1.0), [2, 2, 4, 4]),
            ((0.0, 0.3), [4, 2, 2, 2]),
            (NONE, [2, 2, 2, 2]),
        ],
    )
    def test_the_unconditional_half(
        self, pipeline: ImagePromptPipeline, model: BaseModel, window: Window, rows: list[int]
    ) -> None:
        """Of the UNet and of a ControlNet."""
        asked = GenerateRequest(
            prompt="a",
            steps=4,
            count=2,
            guidance_window=window,
            references=(IMAGE, AGAINST),
            structures=(EDGES, COLOURS),
        )
        with counted(model.unet) as unet, counted(model.structures["canny"].net) as control:
            pipeline.generate(asked)
        assert unet == rows
        assert control == rows
        assert guided_calls(asked) == rows.count(4)

    def test_both_calls_of_a_step_of_heun_s(
        self, pipeline: ImagePromptPipeline, model: BaseModel
    ) -> None:
        asked = GenerateRequest(prompt="a", steps=4, sampler="heun", guidance_window=ALL_BUT_ENDS)
        with counted(model.unet) as rows:
            pipeline.generate(asked)
        assert rows == [1, 1, 2, 2, 2, 2, 1]
        assert (guided_calls(asked), unet_calls(asked)) == (4, 7)

    def test_every_pass_of_a_step(self, pipeline: ImagePromptPipeline, model: BaseModel) -> None:
        given = replace(GIVEN, repaint_passes=3)
        asked = GenerateRequest(prompt="a", steps=4, inpaint=given, guidance_window=ALL_BUT_ENDS)
        with counted(model.unet) as rows:
            pipeline.generate(asked)
        assert rows == [1] * 3 + [2] * 6 + [1]
        assert (guided_calls(asked), unet_calls(asked)) == (6, 10)

    def test_steps_are_those_that_are_taken(
        self, pipeline: ImagePromptPipeline, model: BaseModel
    ) -> None:
        asked = GenerateRequest(
            steps=8, init_image=picture(4), strength=0.5, guidance_window=(0.0, 0.5)
        )
        with counted(model.unet) as rows:
            pipeline.generate(asked)
        assert rows == [2, 2, 1, 1]

    @pytest.mark.parametrize(
        ("fields", "unet", "control"),
        [
            ({}, [2, 2], [2, 2]),
            ({"guidance": 1.0}, [1, 1], [1, 1]),
            ({"guidance_window": NONE}, [1, 1], [1, 1]),
            ({"structures": (replace(EDGES, weight=0.0),)}, [2, 2], []),
            ({"structures": (replace(EDGES, window=NONE),)}, [2, 2], []),
        ],
    )
    def test_of_structure(
        self,
        pipeline: ImagePromptPipeline,
        model: BaseModel,
        fields: dict[str, Any],
        unet: list[int],
        control: list[int],
    ) -> None:
        asked = GenerateRequest(prompt="a", steps=2, structures=(EDGES,))
        with counted(model.unet) as ours, counted(model.structures["canny"].net) as its:
            pipeline.generate(replace(asked, **fields))
        assert (ours, its) == (unet, control)

    @pytest.mark.parametrize("fields", [{"weight": 0.0}, {"window": NONE}])
    def test_a_t2i_adapter_that_does_not_act_reads_nothing(
        self, pipeline: ImagePromptPipeline, model: BaseModel, fields: dict[str, Any]
    ) -> None:
        asked = GenerateRequest(prompt="a", steps=2, structures=(replace(COLOURS, **fields),))
        with counted(model.structures["palette"].net) as rows:
            pipeline.generate(asked)
            assert rows == []
            pipeline.generate(replace(asked, structures=(COLOURS,)))
            assert rows == [1]

    @pytest.mark.parametrize(
        ("fields", "encoded"),
        [
            ({}, 2),  # the picture; and the negative one
            ({"guidance": 1.0}, 1),
            ({"guidance_window": NONE}, 1),
            ({"image_scale": 0.0}, 0),
            ({"image_window": NONE}, 0),
            ({"references": (replace(IMAGE, window=NONE), AGAINST)}, 1),
            ({"references": (replace(IMAGE, weight=0.0), replace(AGAINST, weight=0.0))}, 0),
        ],
    )
    def test_image_prompts(
        self, pipeline: ImagePromptPipeline, model: BaseModel, fields: dict[str, Any], encoded: int
    ) -> None:
        """Neither the encoder runs for one that does not act, nor the layers."""
        asked = GenerateRequest(prompt="a", steps=2, references=(IMAGE, AGAINST))
        branches: list[bool] = []
        hook = model.unet.register_forward_pre_hook(
            lambda _, args, kwargs: branches.append(bool(kwargs["cross_attention_kwargs"])),
            with_kwargs=True,
        )
        read: list[None] = []
        reading = model.image_encoder.register_forward_hook(lambda *_: read.append(None))
        try:
            pipeline.generate(replace(asked, **fields))
        finally:
            hook.remove()
            reading.remove()
        assert len(read) == encoded
        assert branches == [encoded > 0] * 2


class TestWhatItDoes:
    def test_a_window_that_no_step_lies_in_is_no_guidance(
        self, pipeline: ImagePromptPipeline
    ) -> None:
        asked = GenerateRequest(
            prompt="a", steps=4, references=(IMAGE,), structures=(EDGES, COLOURS), count=2
        )
        never, without = (
            pipeline.generate(replace(asked, **fields)).images
            for fields in ({"guidance_window": NONE, "negative_prompt": "b"}, {"guidance": 1.0})
        )
        assert never == without
        assert never != pipeline.generate(asked).images

    def test_several_requests_share_calls(self, pipeline: ImagePromptPipeline) -> None:
        """Law 3: each with a map, references, a region and an image of its own."""
        masked = Reference(image=picture(5), mask=box_mask((0, 0, 30, 64)), only_image=1)
        asked = [
            GenerateRequest(
                prompt=f"a{seed}",
                steps=4,
                seed=seed,
                count=count,
                guidance_window=ALL_BUT_ENDS,
                references=(IMAGE, AGAINST, *([masked] if count > 1 else [])),
                structures=(replace(EDGES, image=picture(seed)), COLOURS),
            )
            for seed, count in ((1, 1), (2, 3))
        ]
        together = pipeline.generate_all(asked, share=2)
        for alone, shared in zip(map(pipeline.generate, asked), together, strict=True):
            for one, other in zip(alone.images, shared.images, strict=True):
                off = torch.tensor(list(one.tobytes())) - torch.tensor(list(other.tobytes()))
                assert off.abs().max() <= 1

    def test_attention_is_recorded_in_every_step(self, pipeline: ImagePromptPipeline) -> None:
        asked = GenerateRequest(steps=4, references=(IMAGE, AGAINST), guidance_window=(0.0, 0.5))
        *_, result = pipeline.stream(asked, record_attention=True)
        assert isinstance(result, Result)
        assert result.images == pipeline.generate(asked).images
        assert len(result.attention_maps[0]) == 1


def switched(
    pipe: Any,
    entry: CatalogEntry,
    window: Window,
    both: dict[str, Tensor],
    images: list[Tensor],
    **arguments: Any,
) -> Tensor:
    """What diffusers draws with guidance in `window` alone: its documented way, a callback that
    sets the guidance and the embeddings for the step to come. `both` are those of both halves, by
    their names in the pipeline, `images` those of the image prompts."""

    def active(call_number: int) -> bool:
        calls, order = pipe.num_timesteps or STEPS, pipe.scheduler.order
        steps, step = -(-calls // order), call_number // order
        return window[0] <= step / steps and (step + 1) / steps <= window[1]

    def now(guided: bool) -> dict[str, Tensor]:
        pipe._guidance_scale = GUIDANCE if guided else 1.0
        own = [tensor if guided else tensor.chunk(2)[1] for tensor in images]
        prepared[:] = own
        return {name: t if guided else t.chunk(2)[1] for name, t in both.items()}

    def between(_: Any, number: int, __: Any, ___: Any) -> dict[str, Tensor]:
        return now(active(number + 1))

    prepared: list[Tensor] = []
    first = window[0] == 0.0
    now(first)
    pipe.prepare_ip_adapter_image_embeds = lambda *_, **__: prepared
    return theirs(
        pipe,
        entry,
        ip_adapter_image=reference().image,
        **arguments,
        guidance_scale=GUIDANCE if first else 1.0,
        callback_on_step_end=between,
        callback_on_step_end_tensor_inputs=list(both),
    )


WINDOWS = [(0.0, 0.5), ALL_BUT_ENDS, (0.5, 1.0)]


def with_adapter(pipe: Any, entry: CatalogEntry) -> list[Tensor]:
    """The embeds of the image prompt of both halves, the adapter loaded."""
    pipe.load_ip_adapter(
        str(entry.folder),
        subfolder="",
        weight_name=entry.adapters["base"],
        image_encoder_folder=None,
    )
    pipe.set_ip_adapter_scale(0.7)
    return pipe.prepare_ip_adapter_image_embeds(reference().image, None, "cpu", COUNT, True)


def text_of(pipe: Any) -> Tensor:
    text, negative = pipe.encode_prompt("a cube", "cpu", COUNT, True, "blur")
    return torch.cat([negative, text])


@pytest.mark.parametrize("sampler", ["dpm++", "pndm", "euler", "heun", "lcm"])
@pytest.mark.parametrize("window", WINDOWS)
def test_diffusers_switches_as_we_do(
    pipeline: ImagePromptPipeline,
    entry: CatalogEntry,
    monkeypatch: pytest.MonkeyPatch,
    sampler: Any,
    window: Window,
) -> None:
    """Law 4."""
    oracle = loaded(StableDiffusionPipeline, entry)
    images = with_adapter(oracle, entry)
    expected = switched(
        oracle,
        entry,
        window,
        {"prompt_embeds": text_of(oracle)},
        images,
        sampler=sampler,
    )
    asked = request(
        sampler=sampler, references=(reference(),), image_scale=0.7, guidance_window=window
    )
    ours = pixels_of(pipeline, monkeypatch)
    assert_same(ours(asked), expected)
    assert not torch.allclose(ours(replace(asked, guidance_window=(0.0, 1.0))), expected, atol=1e-3)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_controlnet(
    pipeline: ImagePromptPipeline,
    entry: CatalogEntry,
    monkeypatch: pytest.MonkeyPatch,
    window: Window,
) -> None:
    net = ControlNetModel.from_pretrained(entry.folder / "controlnet-canny")
    oracle = loaded(StableDiffusionControlNetPipeline, entry, controlnet=net)
    images = with_adapter(oracle, entry)
    drawn = oracle.prepare_image(
        picture(3), 64, 64, COUNT, COUNT, "cpu", torch.float32, do_classifier_free_guidance=True
    )
    expected = switched(
        oracle,
        entry,
        window,
        {"prompt_embeds": text_of(oracle), "image": drawn},
        images,
        image=picture(3),
    )
    asked = request(
        references=(reference(),),
        image_scale=0.7,
        structures=(Structure(kind="canny", image=picture(3)),),
        guidance_window=window,
    )
    assert_same(pixels_of(pipeline, monkeypatch)(asked), expected)


@pytest.mark.parametrize("window", WINDOWS)
def test_sdxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: Window) -> None:
    """With pooled text and size conditioning of both halves."""
    entry = write_tiny_sdxl(tmp_path / "tiny-xl")
    oracle = loaded_xl(StableDiffusionXLPipeline, entry)
    images = with_adapter(oracle, entry)
    text, negative, pooled, negative_pooled = oracle.encode_prompt(
        "a cube",
        device="cpu",
        num_images_per_prompt=COUNT,
        do_classifier_free_guidance=True,
        negative_prompt="blur",
    )
    both = {
        "prompt_embeds": torch.cat([negative, text]),
        "add_text_embeds": torch.cat([negative_pooled, pooled]),
        "add_time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(2 * COUNT, -1),
    }
    expected = switched(oracle, entry, window, both, images, guidance_rescale=0.5)
    asked = request(
        references=(reference(),), image_scale=0.7, guidance_window=window, guidance_rescale=0.5
    )
    assert_same(pixels_of(load(entry), monkeypatch)(asked), expected)
