"""The page as a server: over HTTP, with a tiny model, against whatever people upload."""

from __future__ import annotations

import contextlib
import html
import io
import json
import re
import shlex
import struct
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import gradio as gr
import httpx
import numpy as np
import pillow_heif
import pytest
from gradio.route_utils import delete_files_created_by_app
from gradio_client import Client, handle_file
from PIL import Image, ImageChops

import app
from benchmarks.ports import free_port
from ipadapter_demo import cli, ui
from ipadapter_demo.compare import Job, Plan, spec_from_document
from ipadapter_demo.embeds import ImageEmbeds, average_embeds
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.masks import grown
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.record import record_from_png, save_png
from ipadapter_demo.request import SAMPLERS, GenerateRequest, Inpaint, Reference, Structure
from ipadapter_demo.sampling import NOISE_SCHEDULES, noise_schedules_of
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch_options
from ipadapter_demo.ui.run import restore, reuse
from ipadapter_demo.ui.run.errors import with_errors_said
from ipadapter_demo.ui.run.model_input import model_input
from ipadapter_demo.ui.run.running import build_tab
from ipadapter_demo.ui.run.tab import BuiltTab
from ipadapter_demo.ui.run.updates import now_and_then, summary
from ipadapter_demo.ui.run.uploads import MAX_INPAINT_SIDE
from ipadapter_demo.ui.tabs import TABS
from ipadapter_demo.ui.tabs.compare import form as compare_form
from ipadapter_demo.ui.tabs.compare import results as compare_results
from ipadapter_demo.ui.tabs.compare import tab as compare
from ipadapter_demo.ui.tabs.compare import view as compare_view
from ipadapter_demo.ui.widgets import components
from ipadapter_demo.ui.widgets.larger import upscale_from_values
from ipadapter_demo.ui.widgets.samplers import noise_schedule_properties
from ipadapter_demo.upscale import Upscale
from tests.icc import DISPLAY_P3, rgb_profile
from tests.tiny import box_mask, picture

# gradio counts its calls with options that pandas is about to drop.
pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

FAST = {"steps": 2, "count": 1, "seed": 7}


class WatchedPipeline(ImagePromptPipeline):
    """Counts the streams that run at once, and the steps of those that ended."""

    def __init__(self, model: BaseModel) -> None:
        super().__init__(model)
        self.now, self.most = 0, 0
        self.ended: list[Any] = []
        self.changed = threading.Condition()

    def stream(
        self, request: GenerateRequest, *how: Any, **more: Any
    ) -> Generator[Any, None, None]:
        self.now += 1
        self.most = max(self.most, self.now)
        events = 0
        try:
            for event in super().stream(request, *how, **more):
                events += 1
                yield event
        finally:
            with self.changed:
                self.now -= 1
                self.ended.append(events)
                self.changed.notify_all()


class Failed(Exception):
    """The message that the server answered with."""


