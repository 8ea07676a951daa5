"""The language of the page in a browser, on the tiny model: what it is by itself, the switch, and
that nothing of the other language is left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browsing import WAIT_MS, browser, settle, url
from tests.test_browser import GRAVE

__all__ = ["browser", "url"]  # fixtures

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
TABS = ["图像变体", "图像 + 文字", "结构", "局部重绘", "对比"]

# Whatever is read of a page: texts, names, and what fields show; fields that hold a visitor's or an
# example's words, code and what says lang=en aside.
READ = """() => {
    const own = "body [lang=en], tr.tr-body, pre, code, .cm-editor, textarea, script, style";
    const found = new Set(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const { data, parentElement } = walk.currentNode;
        if (!parentElement.closest(own)) found.add(data.trim());
    }
    for (const name of ["aria-label", "aria-valuetext", "title", "placeholder", "alt"])
        for (const one of document.querySelectorAll(`[${name}]`))
            if (!one.closest(own)) found.add(one.getAttribute(name));
    for (const one of document.querySelectorAll("input[role=listbox]")) found.add(one.value);
    return [...found];
}"""
# Names, file names, and what is written in English everywhere.
NAMES = re.compile(
    r"IP-Adapter( demo)?|FaceID|T2I-Adapter|ControlNet|InsightFace|CLIP(-[IT])?|Plus|Canny|LoRAs?|"
    r"VAE|SDXL|DPI|PNG|YAML|JSON|API|A1111|CFG|Python|Gradio|token|Ctrl|Shift|tiny|"
    r"dpm\+\+( sde)?|ddim|pndm|euler(_a)?|lcm|tcd|unipc|heun|karras|leading|trailing|"
    r"[\w-]+\.(png|jpe?g|zip|pdf|svg|csv|tex|json|txt)|\.safetensors|(red|blue)-\w+|"
    r"checker-cube|two-solids|^votes$|^\.csv$|style:0\.7|MB|KB|[a-z]+=\w+\.png|word|BREAK|photo|cells?|none"
)
WORDS = re.compile("[A-Za-z]{2,}")
CHINESE = re.compile("[一-鿿]")


@contextmanager
def in_language(browser: Browser, url: str, locale: str) -> Iterator[Page]:
    context = browser.new_context(locale=locale)
    page = context.new_page()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    expect(page.get_by_role("tab").first).to_be_visible()
    yield page
    context.close()
    assert wrong == []


def english(page: Page) -> list[str]:
    settle(page)
    texts: list[str] = page.evaluate(READ)
    return [text for text in texts if WORDS.search(NAMES.sub("", text))]


def opened(page: Page, tab: str) -> Locator:
    """With all its accordions open."""
    page.get_by_role("tab", name=tab, exact=True).click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    for _ in range(2):
        panel.evaluate(
            "one => one.querySelectorAll('button.label-wrap:not(.open)').forEach((b) => b.click())"
        )
        settle(page)
    return panel


def test_a_chinese_browser_gets_the_whole_page_in_chinese(browser: Browser, url: str) -> None:
    with in_language(browser, url, "zh-CN") as page:
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        left: dict[str, list[str]] = {}
        page.add_style_tag(content="* { transition: none !important }")
        page.evaluate(Axe().axe_script)
        for tab in TABS:
            opened(page, tab)
            left[tab] = english(page) + page.evaluate(GRAVE)
            if tab == "结构":  # in the examples: a prompt as it is, but the control type's name
                kinds = opened(page, tab).locator("tr.tr-body td:last-child")
                assert not any(
                    map(WORDS.search, (NAMES.sub("", one) for one in kinds.all_inner_texts()))
                )

        panel = page.get_by_role("tabpanel").filter(visible=True)
        expect(panel.get_by_text(re.compile("^18 个单元格，")).first).to_be_visible()
        panel.get_by_label("YAML 或 JSON").fill(
            "columns: {seed: [1, 2]}\nrequest: {steps: 1, references: [{image: red-sphere.png}]}"
        )
        panel.get_by_role("button", name="对比", exact=True).click()
        expect(panel.get_by_text("2/2 个单元格。")).to_be_visible()
        left["a comparison"] = english(page)

        panel.get_by_role("button", name="盲投").click()
        panel.get_by_role("button", name="开始", exact=True).click()
        left["a vote"] = english(page)
        panel.get_by_role("button", name="左边的", exact=True).click()
        expect(panel.get_by_text(re.compile("95 % 区间"))).to_be_visible()
        left["votes"] = english(page)

        panel = opened(page, "图像变体")
        generate = panel.get_by_role("button", name="生成", exact=True)
        generate.click()
        toast = page.get_by_test_id("toast-body")
        expect(toast).to_contain_text("缺少“参考图”：请先上传图片")
        expect(panel.get_by_text("缺少“参考图”").first).to_be_visible()
        left["an error"] = english(page)

        panel.locator(".inputs .gallery-item").first.click()
        expect(panel.get_by_role("status").first).to_contain_text("张图片，用时")
        expect(generate).to_be_enabled()
        left["results"] = english(page)

        panel.get_by_role("button", name="扫描 λ", exact=True).click()
        expect(panel.locator(".scrub img").filter(visible=True)).to_be_visible()
        expect(generate).to_be_enabled()
        left["a sweep"] = english(page)
    found = [f"{where}: {text}" for where, texts in left.items() for text in texts]
    assert not found, "\n".join(found)


def test_the_switch_changes_the_language_and_is_remembered(browser: Browser, url: str) -> None:
    with in_language(browser, url, "zh-Hans") as page:
        page.get_by_role("button", name="English", exact=True).click()
        expect(page.get_by_role("tab", name="Variation", exact=True)).to_be_visible()
        page.reload()
        expect(page.get_by_role("button", name="Generate").first).to_be_visible()
        assert page.evaluate("document.documentElement.lang") == "en"
        page.get_by_role("button", name="中文", exact=True).press("Enter")
        expect(page.get_by_role("tab", name="图像变体", exact=True)).to_be_visible()
        assert page.evaluate("document.documentElement.lang") == "zh-CN"


def test_nothing_is_lost_by_a_change_of_the_language_unasked(browser: Browser, url: str) -> None:
    asked: list[str] = []
    with in_language(browser, url, "zh-CN") as page:
        page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
        page.get_by_role("tab", name="图像 + 文字", exact=True).click()
        settle(page)
        prompt = page.get_by_role("tabpanel").filter(visible=True).locator(".prompt textarea")
        prompt.fill("a red cube")
        prompt.press("End")
        page.keyboard.type("!")
        page.get_by_role("button", name="English", exact=True).click()
        expect(prompt).to_have_value("a red cube!")
        assert len(asked) == 1
        assert "历史记录会保留" in asked[0]


def test_a_file_of_another_type_is_refused_in_chinese(browser: Browser, url: str) -> None:
    """By gradio, before anything is sent."""
    with in_language(browser, url, "zh-CN") as page:
        page.locator(".header input[type=file]").set_input_files(
            {"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"}
        )
        expect(page.get_by_text("不支持的文件类型：a.txt。只接受")).to_be_visible()


@pytest.mark.parametrize("locale", ["en-US", "fr-FR"])
def test_any_other_browser_gets_english(browser: Browser, url: str, locale: str) -> None:
    with in_language(browser, url, locale) as page:
        assert page.evaluate("document.documentElement.lang") == "en"
        for tab in page.get_by_role("tab").all():
            tab.click()
            settle(page)
        texts = page.evaluate(READ)
        assert "Drop a picture here" in " ".join(texts)
        assert [text for text in texts if CHINESE.search(text)] == ["中文"]


def test_programs_are_answered_in_english(url: str) -> None:
    chinese = {"Accept-Language": "zh-CN"}
    plain, asked = (
        httpx.get(f"{url}gradio_api/info", headers=headers).json() for headers in ({}, chinese)
    )
    assert plain == asked
    said = httpx.post(f"{url}gradio_api/call/v2/variation", json={"steps": 1}, headers=chinese).text
    assert not CHINESE.search(said)
