"""Law 3 of pictures: requests that share calls of the model get what each gets alone, to within one
grey level in float32, however they differ."""

from __future__ import annotations

import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

import ipadapter_demo as ip
from ipadapter_demo.errors import RequestError
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.pipeline import ImagePromptPipeline, Result, load
from ipadapter_demo.pipeline.jobs import Unloaded
from ipadapter_demo.request import SAMPLERS, GenerateRequest, Inpaint, Reference, Structure
from tests.faces import face_embeds, write_face_adapter
from tests.published import tiny_sd15_unet, write_published, write_structure
from tests.test_request_loras import kohya
from tests.tiny import (
    box_mask,
    picture,
    tiny_tabletop_unet,
    write_tiny_model,
    write_tiny_sdxl,
)

REFERENCE = Reference(image=picture(1))
PLAIN = GenerateRequest(
    prompt="a cube", references=(REFERENCE,), guidance=6.0, steps=3, seed=5, width=64, height=64
)
EDGES = Structure(kind="canny", image=picture(3), annotator="canny", weight=0.7)
COLOURS = Structure(kind="palette", image=picture(4), annotator="palette")
PAINTED = Inpaint(image=picture(7), mask=box_mask((8, 8, 40, 40)), background_weight=0.5)
LEFT = box_mask((0, 0, 32, 64))

# Each beside PLAIN, and all of them beside each other.
BESIDE: dict[str, dict[str, Any]] = {
    "scale": {"image_scale": 0.3},
    "no image": {"references": ()},
    "scale 0": {"image_scale": 0.0},
    "other prompt": {"prompt": "b", "negative_prompt": "c", "seed": 9},
    "several images": {"count": 3},
    "guidance": {"guidance": 2.0, "guidance_rescale": 0.6},
    "no guidance": {"guidance": 1.0},
    "steps": {"steps": 5},
    "window": {"image_window": (0.3, 0.8), "steps": 4},
    "regions": {
        "references": (
            Reference(image=picture(2), mask=LEFT),
            Reference(image=picture(6), weight=0.5, window=(0.0, 0.5)),
            Reference(image=picture(8), negative=True),
            Reference(image=picture(9), only_image=1),
        ),
        "count": 2,
    },
    "layers": {"image_layers": (0.0, 1.0, 0.5, 1.0, 0.0, 2.0, 1.0)},
    "adapter": {"adapter": "plus", "combine": "average", "references": (REFERENCE,) * 2},
    "edges": {"structures": (EDGES,)},
    "other edges": {"structures": (replace(EDGES, image=picture(5)),), "guidance": 1.0},
    "weaker edges": {"structures": (replace(EDGES, weight=0.2, window=(0.0, 0.5)), EDGES)},
    "colours": {"structures": (COLOURS,)},
    "both": {"structures": (COLOURS, EDGES), "sampler": "euler"},
    "inpainting": {"inpaint": PAINTED},
    "repainting": {"inpaint": replace(PAINTED, repaint_passes=2, strength=0.7, context=0.5)},
    "from a picture": {"init_image": picture(2), "strength": 0.6},
    **{sampler: {"sampler": sampler, "steps": 4} for sampler in SAMPLERS},
}


def levels(one: Result, other: Result) -> int:
    """The largest difference of two results, in grey levels."""
    assert len(one.images) == len(other.images)
    pairs = zip(one.images, other.images, strict=True)
    return max(
        int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max()) for a, b in pairs
    )


@contextmanager
def rows_of(unet: UNet2DConditionModel) -> Iterator[list[int]]:
    """Numbers of rows of the calls."""
    rows: list[int] = []
    hook = unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    try:
        yield rows
    finally:
        hook.remove()


def assert_shared_as_alone(
    pipeline: ImagePromptPipeline, requests: list[GenerateRequest], caplog: pytest.LogCaptureFixture
) -> None:
    alone = [pipeline.generate(request) for request in requests]
    caplog.clear()
    caplog.set_level("INFO")
    with rows_of(pipeline._model.unet) as calls:
        shared = list(pipeline.generate_all(requests, share=len(requests)))
    halves = [request.count * (1 + (request.guidance > 1)) for request in requests]
    assert sum(halves) in calls, "there was a call of all of them"
    failed = [one for one in caplog.records if not one.name.endswith("request_log")]
    assert not failed, "and none failed"
    for ours, theirs in zip(shared, alone, strict=True):
        assert levels(ours, theirs) <= 1
        assert ours.warnings == theirs.warnings
        assert ours.seeds == theirs.seeds
        assert ours.maps == theirs.maps


