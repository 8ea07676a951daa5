"""Live: whoever drags λ sees the picture follow, then the whole result; and only their own."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect
from safetensors.torch import save_file

import ipadapter_demo as ip
from benchmarks.page import served
from ipadapter_demo.assets import asset
from ipadapter_demo.lora import Lora
from ipadapter_demo.models.catalog import CatalogEntry, LoraEntry
from ipadapter_demo.models.few_step import FewStep
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.record import record_from_png
from ipadapter_demo.request import GenerateRequest, Reference
from tests.browsing import browser, click_example, open_tab, set_number, settle, visit
from tests.test_request_loras import kohya
from tests.test_ui import built
from tests.tiny import picture, write_tiny_model

__all__ = ["browser"]  # a fixture

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

EXAMPLES = ("red-sphere.png", "blue-cone.png")
SCALES = [round(0.05 * i, 2) for i in range(31)]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> ImagePromptPipeline:
    entry = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    layer = "mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    width = ip.load(entry, device="cpu")._model.unet.mid_block.attentions[0].in_channels
    save_file(kohya(layer, width, None, 3), entry.folder / "quick.safetensors")
    few = FewStep(steps=2, sampler="lcm")
    entry = replace(entry, loras={"quick": LoraEntry(file="quick.safetensors", few_step=few)})
    return ip.load(entry, device="cpu", dtype="float32")


# What a frame is


def test_few_steps_replace_what_they_have_to_and_nothing_else(
    pipeline: ImagePromptPipeline,
) -> None:
    asked = GenerateRequest(
        prompt="a red cube",
        references=(Reference(image=picture(1), weight=0.5),),
        image_scale=0.3,
        steps=20,
        guidance=6.0,
        guidance_rescale=0.5,
        guidance_window=(0.2, 0.8),
        sampler="euler",
        noise_schedule="karras",
        seed=4,
    )
    few = pipeline.info.in_few_steps(asked)
    expected = replace(
        asked,
        steps=2,
        guidance=1.0,
        guidance_rescale=0.0,
        guidance_window=(0.0, 1.0),
        sampler="lcm",
        noise_schedule="default",
        loras=(Lora(name="quick"),),
    )
    assert few == expected


def test_loras_of_the_request_stay_beside_the_one_of_few_steps(
    pipeline: ImagePromptPipeline,
) -> None:
    own, few = Lora(name="style", weight=0.7), Lora(name="quick")
    asked = GenerateRequest(loras=(own, Lora(name="quick", weight=0.2)))
    assert pipeline.info.in_few_steps(asked).loras == (own, few)
    loaded = replace(pipeline.info, loras={"style": 0.7, "quick": 0.0})
    assert loaded.in_few_steps(GenerateRequest()).loras == (own, few)


def test_live_may_take_fewer_steps_than_the_settings_say(pipeline: ImagePromptPipeline) -> None:
    few = FewStep(steps=4, sampler="lcm", live_steps=2)
    assert few.fields["steps"] == 4
    info = replace(pipeline.info, few_step_loras={"quick": few})
    assert info.in_few_steps(GenerateRequest()).steps == 2


def test_live_takes_only_what_is_at_hand(pipeline: ImagePromptPipeline) -> None:
    """Nobody who moves a slider makes the server fetch a file."""
    assert pipeline.info.live == "quick"
    [published] = (entry for name, entry in PUBLISHED.items() if name == "sd15")
    hub = next(iter(published.loras))
    entry = CatalogEntry(name="sd15", folder=Path(), loras=published.loras)
    assert entry.live_lora(()) is None
    assert entry.live_lora((Lora(name=hub),)) == hub
    assert entry.live_lora((Lora(name=hub, weight=0.0),)) is None


def test_nothing_is_computed_again_that_did_not_change(
    pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pipeline._model
    asked = GenerateRequest(
        prompt="a blue cone",
        references=(Reference(image=picture(1)), Reference(image=picture(2), weight=0.5)),
        image_scale=0.3,
    )
    request = pipeline.info.in_few_steps(asked)
    first = pipeline.generate(request).images[0]
    ran: list[str] = []

    def noted(module: Any, *_: Any) -> None:
        ran.append(type(module).__name__)

    watched = [model.image_encoder, *model.text.encoders, *model.adapters.values()]
    watched += [m for a in model.adapters.values() for m in a.modules() if m is not a]
    handles = [m.register_forward_pre_hook(noted) for m in watched if m is not None]
    try:
        second = pipeline.generate(replace(request, image_scale=0.4)).images[0]
        assert ran == []
        pipeline.generate(replace(request, prompt="a red cone"))
        assert not any("Vision" in name or name == "Linear" for name in ran), ran
        changed = (request.references[0], replace(request.references[1], weight=0.6))
        ran.clear()
        pipeline.generate(replace(request, references=changed))
        assert not any("Model" in name for name in ran), "the pictures are read, not yet weighed"
    finally:
        for handle in handles:
            handle.remove()
    assert first.tobytes() != second.tobytes()


# In a browser


@pytest.fixture(scope="module")
def url(pipeline: ImagePromptPipeline) -> Iterator[str]:
    with served(pipeline) as url:
        yield url


LIVE = re.compile("^Live: ")
NOTE_PICTURES = """panel => {
    const results = panel.querySelector(".results"), seen = window.seen = [];
    const note = () => {
        const pictures = [...results.querySelectorAll("img")];
        const last = seen.at(-1);
        if (pictures.length && pictures[0].src !== last) seen.push(pictures[0].src);
    };
    new MutationObserver(note).observe(
        results.parentElement,
        { subtree: true, childList: true, attributes: true, attributeFilter: ["src"] });
}"""


def ready(page: Page, example: int) -> Locator:
    panel = open_tab(page, "Variation")
    click_example(panel, example)
    panel.get_by_label("Live").check()
    settle(page)
    panel.evaluate(NOTE_PICTURES)
    return panel


def drag(panel: Locator, values: list[float]) -> None:
    slider = panel.get_by_label("range slider for Image strength λ")
    for value in values:
        slider.fill(str(value))
        panel.page.wait_for_timeout(150)


def frames(panel: Locator) -> tuple[list[bytes], list[bytes]]:
    """Pixels of the frames that were shown, and of the whole result after them."""
    expect(panel.locator(".status").first).to_contain_text("4 pictures in")
    expect(panel.get_by_role("button", name="Generate")).to_be_enabled()
    pixels = [pixels_at(source) for source in panel.page.evaluate("window.seen")]
    whole = [
        pixels_at(image.get_attribute("src") or "") for image in panel.locator(".results img").all()
    ]
    assert pixels[-1] == whole[0]
    return pixels[:-1], whole


def pixels_at(source: str) -> bytes:
    with Image.open(io.BytesIO(httpx.get(source).content)) as image:
        return image.convert("RGB").tobytes()


def possible(pipeline: ImagePromptPipeline, example: str) -> dict[bytes, float]:
    """The frames of every λ."""
    with Image.open(asset(f"assets/examples/{example}")) as image:
        reference = Reference(image=image.convert("RGB"))
    return {
        pipeline.generate(
            pipeline.info.in_few_steps(
                GenerateRequest(references=(reference,), image_scale=scale, seed=0)
            )
        )
        .images[0]
        .tobytes(): scale
        for scale in SCALES
    }


def test_the_picture_follows_and_then_the_whole_result_comes(
    pipeline: ImagePromptPipeline, browser: Browser, url: str
) -> None:
    with visit(browser, url) as page:
        panel = ready(page, 0)
        drag(panel, [0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
        shown, whole = frames(panel)
    assert len(set(shown)) >= 3
    assert len(set(whole)) == 4
    known = possible(pipeline, EXAMPLES[0])
    assert set(shown) <= known.keys()
    assert known[shown[-1]] == 1.2, "the newest value is drawn"
    [reference] = [Reference(image=Image.open(asset(f"assets/examples/{EXAMPLES[0]}")))]
    recommended = pipeline.info.recommended
    asked = GenerateRequest(
        references=(reference,),
        image_scale=1.2,
        steps=recommended.steps,
        guidance=recommended.guidance,
        seed=0,
    )
    assert whole[0] == pipeline.generate(asked).images[0].tobytes(), "from the same noise"


def test_the_picture_follows_whatever_changes_the_prompt(browser: Browser, url: str) -> None:
    """Also what is deleted, of which gradio says nothing; Shift and Enter change nothing."""
    with visit(browser, url) as page:
        panel = open_tab(page, "Image + text")
        click_example(panel, 0)
        set_number(panel, "Steps", 1)
        panel.get_by_label("Live").check()
        settle(page)
        prompt, status = panel.locator(".prompt textarea"), panel.get_by_role("status").first
        written = prompt.input_value()
        prompt.press("End")
        prompt.press("Backspace")
        expect(status).to_have_text(LIVE)
        expect(status).to_have_text(re.compile("^4 pictures in"))
        result = panel.locator(".results img").first.get_attribute("src") or ""
        request = record_from_png(httpx.get(result).content).request
        assert request.prompt == written[:-1]
        expect(panel.get_by_role("button", name="Generate")).to_be_enabled()
        panel.evaluate(
            """panel => {
                const frame = panel.querySelector(".frame");
                frame.addEventListener("click", () => { frame.dataset.clicked = true; });
            }"""
        )
        prompt.press("Shift+Enter")
        expect(panel.get_by_role("button", name="Generate")).to_be_disabled()
        expect(panel.get_by_role("button", name="Generate")).to_be_enabled()
        expect(panel.locator(".frame")).not_to_have_attribute("data-clicked", "true")


def test_two_who_drag_at_once_see_only_their_own(
    pipeline: ImagePromptPipeline, browser: Browser, url: str
) -> None:
    with visit(browser, url) as one, visit(browser, url) as two:
        first, second = ready(one, 0), ready(two, 1)
        for value in (0.2, 0.5, 0.8, 1.1, 1.4):
            drag(first, [value])
            drag(second, [value])
        theirs = [frames(first)[0], frames(second)[0]]
    for shown, example in zip(theirs, EXAMPLES, strict=True):
        assert len(set(shown)) >= 3
        assert set(shown) <= possible(pipeline, example).keys()


def test_who_goes_on_is_not_told_of_a_stop(browser: Browser, url: str) -> None:
    """The run that was begun when somebody rested ends when they go on."""
    with visit(browser, url) as page:
        panel = ready(page, 0)
        set_number(panel, "Steps", 50)
        panel.evaluate(
            """panel => {
                const status = panel.querySelector(".status"), said = window.said = [];
                new MutationObserver(() => said.push(status.textContent)).observe(
                    status, { subtree: true, childList: true, characterData: true });
            }"""
        )
        drag(panel, [0.2])
        stop = panel.get_by_role("button", name="Stop")
        expect(stop).to_be_enabled()  # the whole picture is begun
        drag(panel, [0.6])
        frames(panel)
        said = page.evaluate("window.said")
    assert any("step" in one for one in said)
    assert not [one for one in said if "top" in one.lower().replace("step", "") or "lost" in one]


RESTED = 1500  # milliseconds: more than a rest, and what is drawn then would have begun


def test_what_was_asked_for_is_not_drawn_over(browser: Browser, url: str) -> None:
    """A rest that was waited for when somebody clicked is none any more."""
    with visit(browser, url) as page:
        panel = ready(page, 0)
        status = panel.get_by_role("status").first
        drag(panel, [0.2])
        expect(status).to_have_text(LIVE)
        panel.get_by_role("button", name="Sweep λ").click()
        expect(panel.get_by_role("button", name="Generate")).to_be_enabled()
        scrubber = panel.get_by_label("λ to look at")
        expect(scrubber).to_be_visible()
        page.wait_for_timeout(RESTED)
        expect(panel.get_by_role("button", name="Generate")).to_be_enabled()
        expect(scrubber).to_be_visible()


def test_stop_is_the_end_of_what_live_began(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        panel = ready(page, 0)
        status = panel.get_by_role("status").first
        set_number(panel, "Steps", 50)
        drag(panel, [0.2])
        stop = panel.get_by_role("button", name="Stop")
        expect(stop).to_be_enabled()  # the whole picture is begun
        stop.click()
        expect(status).to_have_text(re.compile(r"^Stopped\."))
        page.wait_for_timeout(RESTED)
        expect(status).to_have_text(re.compile(r"^Stopped\."))
        drag(panel, [0.4])
        expect(status).to_have_text(LIVE)
        panel.get_by_role("button", name="Generate").click()
        stop.click()
        expect(status).to_have_text(re.compile(r"^Stopped\."))
        page.wait_for_timeout(RESTED)
        expect(status).to_have_text(re.compile(r"^Stopped\."))


def test_runs_that_wait_are_drawn_before_live_goes_on(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        panel = ready(page, 0)
        set_number(panel, "Steps", 50)
        panel.get_by_role("button", name="Generate").click()
        queue = panel.get_by_role("button", name=re.compile("^Queue"))
        set_number(panel, "Steps", 49)
        queue.click()
        expect(queue).to_have_text("Queue (1)")
        drag(panel, [0.2])
        runs = page.locator(".history img")
        expect(runs).to_have_count(2)
        expect(panel.get_by_role("button", name="Generate")).to_be_enabled()


def test_without_live_nothing_is_drawn(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        panel = ready(page, 0)
        panel.get_by_label("Live").uncheck()
        drag(panel, [0.2, 0.4])
        page.wait_for_timeout(1000)
        assert panel.locator(".results img").count() == 0


def test_a_mistake_is_said_in_the_status(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        panel = open_tab(page, "Variation")
        panel.get_by_label("Live").check()
        drag(panel, [0.2])
        expect(panel.locator(".status").first).to_contain_text("“Reference” is missing")


def test_a_model_without_such_a_lora_has_no_switch(tmp_path: Path) -> None:
    pipeline = ip.load(write_tiny_model(tmp_path), device="cpu")
    with gr.Blocks():
        tab = built(pipeline, "variation")
    assert tab.inputs["live"].visible is False