class Api:
    """The HTTP interface, as a program without any client library sees it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx.Client(base_url=url + "gradio_api/", timeout=60)

    def upload(self, content: bytes, name: str = "picture.png") -> dict[str, Any]:
        response = self.http.post("upload", files={"files": (name, content)})
        response.raise_for_status()
        [path] = response.json()
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def events(self, endpoint: str, **values: Any) -> list[tuple[str, Any]]:
        if endpoint in TABS:
            values = {**FAST, **values}
        body = json.dumps(values)  # unlike httpx, writes NaN
        headers = {"Content-Type": "application/json"}
        response = self.http.post(f"call/v2/{endpoint}", content=body, headers=headers)
        response.raise_for_status()
        answer = self.http.get(f"call/v2/{endpoint}/{response.json()['event_id']}").text
        return [
            (event, json.loads(data))
            for event, data in re.findall(r"^event: (\w+)\ndata: (.*)$", answer, re.MULTILINE)
        ]

    def call(self, endpoint: str, **values: Any) -> list[Any]:
        event, data = self.events(endpoint, **values)[-1]
        if event == "error":
            raise Failed(data["error"])
        return data

    def pngs(self, endpoint: str, **values: Any) -> list[bytes]:
        pictures = self.call(endpoint, **values)[0]
        return [self.http.get(picture["url"]).content for picture in pictures]


@pytest.fixture(scope="module")
def served(model: BaseModel) -> WatchedPipeline:
    return WatchedPipeline(model)


@pytest.fixture(scope="module")
def api(served: WatchedPipeline, model: BaseModel) -> Iterator[Api]:
    settings = Settings(port=free_port(), max_file_size="2mb")

    def prepared(name: str, _: Any) -> Callable[[], ImagePromptPipeline]:
        if name == "absent":
            raise ModelError("missing (9 MB): model_index.json of someone/something")
        return lambda: (
            served
            if name == "tiny"
            else ImagePromptPipeline(replace(model, entry=replace(model.entry, name=name)))
        )

    manager = ModelManager(served, prepared, {"other": "other", "absent": "absent (fetches 9 MB)"})
    page = build_ui(manager, settings)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options(settings))
    api = Api(url)
    yield api
    api.http.close()
    page.close()


def png(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A file of a few bytes whose header promises any number of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    ends = chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + ends


def painted(api: Api, image: Image.Image, *layers: Image.Image) -> dict[str, Any]:
    return {
        "background": api.upload(png(image)),
        "layers": [api.upload(png(layer)) for layer in layers],
        "composite": None,
    }


def layer_from_mask(mask: Image.Image) -> Image.Image:
    layer = Image.new("RGBA", mask.size, (255, 255, 255, 0))
    layer.putalpha(mask)
    return layer


# What comes back


def test_a_variation_is_a_png_that_restores_its_request(api: Api, served: Any) -> None:
    [file] = api.pngs("variation", reference=api.upload(png(picture(1))), image_scale=0.8)
    record = record_from_png(file)
    expected = GenerateRequest(
        references=(Reference(image=picture(1)),), image_scale=0.8, adapter="base",
        guidance=3.0, steps=2, seed=7,
    )  # fmt: skip
    assert record.request == expected, "sides that are left open stay open"
    assert (record.seed, record.index) == (7, 0)
    [again] = served.generate(expected).images
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))), np.asarray(again))


def test_a_request_runs_on_the_model_its_page_shows(api: Api) -> None:
    reference = api.upload(png(picture(1)))
    for name in ("other", "tiny", "other", "tiny"):
        [file] = api.pngs("variation", reference=reference, model=name)
        assert record_from_png(file).provenance["model"] == name
    with pytest.raises(Failed, match="model must be one of tiny, other, absent, got 'sd0'"):
        api.call("variation", reference=reference, model="sd0")
    with pytest.raises(Failed, match=r"missing \(9 MB\): model_index\.json of someone/something"):
        api.call("variation", reference=reference, model="absent")
    assert api.pngs("variation", reference=reference, model="tiny")  # it stayed usable


def test_a_random_seed_is_returned_and_differs(api: Api) -> None:
    reference = api.upload(png(picture(1)))
    calls = [api.call("variation", reference=reference, seed=None) for _ in range(2)]
    seeds = [seeds for _, seeds, _, _ in calls]
    assert seeds[0] != seeds[1]
    assert f"seed {seeds[0][0]}" in calls[0][2]


def test_several_pictures_have_following_seeds(api: Api) -> None:
    files = api.pngs("variation", reference=api.upload(png(picture(1))), count=3)
    assert [record_from_png(file).seed for file in files] == [7, 8, 9]


def test_image_and_text_takes_several_pictures(api: Api) -> None:
    [file] = api.pngs(
        "image_text", reference=api.upload(png(picture(1))), prompt="a cube", fit="pad",
        weight=0.7, window_start=0.1, guidance_rescale=0.3, fit_2="squash",
        guidance_start=0.2, guidance_end=0.8,
        reference_2=api.upload(png(picture(2))), weight_2=0.5, window_end_2=0.5, combine="average",
        mask_2=api.upload(png(box_mask((0, 0, 30, 64)))), only_2=1,
        reference_4=api.upload(png(picture(3))), negative_4=True,
    )  # fmt: skip
    request = record_from_png(file).request
    assert (request.prompt, request.combine) == ("a cube", "average")
    assert (request.guidance_rescale, request.guidance_window) == (0.3, (0.2, 0.8))
    assert [(r.weight, r.fit) for r in request.references] == [
        (0.7, "pad"),
        (0.5, "squash"),
        (1.0, "crop"),
    ]
    first, second, third = request.references
    assert first.window == (0.1, 1.0)
    assert (second.window, second.only_image, second.negative) == ((0.0, 0.5), 0, False)
    assert second.mask == box_mask((0, 0, 30, 64))
    assert (third.negative, third.mask, third.only_image) == (True, None, None)


def test_structures_references_text_and_a_mask_together(api: Api) -> None:
    image, mask = picture(4), box_mask((8, 8, 40, 40))
    values = {
        "control": api.upload(png(picture(3))), "kind": "canny/canny", "prompt": "a cube",
        "reference": api.upload(png(picture(1))), "changed": api.upload(png(image)),
        "control_2": api.upload(png(picture(5))), "kind_2": "palette/palette", "window_end_2": 0.5,
        "structure_weight_2": 0.7,
    }  # fmt: skip
    [file] = api.pngs("structure", **values, changed_mask=api.upload(png(mask)))
    request = record_from_png(file).request
    assert [(s.kind, s.weight, s.window) for s in request.structures] == [
        ("canny", 1.0, (0.0, 1.0)),
        ("palette", 0.7, (0.0, 0.5)),
    ]
    assert request.inpaint is not None
    result, outside = np.asarray(Image.open(io.BytesIO(file))), np.asarray(mask) == 0
    assert np.array_equal(result[outside], np.asarray(image)[outside])
    with pytest.raises(
        Failed, match="changed_mask is missing: a picture to change and its mask go together"
    ):
        api.call("structure", **values)


def test_structure_needs_no_reference(api: Api) -> None:
    [file] = api.pngs(
        "structure", control=api.upload(png(picture(3))), kind="canny/canny", window_end=0.5
    )
    [kept] = record_from_png(file).request.structures
    assert (kept.kind, kept.annotator, kept.window) == ("canny", "canny", (0.0, 0.5))


def test_the_structure_map_is_shown(api: Api, served: Any) -> None:
    upload = api.upload(png(picture(3)))
    [shown] = api.call("structure_map", control=upload, kind="canny/canny", model="tiny")
    drawn = Image.open(io.BytesIO(api.http.get(shown["url"]).content))
    expected = served.structure_map(Structure(kind="canny", annotator="canny", image=picture(3)))
    assert np.array_equal(np.asarray(drawn), np.asarray(expected))


def test_a_map_of_a_model_that_was_never_loaded_is_not_drawn(api: Api) -> None:
    upload = api.upload(png(picture(3)))
    values = {"control": upload, "kind": "canny/canny"}
    assert api.call("structure_map", model="absent", **values) == [None]
    with pytest.raises(Failed, match="model must be one of tiny, other, absent, got 'sd0'"):
        api.call("structure_map", model="sd0", **values)


def test_inpainting_changes_no_pixel_outside_the_mask(api: Api) -> None:
    image, mask = picture(4, 90, 70), box_mask((20, 20, 50, 40), 90, 70)
    [file] = api.pngs("inpaint", painting=painted(api, image, layer_from_mask(mask)))
    result, outside = np.asarray(Image.open(io.BytesIO(file))), np.asarray(mask) == 0
    assert np.array_equal(result[outside], np.asarray(image)[outside])
    assert not np.array_equal(result[~outside], np.asarray(image)[~outside])


def test_a_mask_picture_adds_to_what_is_painted(api: Api) -> None:
    image = picture(4, 90, 70)
    one, other = box_mask((5, 5, 20, 20), 90, 70), box_mask((40, 40, 60, 60), 90, 70)
    painting = painted(api, image, layer_from_mask(one))
    [file] = api.pngs("inpaint", painting=painting, mask=api.upload(png(other)))
    given = record_from_png(file).request.inpaint
    assert given is not None
    assert given.mask == ImageChops.lighter(one, other)


def test_a_mask_is_inverted_and_grown(api: Api) -> None:
    """Painted and uploaded together, in pixels of the uploaded picture; restored as it was used."""
    image = picture(4, 90, 70)
    one, other = box_mask((5, 5, 20, 20), 90, 70), box_mask((40, 40, 60, 60), 90, 70)
    values: dict[str, Any] = {"painting": painted(api, image, layer_from_mask(one))}
    values |= {"mask": api.upload(png(other)), "mask_invert": True, "mask_grow": -4}
    [file] = api.pngs("inpaint", **values)
    given = record_from_png(file).request.inpaint
    assert given is not None
    assert given.mask == grown(ImageChops.invert(ImageChops.lighter(one, other)), -4)
    large = painted(
        api, picture(4, 4096, 512), layer_from_mask(box_mask((0, 0, 99, 99), 4096, 512))
    )
    [file] = api.pngs("inpaint", painting=large, mask_grow=20)
    given = record_from_png(file).request.inpaint
    assert given is not None
    assert abs((given.mask.getbbox() or (0,) * 4)[2] - 60) <= 1
    for wrong in (201, -201, "x", 1.5):
        with pytest.raises(Failed, match=r"mask_grow must be|mask_grow must be from -200 to 200"):
            api.call("inpaint", **values | {"mask_grow": wrong})


def test_a_mask_follows_its_picture_when_that_is_shrunk(api: Api) -> None:
    image, mask = picture(4, 4096, 512), box_mask((1024, 0, 2048, 512), 4096, 512)
    painting = painted(api, image)
    [file] = api.pngs("inpaint", painting=painting, mask=api.upload(png(mask)))
    given = record_from_png(file).request.inpaint
    assert given is not None
    assert given.image.size == (MAX_INPAINT_SIDE, 256)
    assert given.mask == box_mask((512, 0, 1024, 256), MAX_INPAINT_SIDE, 256)


def test_a_phone_photo_is_shrunk_before_it_travels(api: Api) -> None:
    [file] = api.pngs("variation", reference=api.upload(png(picture(1, 3000, 1500))))
    [reference] = record_from_png(file).request.references
    assert reference.image.size == (1448, 724)  # as many pixels as a result may have


# What people upload


UNUSUAL: dict[str, Callable[[], bytes]] = {
    "transparent": lambda: png(layer_from_mask(box_mask((8, 8, 40, 40)))),
    "palette": lambda: png(picture(1).convert("P")),
    "cmyk": lambda: png(picture(1).convert("CMYK"), "JPEG"),
    "16 bit": lambda: png(Image.fromarray(np.full((64, 64), 40_000, dtype=np.uint16))),
    "animated": lambda: png(picture(1), "GIF", save_all=True, append_images=[picture(2)]),
    "one pixel": lambda: png(Image.new("RGB", (1, 1))),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_pictures_work(api: Api, kind: str) -> None:
    [file] = api.pngs("variation", reference=api.upload(UNUSUAL[kind]()))
    assert Image.open(io.BytesIO(file)).size == (64, 64)


def test_a_photo_taken_sideways_is_turned_upright(api: Api) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn a quarter clockwise
    [file] = api.pngs("variation", reference=api.upload(png(picture(1, 60, 30), exif=exif)))
    assert record_from_png(file).request.references[0].image.size == (30, 60)


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "not a picture": (lambda: b"hello", "not a picture that can be read"),
    "vector": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "empty": (lambda: b"", "empty file"),
    "cut short": (lambda: png(picture(1, 200, 200))[:300], "damaged or cut short"),
    "enormous": (lambda: png_that_claims(20_000, 20_000), "at most 50,000,000 pixels"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("endpoint", ["variation", "structure", "structure_map", "inpaint"])
def test_broken_pictures_are_explained(api: Api, kind: str, endpoint: str) -> None:
    make, message = BROKEN[kind]
    upload = api.upload(make())
    values = {
        "variation": {"reference": upload},
        "structure": {"control": upload},
        "structure_map": {"control": upload},
        "inpaint": {"painting": {"background": upload, "layers": [], "composite": None}},
    }[endpoint]
    with pytest.raises(Failed, match=message):
        api.call(endpoint, **values)


@pytest.mark.parametrize("endpoint", ["variation", "image_text", "structure", "inpaint"])
def test_nothing_uploaded_is_explained(api: Api, endpoint: str) -> None:
    field = {"structure": "control", "inpaint": "painting"}.get(endpoint, "reference")
    for values in ({field: None}, {}):
        with pytest.raises(Failed, match=f"^{field} .*upload"):
            api.call(endpoint, **values)


def test_a_file_above_the_limit_is_refused(api: Api) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="413"):
        api.upload(bytes(3 * 2**20))


@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}], ids=["meta", "none"])
def test_a_file_of_the_server_cannot_be_named(api: Api, tmp_path: Path, meta: Any) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(picture(1)))
    with pytest.raises(Failed) as failed:
        api.call("variation", reference={"path": str(secret), **meta})
    assert str(secret) not in str(failed.value)


# What people ask for


BAD_VALUES = [
    ({"image_scale": float("nan")}, r"image_scale must be from 0 to 2, got nan"),
    ({"image_scale": -1}, "image_scale must be from"),
    ({"image_scale": "lots"}, "image_scale must be a number"),
    ({"guidance": None}, "guidance must be a number, got None"),
    ({"steps": 0}, r"steps must be from 1 to 200, got 0"),
    ({"steps": 10_000}, r"steps must be from 1 to 200, got 10000"),
    ({"steps": 2.5}, "steps must be a whole number"),
    ({"count": 1000}, "count must be from"),
    ({"seed": -1}, "seed must be from"),
    ({"width": 100}, "width must be a multiple of 8, got 100; nearest is 96"),
    ({"height": 100_000}, "height must be from"),
    ({"sampler": "magic"}, "sampler must be one of"),
    ({"fit": ["crop"]}, "fit must be one of"),
    ({"negative_prompt": "x" * 3000}, "negative_prompt must have at most 2000 characters"),
    ({"negative_prompt": None}, "negative_prompt must be text"),
]


@pytest.mark.parametrize(("values", "message"), BAD_VALUES, ids=lambda case: str(case)[:40])
def test_bad_values_are_explained(api: Api, values: dict[str, Any], message: str) -> None:
    with pytest.raises(Failed, match=message):
        api.call("variation", reference=api.upload(png(picture(1))), **values)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("depth/none", "structure.kind must be one of"),
        ("canny/palette", "structure.annotator for canny must be one of"),
        ("canny", "kind must be kind/detector"),
        (7, "kind must be kind/detector"),
    ],
)
def test_unknown_structures_are_explained(api: Api, kind: Any, message: str) -> None:
    with pytest.raises(Failed, match=message):
        api.call("structure", control=api.upload(png(picture(1))), kind=kind)


def test_masks_that_do_not_fit_are_explained(api: Api) -> None:
    image = picture(4)
    small = painted(api, image, layer_from_mask(box_mask((1, 1, 9, 9), 32, 32)))
    with pytest.raises(Failed, match="layers must have the size of the picture, 64x64, got 32x32"):
        api.call("inpaint", painting=small)
    with pytest.raises(Failed, match="mask must have the size of the picture, 64x64, got 32x32"):
        api.call("inpaint", painting=painted(api, image), mask=small["layers"][0])
    blank = layer_from_mask(Image.new("L", (64, 64)))
    for empty in (painted(api, image), painted(api, image, blank)):
        with pytest.raises(Failed, match="mask is empty: paint the part"):
            api.call("inpaint", painting=empty)


def test_messages_do_not_carry_html(api: Api) -> None:
    with pytest.raises(Failed, match="&lt;img") as failed:
        api.call("variation", reference=api.upload(png(picture(1))), sampler="<img src=x>")
    assert "<img" not in str(failed.value)


def test_messages_are_not_endless(api: Api) -> None:
    with pytest.raises(Failed) as failed:
        api.call("variation", reference=api.upload(png(picture(1))), sampler="<" * 100_000)
    assert len(html.unescape(str(failed.value))) <= 1000


def test_an_error_is_in_the_status_too() -> None:
    def updates() -> Iterator[str]:
        yield "Step 1"
        raise RequestError("sampler must be one of <b>")

    said: list[str] = []
    with pytest.raises(gr.Error):
        said.extend(with_errors_said(updates(), str))
    assert said == ["Step 1", '<span class="problem">sampler must be one of &lt;b&gt;</span>']


def test_whatever_is_said_passes_where_it_is_made_text() -> None:
    """gradio reads messages as HTML, so nobody else hands it one."""
    folder = Path(ui.__file__).parent
    loud = [
        path.name
        for path in folder.rglob("*.py")
        if re.search(r"gr\.(Info|Warning|Success|Error)\(", path.read_text(encoding="utf-8"))
    ]
    assert loud == ["say.py"]


def test_what_nobody_foresaw_is_logged_and_not_shown(
    api: Api, served: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stream(*_: Any, **__: Any) -> Iterator[Any]:
        raise RuntimeError("the secret of the server")
        yield  # type: ignore[unreachable]

    monkeypatch.setattr(served, "stream", stream)
    with pytest.raises(Failed, match="Something went wrong"):
        api.call("variation", reference=api.upload(png(picture(1))))
    assert "the secret of the server" in caplog.text


# Many people at once, and people who change their mind


def test_the_model_runs_one_request_at_a_time(api: Api, served: WatchedPipeline) -> None:
    """Several are at work, and the engine makes their calls one after the other."""
    served.most = 0
    threads_of_calls: set[str] = set()

    def note(*_: Any) -> None:
        threads_of_calls.add(threading.current_thread().name)

    hook = served._model.unet.register_forward_pre_hook(note)
    upload = api.upload(png(picture(1)))
    values: dict[str, dict[str, Any]] = {
        "variation": {"reference": upload}, "structure": {"control": upload},
        "image_text": {"reference": upload},
    }  # fmt: skip
    threads = [
        threading.Thread(target=api.call, args=(name,), kwargs=kwargs)
        for name, kwargs in [*values.items()] * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hook.remove()
    assert served.most > 1
    assert threads_of_calls == {"engine"}


def test_stop_ends_the_run_between_two_steps(
    api: Api, served: WatchedPipeline, tmp_path: Path
) -> None:
    picture(1).save(tmp_path / "reference.png")
    client = Client(api.url, verbose=False, download_files=False)
    served.ended.clear()
    job = client.submit(
        reference=handle_file(tmp_path / "reference.png"), steps=200, count=8, api_name="/variation"
    )
    while not job.outputs():
        assert not job.done()
    job.cancel()
    with served.changed:
        assert served.changed.wait_for(lambda: served.ended, timeout=30)
    [events] = served.ended
    assert 0 < events < 200
    client.close()


# Settings


def test_the_server_gives_away_nothing_it_need_not() -> None:
    options = launch_options(Settings())
    assert options["server_name"] == "127.0.0.1"
    assert options["allowed_paths"] == []
    assert options["strict_cors"] is True
    assert not any(
        options[name] for name in ("share", "show_error", "enable_monitoring", "run_history")
    )


def test_events_without_a_shown_progress_tell_one_component_of_it(pipeline: Any) -> None:
    page = build_ui(pipeline, Settings())
    quiet = [event for event in page.fns.values() if event.show_progress == "hidden"]
    told = {block._id for event in quiet for block in event.show_progress_on or event.outputs}
    assert len(quiet) > 100
    assert len(told) == 1


def test_a_browser_gets_no_components_of_endpoints(pipeline: Any) -> None:
    config = build_ui(pipeline, Settings()).get_config_file()
    kinds = {one["id"]: one["type"] for one in config["components"]}
    shown = config["page"][""]
    assert "api" in kinds.values(), "programs are told of them"
    assert {kinds[one] for one in shown["components"]} == set(kinds.values()) - {"api"}

    def ids(place: dict[str, Any]) -> list[int]:
        return [place["id"], *(one for child in place.get("children", ()) for one in ids(child))]

    assert set(ids(shown["layout"])[1:]) == set(shown["components"])
    assert set(ids(config["layout"])[1:]) == set(kinds)
    for event in config["dependencies"]:
        seen = event["targets"], event["api_visibility"]
        inner = {*event["inputs"], *event["outputs"]}
        assert inner <= set(shown["components"]) or seen == ([], "public")


def test_a_quick_model_is_not_reported_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 0.1, 0.39, 0.41, 0.8, 0.82])
    clock = SimpleNamespace(monotonic=lambda: next(moments))
    monkeypatch.setattr("ipadapter_demo.ui.run.updates.time", clock)
    due = now_and_then()
    assert [due() for _ in range(6)] == [True, False, False, True, False, True]


def test_a_model_that_cannot_be_loaded_ends_the_program() -> None:
    with pytest.raises(SystemExit, match="model must be one of"):
        app.main(["--model", "nonsense"])


def test_examples_are_not_deleted_with_visitors_files(pipeline: Any) -> None:
    page = build_ui(pipeline, Settings())
    files = set().union(*page.temp_file_sets)
    delete_files_created_by_app(page, age=None)
    assert files
    assert all(Path(file).exists() for file in files)


def test_how_prompts_are_read_and_where_pictures_act_go_over_http(api: Api, served: Any) -> None:
    given = {
        "prompt": "a (cube:1.4) BREAK on a long floor",
        "prompt_syntax": "weighted",
        "clip_skip": 1,
        "image_layers": "ease out",
    }
    [file] = api.pngs("image_text", reference=api.upload(png(picture(1))), **given)
    record = record_from_png(file)
    for name, value in given.items():
        assert getattr(record.request, name) == value
    again = served.generate(record.request).images[0]
    assert again.tobytes() == Image.open(io.BytesIO(file)).convert("RGB").tobytes()
    with pytest.raises(Failed, match="prompt_syntax must be one of plain, weighted"):
        api.call("image_text", prompt="a", prompt_syntax="other")


def test_a_start_picture_and_a_second_pass_go_over_http(api: Api, served: Any) -> None:
    start = {"init_image": api.upload(png(picture(4))), "strength": 0.5}
    second = {"upscale_factor": 1.5, "upscale_strength": 0.6, "enlarge": "latents"}
    [file] = api.pngs("image_text", **start, **second)
    request = record_from_png(file).request
    assert request.init_image == picture(4)
    assert (request.strength, request.references, request.prompt) == (0.5, (), "")
    assert request.upscale == Upscale(factor=1.5, strength=0.6, enlarge="latents")
    made = Image.open(io.BytesIO(file))
    assert made.size == (96, 96)
    assert served.generate(request).images[0].tobytes() == made.convert("RGB").tobytes()
    assert restore.tab_of_request(request, TABS) == "image_text"
    with pytest.raises(Failed, match=r"upscale\.factor 4 makes 4096x4096 pixels of 1024x1024"):
        api.call("image_text", **start, width=1024, height=1024, upscale_factor=4)


def test_a_picture_is_extended_over_http(api: Api, served: Any) -> None:
    """Without paint; what was there does not change."""
    painting = api.upload(png(picture(4)))
    [file] = api.pngs("inpaint", painting=painting, prompt="a", extend_right=24, extend_top=8)
    made = Image.open(io.BytesIO(file)).convert("RGB")
    assert made.size == (88, 72)
    assert made.crop((0, 8, 64, 72)).tobytes() == picture(4).tobytes()
    assert served.generate(record_from_png(file).request).images[0].tobytes() == made.tobytes()
    with pytest.raises(Failed, match=r"extend\.right must be from 0 to 1024, got 1025"):
        api.call("inpaint", painting=painting, extend_right=1025)
    with pytest.raises(Failed, match="extend must lead to at most 2048 pixels on a side, got 2112"):
        api.call("inpaint", painting=painting, extend_right=1024, extend_left=1024)


def test_embeds_are_made_and_drawn_with_over_http(api: Api, served: Any) -> None:
    given = [api.upload(png(picture(k))) for k in (1, 2)]
    [made] = api.call("image_embeds", reference=given[0], reference_2=given[1], adapter="plus")
    content = api.http.get(made["url"]).content
    found = ImageEmbeds(content)
    parts = [served.embeds_of(Reference(image=picture(k)), "plus") for k in (1, 2)]
    assert np.array_equal(found.values, average_embeds(parts).values)
    assert found.names == ("reference", "reference_2")
    hidden = box_mask((0, 0, 32, 64))
    [file] = api.pngs(
        "image_text", adapter="plus", reference_2=given[1], negative_noise=0.5,
        clip_mask_2=api.upload(png(hidden)), fit_2="tile",
        embeds_3=api.upload(content, "embeds.safetensors"), weight_3=0.5,
        reference_4=given[0], reference_adapter_4="base", reference_layers_4="ease in",
    )  # fmt: skip
    record = record_from_png(file)
    assert record.request.references == (
        Reference(image=picture(2), fit="tile", clip_mask=hidden),
        Reference(embeds=found, weight=0.5),
        Reference(image=picture(1), adapter="base", layers="ease in"),
        Reference(image=picture(2), fit="tile", noise=0.5, negative=True),
    )
    again = served.generate(record.request).images[0]
    assert again.tobytes() == Image.open(io.BytesIO(file)).convert("RGB").tobytes()
    with pytest.raises(Failed, match="embeds: embeds must be a safetensors file"):
        api.call("image_text", embeds=api.upload(b"nothing at all", "embeds.safetensors"))
    with pytest.raises(Failed, match="reference is missing"):
        api.call("image_embeds")


OTHER_ENDPOINTS = ("compare", "image_embeds", "structure_map", "sweep")


def test_the_endpoints_are_documented(api: Api) -> None:
    endpoints = api.http.get("info").json()["named_endpoints"]
    assert set(endpoints) == {f"/{name}" for name in (*TABS, *OTHER_ENDPOINTS)}
    for endpoint in endpoints.values():
        assert endpoint["description"]
        names = [parameter["parameter_name"] for parameter in endpoint["parameters"]]
        assert not [name for name in names if name.startswith("param")]


def test_the_page_asks_no_other_machine_for_anything(api: Api) -> None:
    hosts = re.findall(r"<(?:script|link|img)[^>]*//([\w.-]+)", httpx.get(api.url).text)
    assert set(hosts) <= {"127.0.0.1"}


# From a PNG back to the page


EMBEDS = ImageEmbeds.of(np.ones((1, 4), np.float32), encoder="ab" * 32, adapter="x", fit="pad")
MADE: dict[str, GenerateRequest] = {
    "variation": GenerateRequest(
        references=(Reference(image=picture(1), fit="pad"),),
        seed=3,
        width=64,
        height=64,
        adapter="plus",
        upscale=Upscale(factor=1.5, strength=0.45, enlarge="latents"),
    ),
    "image_text": GenerateRequest(
        prompt="a cube",
        negative_prompt="a cone",
        references=(
            Reference(image=picture(1), mask=box_mask((0, 0, 30, 64)), window=(0.0, 0.5)),
            Reference(
                image=picture(2),
                fit="squash",
                weight=0.5,
                window=(0.2, 0.8),
                only_image=0,
                face=2,
            ),
            Reference(image=picture(3), negative=True, clip_mask=box_mask((8, 8, 40, 40))),
            Reference(embeds=EMBEDS, weight=0.5, adapter="plus", layers="ease out"),
            Reference(image=picture(1), negative=True, noise=0.5),
        ),
        combine="average",
        image_scale=0.6,
        image_layers="ease in",
        prompt_syntax="weighted",
        prompt_2="a sphere",
        negative_prompt_2="dots",
        clip_skip=1,
        width=64,
        height=72,
        init_image=picture(7, 80, 90),
        strength=0.35,
    ),
    "structure": GenerateRequest(
        structures=(
            Structure(kind="canny", image=picture(3), weight=0.7, window=(0.1, 0.9), fit="squash"),
            Structure(kind="palette", image=picture(5), annotator="palette", fit="pad"),
        ),
        width=64,
        height=64,
        init_image=picture(7),
        upscale=Upscale(factor=2),
    ),
    "inpaint": GenerateRequest(
        inpaint=Inpaint(
            image=picture(4),
            mask=box_mask((8, 8, 40, 40)),
            feather=5,
            context=0.6,
            background_weight=0.7,
        ),
        references=(Reference(image=picture(1)),),
        sampler="euler",
        noise_schedule="karras",
        guidance_window=(0.1, 0.7),
    ),
}


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(gr, "Warning", said.append)
    return said


def built(pipeline: Any, name: str) -> BuiltTab:
    manager = ModelManager(pipeline)
    return build_tab(manager, model_input(manager), TABS[name])


@pytest.mark.parametrize("name", MADE)
def test_a_request_comes_back_whole(pipeline: Any, name: str, warnings: list[str]) -> None:
    request = MADE[name]
    assert restore.tab_of_request(request, TABS) == name
    with gr.Blocks():
        tab = built(pipeline, name)
    values = restore.values_from_request(tab, request)
    ends = {"guidance_start", "guidance_end"}
    second_pass = {"upscale_factor", "upscale_strength", "enlarge"} & set(tab.inputs)
    not_a_field = {"model", "attention", "shape", "live"} | ends | second_pass
    fields = {"guidance_window"} | ({"upscale"} if second_pass else set())
    assert set(values) == set(tab.inputs) - not_a_field | fields
    assert values.pop("random_seed") is False
    assert tab.tab.translate(**values) == request
    displayed = restore.shown(tab, request)
    window = tuple(displayed[tab.inputs[end]] for end in ("guidance_start", "guidance_end"))
    assert window == request.guidance_window
    if second_pass:
        shown = {name: displayed[tab.inputs[name]] for name in second_pass}
        assert upscale_from_values(shown) == request.upscale
    assert not warnings


def test_what_the_page_has_no_widget_for_is_named(pipeline: Any, warnings: list[str]) -> None:
    request = GenerateRequest(
        references=(Reference(image=picture(1)),), image_window=(0.0, 0.5), width=64, height=64
    )
    with gr.Blocks():
        tab = built(pipeline, "variation")
    restore.shown(tab, request)
    assert warnings == ["The page has no widget for all of this result's image_window."]


def test_a_side_that_was_left_open_stays_open(pipeline: Any, warnings: list[str]) -> None:
    with gr.Blocks():
        tab = built(pipeline, "variation")
    request = GenerateRequest(references=(Reference(image=picture(1)),))
    assert restore.shown(tab, request)[tab.inputs["width"]] == 0
    assert not warnings


def test_a_result_of_nothing_has_no_tab() -> None:
    assert restore.tab_of_request(GenerateRequest(prompt="a cube"), TABS) == "image_text"
    with pytest.raises(RequestError, match="made from nothing"):
        restore.tab_of_request(GenerateRequest(), TABS)


def test_only_our_own_pngs_are_restored(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no settings"):
        record_from_png(png(picture(1)))
    save_png(tmp_path / "ours.png", picture(1), MADE["variation"], 3, 0, {})
    assert record_from_png(tmp_path / "ours.png").request == MADE["variation"]


def test_the_shapes_to_choose_from_are_sizes_of_results(api: Api, pipeline: Any) -> None:
    choices = [value for _, value in components.shape_choices(pipeline.info)]
    assert choices[:3] == ["", "64x64", "72x56"]
    width, height = map(int, choices[-1].split("x"))
    [file] = api.pngs("image_text", reference=None, prompt="a", width=0, height=height)
    assert Image.open(io.BytesIO(file)).size == (64, height), "0 leaves a side open"
    [file] = api.pngs("image_text", reference=None, prompt="a", width=width, height=height)
    assert Image.open(io.BytesIO(file)).size == (width, height) == (40, 96)


def test_a_picture_that_is_changed_in_part_keeps_its_proportions(api: Api, served: Any) -> None:
    """Of another shape than the model's own."""
    given, mask = picture(4, 128, 64), box_mask((32, 8, 90, 40), 128, 64)
    [file] = api.pngs(
        "structure",
        control=api.upload(png(given)),
        kind="canny/none",
        changed=api.upload(png(given)),
        changed_mask=api.upload(png(mask)),
    )
    assert Image.open(io.BytesIO(file)).size == (128, 64)
    assert served.working_size(record_from_png(file).request) == (88, 48)


