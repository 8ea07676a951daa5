"""Many pictures with a tab's settings, over HTTP: results, the zip of them, and what is refused."""

from __future__ import annotations

import io
import json
import re
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Browser, expect

from benchmarks.ports import free_port
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.record import record_from_png
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch_options
from ipadapter_demo.ui.run import batch
from tests.browsing import browser, open_tab, visit
from tests.test_ui import FAST, Api, Failed, painted, png
from tests.tiny import box_mask, picture

__all__ = ["browser"]  # a fixture

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]


class Page(Api):
    """The page as a browser uses it, which may click what is no endpoint for programs."""

    def __init__(self, blocks: gr.Blocks, url: str) -> None:
        super().__init__(url)
        self.blocks = blocks

    def click(self, name: str, **values: Any) -> list[dict[str, Any]]:
        """What the queue says of a call, to its end. Values that are not given are the page's."""
        [called] = [fn for fn in self.blocks.fns.values() if fn.api_name == name]
        names = called.input_keyword_names or list(values)
        widgets = zip(names, called.inputs, strict=True)
        data = [values.get(name, widget.value) for name, widget in widgets]
        session = {"session_hash": secrets.token_hex(4)}
        call = {"data": data, "fn_index": called._id} | session
        self.http.post("queue/join", json=call).raise_for_status()
        said = self.http.get("queue/data", params=session).text
        return [json.loads(line.removeprefix("data: ")) for line in said.split("\n\n") if line]

    def batch(self, tab: str, pictures: list[Any], **values: Any) -> tuple[str, zipfile.ZipFile]:
        """The status and the zip of a batch."""
        values = {"random_seed": False} | FAST | values
        end = self.click(f"{tab}_batch", pictures=pictures, **values)[-2]
        if not end["success"]:
            raise Failed(end["output"]["error"])
        _, status, archive, *_ = end["output"]["data"]
        content = self.http.get(archive["value"]["url"]).content
        return status, zipfile.ZipFile(io.BytesIO(content))


@pytest.fixture(scope="module")
def api(model: Any) -> Iterator[Page]:
    settings = Settings(port=free_port())
    page = build_ui(ImagePromptPipeline(model), settings)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options(settings))
    api = Page(page, url)
    yield api
    api.http.close()
    page.close()


def test_a_zip_has_the_result_of_each_picture_and_says_why_one_has_none(api: Page) -> None:
    files = [
        api.upload(png(picture(1)), "cat.png"),
        api.upload(b"no picture", "<b>.png"),
        api.upload(png(picture(2)), "cat.png"),
    ]
    status, archive = api.batch("variation", files, count=2)
    names = ["cat-2.png-7.png", "cat-2.png-8.png", "cat.png-7.png", "cat.png-8.png"]
    assert sorted(archive.namelist()) == [*names, "manifest.jsonl"]
    first, second = (record_from_png(archive.read(name)) for name in (names[2], names[1]))
    assert first.request.references[0].image == picture(1)
    assert (second.request.references[0].image, second.seed) == (picture(2), 8)
    alone = api.pngs("variation", reference=files[2], count=2, seed=7)
    assert [record_from_png(file).request for file in alone] == [second.request] * 2
    lines = [json.loads(line) for line in archive.read("manifest.jsonl").splitlines()]
    [error] = [line["error"] for line in lines if "error" in line]
    assert "is not a picture that can be read" in error
    assert status.startswith("2 of 3 pictures are drawn")
    assert "is not a picture" in status
    assert "<b>" not in status


def test_what_belongs_to_pictures_of_before_goes(api: Page) -> None:
    """The slider over a sweep, maps, lines of *Reproduce*, and what was said."""
    upload = api.upload(png(picture(1)), "a.png")
    said = api.click("variation_batch", pictures=[upload], random_seed=False, **FAST)
    first = next(one for one in said if one["msg"] == "process_generating")
    assert first["output"]["data"][5:] == ["", "", "", "", None, ""]


def test_the_other_values_of_a_tab_stay(api: Page) -> None:
    painting = painted(api, picture(4), box_mask((10, 10, 40, 40)))
    files = [api.upload(png(picture(1)), "a.png")]
    _, archive = api.batch("inpaint", files, painting=painting)
    request = record_from_png(archive.read("a.png-7.png")).request
    assert request.references[0].image == picture(1)
    assert request.inpaint is not None
    other = api.upload(png(picture(5)))
    _, archive = api.batch("image_text", files, prompt="a cube", reference_2=other, weight=0.5)
    first, second = record_from_png(archive.read("a.png-7.png")).request.references
    assert (first.image, first.weight, second.image) == (picture(1), 0.5, picture(5))


def test_a_picture_comes_with_no_more_pixels_than_a_result_has(
    api: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MAX_AREA", 32 * 32)
    _, archive = api.batch("variation", [api.upload(png(picture(1)), "a.png")])
    assert record_from_png(archive.read("a.png-7.png")).request.references[0].image.size == (32, 32)


@pytest.mark.parametrize(
    ("files", "values", "message"),
    [
        (0, {}, "“References” must be 1 to 50 uploaded files, got 0"),
        (51, {}, "“References” must be 1 to 50 uploaded files, got 51"),
        (
            26,
            {"count": 4},
            "“References” must give at most 100 results, got 26 pictures x 4 images",
        ),
        (1, {"steps": 0}, r"“Steps” must be from 1 to 200, got 0"),
    ],
)
def test_what_is_too_much_or_wrong_is_refused(
    api: Page, files: int, values: dict[str, Any], message: str
) -> None:
    upload = api.upload(png(picture(1)))
    with pytest.raises(Failed, match=message):
        api.batch("variation", [upload] * files, **values)


def test_a_file_of_the_server_cannot_be_named(api: Page) -> None:
    file = {"path": __file__, "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(Failed):
        api.batch("variation", [file])


def test_in_a_browser_and_stopped(api: Page, browser: Browser, tmp_path: Path) -> None:
    """Stop keeps what is finished: it is in the zip."""
    names = [f"{number}.png" for number in range(12)]
    for number, name in enumerate(names):
        picture(number).save(tmp_path / name)
    with visit(browser, api.url) as page:
        panel = open_tab(page, "Variation")
        panel.get_by_label("number input for Steps").fill("50")  # not done before Stop is clicked
        panel.get_by_text("Many pictures").click()
        files = panel.locator("input[type=file][multiple]")
        files.set_input_files([tmp_path / name for name in names])
        panel.get_by_role("button", name="Draw all").click()
        expect(panel.get_by_text(re.compile(r"picture [2-9] of 12"))).to_be_visible()
        panel.get_by_role("button", name="Stop and zip").click()
        with page.expect_download() as download:
            panel.locator("a[download='pictures.zip']").click()
        expect(panel.get_by_role("button", name="Draw all")).to_be_enabled()
        expect(
            panel.get_by_text(re.compile(r"^Stopped\. Results in the zip: \d+\.$"))
        ).to_be_visible()
    stored = zipfile.ZipFile(download.value.path()).namelist()
    assert 2 < len(stored) < 2 + 12 * 4
    assert "0.png" in " ".join(stored)