@pytest.mark.parametrize("name", BESIDE)
def test_beside_another(
    pipeline: ImagePromptPipeline, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert_shared_as_alone(pipeline, [PLAIN, replace(PLAIN, **BESIDE[name])], caplog)
    assert_shared_as_alone(pipeline, [replace(PLAIN, **BESIDE[name]), PLAIN], caplog)


def test_all_at_once(pipeline: ImagePromptPipeline, caplog: pytest.LogCaptureFixture) -> None:
    requests = [replace(PLAIN, **{"seed": i} | fields) for i, fields in enumerate(BESIDE.values())]
    assert_shared_as_alone(pipeline, requests, caplog)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ImagePromptPipeline]:
    """The published layouts, with a ControlNet each."""

    def loaded(name: str) -> ImagePromptPipeline:
        models = tmp_path_factory.mktemp(name)
        if name == "sdxl":
            return load(write_tiny_sdxl(models / "xl"), device="cpu")
        model = write_published(models, name)
        edges = model.structures["canny"]
        write_structure(models, edges.folder, tiny_sd15_unet(), edges.network)
        return load(name, device="cpu", dtype="float32", models_dir=models)

    return loaded


@pytest.mark.parametrize("name", ["sd15", "sd15-plus", "sdxl"])
def test_the_published_layouts(
    published: Callable[[str], ImagePromptPipeline], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """SDXL's pooled text and sizes, and empty prompts that are zeros, are each row's own."""
    edges = replace(EDGES, window=(0.0, 0.6))
    assert_shared_as_alone(
        published(name),
        [
            PLAIN,
            replace(PLAIN, guidance=1.0, sampler="euler", seed=2),
            replace(PLAIN, structures=(edges,), prompt="b", image_scale=0.4, steps=5),
            replace(PLAIN, references=(), negative_prompt="c", sampler="heun"),
            replace(PLAIN, inpaint=PAINTED, sampler="lcm", count=2),
        ],
        caplog,
    )


def test_a_unet_that_reads_masks(
    entry: CatalogEntry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a plain request too, for which all is to be drawn."""
    shutil.copytree(entry.folder, tmp_path / "nine")
    tiny_tabletop_unet(in_channels=9).save_pretrained(tmp_path / "nine" / "unet")
    pipeline = load(replace(entry, folder=tmp_path / "nine", inpaint_adapter=None))
    other = replace(PAINTED, image=picture(8), mask=box_mask((30, 30, 60, 60)))
    assert_shared_as_alone(
        pipeline,
        [
            PLAIN,
            replace(PLAIN, inpaint=PAINTED, count=2),
            replace(PLAIN, inpaint=other, guidance=1.0, sampler="euler"),
        ],
        caplog,
    )


def test_attention_is_recorded_of_each(pipeline: ImagePromptPipeline) -> None:
    requests = [PLAIN, replace(PLAIN, references=(REFERENCE, Reference(image=picture(2))), count=2)]
    alone = [list(pipeline.stream(one, record_attention=True))[-1] for one in requests]
    shared = pipeline.generate_all(requests, share=2, record_attention=True)
    for ours, theirs in zip(shared, alone, strict=True):
        assert isinstance(theirs, Result)
        assert [len(maps) for maps in ours.attention_maps] == [len(ours.request.references)] * len(
            ours.images
        )
        for own, other in zip(ours.attention_maps, theirs.attention_maps, strict=True):
            for one, two in zip(own, other, strict=True):
                assert np.abs(np.asarray(one, np.int16) - np.asarray(two, np.int16)).max() <= 1


def test_other_sizes_and_other_loras_do_not_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = write_tiny_model(tmp_path)
    layer = "mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    width = load(entry)._model.unet.get_submodule(
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    )
    for name, seed in (("style", 3), ("other", 9)):
        save_file(kohya(layer, width.in_features, None, seed), tmp_path / f"{name}.safetensors")
    pipeline = load(replace(entry, loras={n: f"{n}.safetensors" for n in ("style", "other")}))
    style, other = (Lora(name="style"),), (Lora(name="other"),)
    requests = [
        replace(PLAIN, loras=style),
        replace(PLAIN, loras=other, seed=2),
        replace(PLAIN, loras=style, seed=3, prompt="b"),
        replace(PLAIN, seed=4),
        replace(PLAIN, width=72),
    ]
    alone = [pipeline.generate(request) for request in requests]
    merges: list[object] = []
    merge = type(pipeline._model.loras)._restore
    with rows_of(pipeline._model.unet) as calls, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(pipeline._model.loras),
            "_restore",
            lambda self: merges.append(1) or merge(self),  # type: ignore[func-returns-value]
        )
        shared = list(pipeline.generate_all(requests, share=5))
    assert max(calls) == 4, "the first and the third"
    assert len(merges) <= 4, "not in every step"
    for ours, theirs in zip(shared, alone, strict=True):
        assert levels(ours, theirs) <= 1
    [first, second] = (levels(alone[0], alone[i]) for i in (1, 3))
    assert min(first, second) > 1, "LoRAs change the picture"


def test_a_face_s_lora_is_its_own_request_s(tmp_path: Path) -> None:
    """What an adapter of faces brings along is a LoRA like those that are chosen."""
    entry = write_tiny_model(tmp_path)
    file = "ip-adapter-faceid_sd15.bin"
    write_face_adapter(entry.folder, load(entry)._model.unet, file)
    entry = replace(entry, adapters=entry.adapters | {"face": file}, inpaint_adapter=None)
    pipeline = load(entry)
    plain = replace(PLAIN, references=())
    face = replace(plain, seed=6, references=(Reference(embeds=face_embeds(1), adapter="face"),))
    alone = {request.seed: pipeline.generate(request) for request in (plain, face)}
    for order in ((plain, face), (face, plain)):
        for request, ours in zip(order, pipeline.generate_all(order, share=2), strict=True):
            assert levels(ours, alone[request.seed]) <= 1


class Gate:
    """Lets calls of a UNet through when the test says so."""

    def __init__(self, pipeline: ImagePromptPipeline) -> None:
        self.arrived, self.open = threading.Semaphore(0), threading.Semaphore(0)
        self.closed = True
        self.hook = pipeline._model.unet.register_forward_pre_hook(self.wait)

    def wait(self, *_: object) -> None:
        if self.closed:
            self.arrived.release()
            assert self.open.acquire(timeout=60)

    def step(self) -> None:
        assert self.arrived.acquire(timeout=60)
        self.open.release()

    def release(self) -> None:
        self.closed = False
        self.open.release(100)


@contextmanager
def gated(pipeline: ImagePromptPipeline) -> Iterator[Gate]:
    gate = Gate(pipeline)
    try:
        yield gate
    finally:
        gate.release()
        gate.hook.remove()


def asked(pipeline: ImagePromptPipeline, request: GenerateRequest) -> tuple[Any, list[Any]]:
    """A thread that asks for a request, and what it gets."""
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(pipeline.generate(request))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, found


def test_one_begins_when_another_is_half_done(model: BaseModel) -> None:
    pipeline = ImagePromptPipeline(model, share_steps=4)
    requests = [replace(PLAIN, steps=6), replace(PLAIN, seed=9, sampler="euler", image_scale=0.2)]
    alone = [pipeline.generate(request) for request in requests]
    with gated(pipeline) as gate, rows_of(model.unet) as calls:
        first, one = asked(pipeline, requests[0])
        for _ in range(3):
            gate.step()
        assert gate.arrived.acquire(timeout=60)
        second, two = asked(pipeline, requests[1])
        while len(pipeline._engine._jobs) < 2:
            time.sleep(0.001)
        gate.release()
        first.join(60)
        second.join(60)
    assert calls[:6] == [2, 2, 2, 2, 4, 4]
    assert levels(one[0], alone[0]) <= 1
    assert levels(two[0], alone[1]) <= 1


def test_by_itself_it_is_bit_for_bit_what_it_was_whatever_may_be_shared(model: BaseModel) -> None:
    """Only company changes a bit; a pipeline that shares nothing never does."""
    sharing, alone = ImagePromptPipeline(model, share_steps=8), ImagePromptPipeline(model)
    for fields in BESIDE.values():
        request = replace(PLAIN, **fields)
        assert sharing.generate(request).images == alone.generate(request).images
    requests = [replace(PLAIN, seed=seed) for seed in range(6)]
    expected = [alone.generate(request).images for request in requests]
    assert [result.images for result in alone.generate_all(requests)] == expected


def test_an_error_is_its_own_request_s(pipeline: ImagePromptPipeline) -> None:
    requests = [
        PLAIN,
        replace(PLAIN, adapter="nonesuch"),
        replace(PLAIN, structures=(replace(EDGES, kind="depth"),)),
        replace(PLAIN, seed=2),
    ]
    first, unknown, missing, last = pipeline.outcomes(requests, share=4)
    assert isinstance(first, Result)
    assert isinstance(last, Result)
    assert isinstance(unknown, RequestError)
    assert isinstance(missing, RequestError)
    with pytest.raises(RequestError, match="adapter must be one of"):
        list(pipeline.generate_all(requests, share=4))
    assert levels(first, pipeline.generate(PLAIN)) <= 1


def test_a_call_that_fails_takes_no_other_with_it(pipeline: ImagePromptPipeline) -> None:
    """The one of more images than the network can bear, here of three or five in a call."""
    bad = replace(PLAIN, count=3)

    def refuse(_: object, given: tuple[Any, ...]) -> None:
        if len(given[0]) in (6, 10):
            raise RuntimeError("refused")

    hook = pipeline._model.unet.register_forward_pre_hook(refuse)
    try:
        one, broken, other = pipeline.outcomes([PLAIN, bad, replace(PLAIN, seed=2)], share=3)
    finally:
        hook.remove()
    assert isinstance(broken, RuntimeError)
    for found, request in ((one, PLAIN), (other, replace(PLAIN, seed=2))):
        assert isinstance(found, Result)
        assert levels(found, pipeline.generate(request)) <= 1


def test_the_background_waits_and_ends_with_its_model(model: BaseModel) -> None:
    pipeline = ImagePromptPipeline(model)
    slow = replace(PLAIN, steps=40)
    outcomes: list[Any] = []
    with gated(pipeline) as gate:

        def compare() -> None:
            try:
                outcomes.extend(pipeline.outcomes([slow], background=True))
            except Unloaded as error:
                outcomes.append(error)

        thread = threading.Thread(target=compare)
        thread.start()
        gate.step()
        visitor, found = asked(pipeline, PLAIN)
        while len(pipeline._engine._jobs) < 2:
            time.sleep(0.001)
        for _ in range(4):
            gate.step()
        visitor.join(60)
        assert not outcomes
        pipeline.unload()
        thread.join(60)
    assert isinstance(outcomes[0], Unloaded)
    assert pipeline.generate(PLAIN).images == found[0].images, "who holds it still may draw"


def test_a_pipeline_that_nobody_holds_goes_and_its_thread(entry: CatalogEntry) -> None:
    pipeline = load(entry)
    pipeline.generate(PLAIN)
    unet, thread = weakref.ref(pipeline._model.unet), pipeline._engine._thread
    assert thread is not None
    assert thread.is_alive()
    stopped = pipeline.stream(replace(PLAIN, steps=50))
    next(stopped)
    del pipeline, stopped
    deadline = time.monotonic() + 60
    while unet() is not None or thread.is_alive():
        gc.collect()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_many_threads_at_once_each_get_only_their_own(model: BaseModel) -> None:
    pipeline = ImagePromptPipeline(model, share_steps=3)
    requests = [
        replace(PLAIN, seed=i, image_scale=i / 8, steps=2 + i % 3, count=1 + i % 2)
        for i in range(8)
    ]
    alone = [pipeline.generate(request) for request in requests]
    threads, found = zip(*(asked(pipeline, request) for request in requests), strict=True)
    for thread in threads:
        thread.join(60)
    for ours, theirs in zip(found, alone, strict=True):
        assert levels(ours[0], theirs) <= 1


def test_the_number_is_the_operator_s(entry: CatalogEntry) -> None:
    assert load(entry, device="cpu").share_steps == 1
    assert load(entry, device="cpu", share_steps=3).share_steps == 3
    assert ip.LoadOptions().share_steps is None