def test_the_mask_of_a_large_picture_is_shrunk_with_it(api: Api) -> None:
    """Not so, it was refused for having another size."""
    given, mask = picture(4, 2400, 1200), box_mask((600, 300, 1200, 900), 2400, 1200)
    [file] = api.pngs(
        "structure",
        control=api.upload(png(given)),
        kind="canny/none",
        changed=api.upload(png(given)),
        changed_mask=api.upload(png(mask)),
    )
    changed = record_from_png(file).request.inpaint
    assert changed is not None
    assert changed.image.size == changed.mask.size == (1448, 724)
    assert changed.mask.getbbox() == (362, 181, 724, 543)


def test_what_was_not_done_is_said_beside_the_result(api: Api, served: Any) -> None:
    wide = api.upload(png(picture(3, 192, 64)))
    *_, status, _ = api.call("structure", control=wide, kind="canny/none", guidance=1)
    assert "structure.fit: the picture of structure 1 (canny) is cropped" in status
    *_, status, _ = api.call(
        "structure",
        control=wide,
        kind="canny/none",
        guidance=1,
        control_fit="squash",
        negative_prompt="<b>",
    )
    assert "(canny) is squeezed" in status
    assert "negative_prompt has no effect at guidance 1." in status
    *_, status, _ = api.call("image_text", reference=None, prompt="(<b>:1.2)")
    plain = "prompt: a weight in brackets is read as plain text, as the prompt syntax is plain: "
    assert f"{plain}(<b>:1.2)" in status
    on_the_page = summary(served.generate(GenerateRequest(prompt="(<b>:1.2)", steps=1)), {})
    assert "as the prompt syntax is plain: (&lt;b&gt;:1.2)" in on_the_page


def test_the_map_is_shown_in_the_shape_of_the_result(api: Api) -> None:
    control = api.upload(png(picture(3)))
    for fields, size in (
        ({}, (64, 64)),
        ({"width": 96, "height": 40}, (96, 40)),
        ({"width": 96}, (96, 64)),
    ):
        [shown] = api.call("structure_map", control=control, kind="canny/none", **fields)
        drawn = Image.open(io.BytesIO(api.http.get(shown["url"]).content))
        assert drawn.size == size


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_noise_schedule_is_offered_where_the_sampler_takes_it(sampler: Any) -> None:
    able = noise_schedules_of(sampler)
    for chosen in NOISE_SCHEDULES:
        shown = noise_schedule_properties(sampler, chosen)
        others = [(name, name) for name in able[1:]]
        assert shown["choices"] == [("the model's own", "default"), *others]
        assert shown["value"] == (chosen if chosen in able else "default")
        assert shown["visible"] == (len(able) > 1)


# The Compare tab

FORM: dict[str, Any] = {
    "title": "",
    "model": "tiny",
    "columns_axis": "image_scale",
    "columns_values": "0:1:0.5",
    "rows_axis": "reference",
    "rows_values": "",
    "pages_axis": "",
    "pages_values": "",
    "beside": ["reference"],
    "prompt": "a cube",
    "negative_prompt": "",
    "image_scale": 1.0,
    "adapter": "base",
    "guidance": 3,
    "steps": 2,
    "sampler": "dpm++",
    "seed": 0,
    "structure": "",
    "kind": "canny/canny",
    "structure_weight": 1.0,
    "width": "double",
    "dpi": 300,
    "zoom": "",
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"columns": {"image_scale": "0:1:0.5"}, "rows": {"reference": ["a.png", "b.png"]}}),
        ({"columns_axis": "seed", "columns_values": "1, 2  3"}, {"columns": {"seed": [1, 2, 3]}}),
        ({"rows_axis": "prompt", "rows_values": "a, b\n c "}, {"rows": {"prompt": ["a, b", "c"]}}),
        (
            {"rows_axis": "method", "rows_values": "as it is, image only"},
            {"rows": {"method": ["as it is", "image only"]}},
        ),
        (
            {"rows_axis": "guidance_window", "rows_values": "0 1\n0.2, 0.8\n"},
            {"rows": {"guidance_window": [[0, 1], [0.2, 0.8]]}},
        ),
        ({"rows_axis": "reference", "rows_values": "b.png"}, {"rows": {"reference": ["b.png"]}}),
        (
            {"zoom": "0.1, 0.2, .3 0.4"},
            {"figure": {"width": "double", "dpi": 300, "zoom": [0.1, 0.2, 0.3, 0.4]}},
        ),
    ],
)
def test_the_form_is_a_spec(change: dict[str, Any], expected: dict[str, Any]) -> None:
    document = compare_form.document_from_form(FORM | change, ["a.png", "b.png"])
    assert {name: document[name] for name in expected} == expected
    spec_from_document(document, lambda name: b"")


def test_what_is_not_compared_is_shared() -> None:
    form = FORM | {"rows_axis": "", "structure": "b.png", "kind": "canny/none"}
    document = compare_form.document_from_form(form, ["a.png", "b.png"])
    assert "image_scale" not in document["request"]
    assert document["request"]["prompt"] == "a cube"
    assert document["request"]["structures"] == [
        {"kind": "canny", "annotator": "none", "image": "b.png", "weight": 1.0}
    ]
    assert document["request"]["references"] == [{"image": "a.png"}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns_axis": ""}, "columns: choose what differs"),
        ({"columns_values": ""}, "columns: say which values of strength λ"),
        ({"columns_values": "much"}, "columns must be numbers with commas"),
        ({"zoom": "here"}, "zoom must be numbers"),
    ],
)
def test_a_form_that_says_too_little(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        compare_form.document_from_form(FORM | change, ["a.png"])


def test_what_is_written_rules() -> None:
    spec = compare_form.spec_from_form("columns: {seed: 1:2}", FORM, [], lambda name: b"")
    assert spec.document == {"columns": {"seed": "1:2"}}


def test_what_is_written_costs_no_more_than_its_length() -> None:
    """It is read at every key, without a click."""
    laughs = "a: &a [x]\nb: &b [*a, *a, *a]\ncolumns: {prompt: [*b, *b]}"
    with pytest.raises(RequestError, match="no YAML anchors or aliases"):
        compare_form.spec_from_form(laughs, FORM, [], lambda name: b"")
    with pytest.raises(RequestError, match="400 entries, got 5,000"):
        compare_form.spec_from_form("", FORM | {"columns_values": "1 " * 5000}, ["a.png"], bytes)


def test_pictures_of_one_name_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three examples and files called image.png are as many pictures as are shown."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    gallery = []
    for number, name in enumerate(("a.png", "image.png", "image.png", "image-2.png", "image.png")):
        path = tmp_path / str(number) / name
        path.parent.mkdir()
        path.write_bytes(png(picture(number)))
        gallery.append({"image": {"path": str(path), "orig_name": f"folder/{name}"}})
    files = compare._files(gallery)
    assert list(files) == ["a.png", "image.png", "image-3.png", "image-2.png", "image-4.png"]
    assert [path.parent.name for path in files.values()] == ["0", "1", "2", "3", "4"]
    form = FORM | {"rows_values": ""}
    spec = compare_form.spec_from_form("", form, list(files), compare._reader(files))
    assert len(set(spec.files.values())) == 5
    assert spec.document["rows"]["reference"] == list(files)


def test_a_manifest_with_one_name_twice_restores_both(compare_tab: Any, tmp_path: Path) -> None:
    contents = {"x/image.png": png(picture(1)), "y/image.png": png(picture(2))}
    spec = spec_from_document({"columns": {"reference": list(contents)}}, contents.__getitem__)
    values = compare_tab.shown(spec)
    paths = [Path(path) for path in values[compare_tab.pictures]]
    assert [path.name for path in paths] == ["image.png", "image-2.png"]
    assert [path.read_bytes() for path in paths] == list(contents.values())
    assert json.loads(values[compare_tab.written])["columns"]["reference"] == [
        "image.png",
        "image-2.png",
    ]


@pytest.fixture
def compare_tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> compare.CompareTab:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with gr.Blocks():
        return compare.CompareTab(gr.Gallery(), gr.Textbox(), gr.Accordion())


def test_what_a_comparison_lacks_is_said_under_it(
    pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ipadapter_demo.compare.publish.page_figures",
        mock.Mock(side_effect=RequestError("no room for <b>")),
    )
    document = {"columns": {"seed": [1]}, "request": {"steps": 1}}
    job = Job(
        Plan(spec_from_document(document, lambda name: b""), ModelManager(pipeline)), tmp_path
    )
    with gr.Blocks():
        shown, *_ = compare_results.compare_results()
    *_, last = compare_results.run(shown, {}, job)
    assert last[shown.status] == (
        "1 of 1 cells.<br>page 1 of the figure could not be made: no room for &lt;b&gt;"
    )
    files = re.findall('download="([^"]+)"', last[shown.files])
    assert files == ["bundle.zip", "figure.tex", "scores.csv", "p1-r1-c1.png"]
    (tmp_path / "cells" / "p1-r1-c1.png").write_bytes(b"")
    *_, last = compare_results.run(shown, {}, job)
    assert "cells/p1-r1-c1.png is drawn again: file is an empty" in last[shown.status]


def test_heads_are_text_in_the_grid(pipeline: Any, tmp_path: Path) -> None:
    label = '<img src=x onerror="alert(1)">'
    document = {
        "columns": {"seed": [1]},
        "labels": {"columns": [label]},
        "rows": {"adapter": [label[:40]]},
        "request": {"steps": 1},
    }
    job = Job(
        Plan(spec_from_document(document, lambda name: b""), ModelManager(pipeline)), tmp_path
    )
    list(job.run())
    shown = compare_view.grid_html(job)
    assert "<img" not in shown
    assert shown.count("&lt;img") == 3, "two heads, and the error of the cell"


def test_lines_make_the_same_picture_again(api: Api, tmp_path: Path, served: Any) -> None:
    """What the page offers to copy, run as it is."""
    [file] = api.pngs("variation", reference=api.upload(png(picture(1))), count=1)
    name = "it's mine.png"
    (tmp_path / name).write_bytes(file)
    provenance = record_from_png(file).provenance
    words = shlex.split(reuse.command(name, provenance))
    assert words[:3] == ["python", "-m", "ipadapter_demo"]
    loaded: dict[str, Any] = {}

    def load(model: str, options: LoadOptions | None = None, *_: Any, **fields: Any) -> Any:
        loaded.update(asdict(options or LoadOptions()) | fields, model=model)
        return served

    with contextlib.chdir(tmp_path):
        assert cli.main(words[3:], load) == 0
        [again] = (tmp_path / "outputs").glob("*.png")
        expected = np.asarray(Image.open(io.BytesIO(file)))
        assert np.array_equal(np.asarray(Image.open(again)), expected)
        assert (loaded["model"], loaded["device"], loaded["dtype"]) == ("tiny", "cpu", "float32")
        scope: dict[str, Any] = {}
        with mock.patch("ipadapter_demo.pipeline.load", load):
            exec(reuse.python(name, provenance), scope)
        assert np.array_equal(np.asarray(scope["result"].images[0]), expected)


def test_a_comparison_that_is_left_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "job" / "cells").mkdir(parents=True)
    (tmp_path / "job" / "cells" / "p1-r1-c1.png").write_bytes(b"")
    compare_results.forget(None)
    compare_results.forget(mock.Mock(folder=tmp_path / "job"))
    assert list(tmp_path.iterdir()) == []


# Masks by transparency, and files that no browser shows


def with_hole(box: tuple[int, int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    image = picture(9, *size).convert("RGBA")
    image.paste((0, 0, 0, 0), box)
    return image


def test_a_mask_may_be_what_is_transparent(api: Api) -> None:
    box, image = (10, 12, 40, 44), picture(1)
    expected = np.asarray(box_mask(box, 64, 64))
    hole = api.upload(png(with_hole(box)))
    [file] = api.pngs("inpaint", painting=painted(api, image), mask=hole, mask_means="transparent")
    given = record_from_png(file).request.inpaint
    assert given is not None
    assert np.array_equal(np.asarray(given.mask), expected)
    [file] = api.pngs(
        "structure",
        control=api.upload(png(image)),
        kind="canny/canny",
        changed=api.upload(png(image)),
        changed_mask=hole,
        changed_mask_means="transparent",
    )
    assert record_from_png(file).request.inpaint.mask.tobytes() == expected.tobytes()
    [file] = api.pngs(
        "image_text",
        reference=api.upload(png(image)),
        prompt="a cube",
        mask=hole,
        mask_means="transparent",
    )
    assert record_from_png(file).request.references[0].mask.tobytes() == expected.tobytes()


def test_a_mask_that_cannot_mean_that_is_explained(api: Api) -> None:
    mask = api.upload(png(box_mask((10, 12, 40, 44), 64, 64)))
    values = {"painting": painted(api, picture(1)), "mask": mask}
    with pytest.raises(Failed, match="mask is transparent nowhere: mark the part by white instead"):
        api.call("inpaint", **values, mask_means="transparent")
    for wrong in ("black", ["white"], None):
        with pytest.raises(Failed, match="mask must mean one of white, transparent, got"):
            api.call("inpaint", **values, mask_means=wrong)


def as_png(api: Api, upload: dict[str, Any]) -> bytes:
    """As the page's script asks for it."""
    event = api.http.post("call/as_png", json={"data": [upload]}).json()["event_id"]
    answer = api.http.get(f"call/as_png/{event}").text
    [(said, data)] = re.findall(r"^event: (complete|error)\ndata: (.*)$", answer, re.MULTILINE)
    if said == "error":
        raise Failed(json.loads(data)["error"])
    return api.http.get("file=" + json.loads(data)[0]["path"]).content


@pytest.mark.parametrize("kind", ["HEIF", "TIFF", "PNG"])
def test_any_picture_comes_back_as_one_that_a_browser_shows(api: Api, kind: str) -> None:
    pillow_heif.register_heif_opener()
    image = Image.new("RGB", (96, 64), (200, 60, 60))
    upload = api.upload(png(image, kind, icc_profile=rgb_profile(DISPLAY_P3)), f"a.{kind.lower()}")
    shown = Image.open(io.BytesIO(as_png(api, upload)))
    assert (shown.format, shown.size, shown.mode) == ("PNG", (96, 64), "RGB")
    assert abs(np.array(shown.getpixel((40, 30))) - (217, 42, 52)).max() <= 4
    hole = api.upload(png(with_hole((1, 1, 9, 9)), "TIFF"), "mask.tif")
    again = Image.open(io.BytesIO(as_png(api, hole)))
    assert again.tobytes() == with_hole((1, 1, 9, 9)).tobytes()


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_what_is_no_picture_is_no_png(api: Api, content: bytes) -> None:
    with pytest.raises(Failed, match="picture is"):
        as_png(api, api.upload(content, "a.heic"))


def test_a_heic_reference_is_read_without_the_page_too(api: Api) -> None:
    pillow_heif.register_heif_opener()
    photo = Image.new("RGB", (96, 64), (200, 60, 60))
    [file] = api.pngs("variation", reference=api.upload(png(photo, "HEIF", quality=95), "a.heic"))
    [reference] = record_from_png(file).request.references
    assert reference.image.size == (96, 64)
    assert abs(np.array(reference.image.getpixel((40, 30))) - (200, 60, 60)).max() <= 3
