"""The endpoints as programs use them: plain values, described parameters, the clients of the docs,
and tools."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from PIL import Image

from benchmarks.ports import free_port
from ipadapter_demo.logins import logins
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.record import request_from_png
from ipadapter_demo.settings import Settings, settings_from_args
from ipadapter_demo.ui import build_ui, launch
from ipadapter_demo.ui.guard.agents import HEADER, IN_SCOPE
from ipadapter_demo.ui.run.api_fields import DESCRIPTIONS
from ipadapter_demo.ui.run.tools import complete
from ipadapter_demo.ui.tabs import TABS
from ipadapter_demo.ui.tabs.compare.api import OWN
from tests.tiny import picture

pytestmark = pytest.mark.filterwarnings(
    "ignore:'future.no_silent_downcasting' is deprecated",
    "ignore:The copy keyword is deprecated",
    "ignore:Use `streamable_http_client` instead:DeprecationWarning",
    # gradio opens the pictures that a tool returns, and leaves them open.
    "ignore:.*unclosed file <_io.BufferedReader name='.*/gradio/:ResourceWarning",
    "ignore:Exception ignored in. <_io.*/gradio/:pytest.PytestUnraisableExceptionWarning",
)

DOCS = Path(__file__).parent.parent / "docs" / "api-clients.md"
FAST = {"steps": 2, "count": 2, "seed": 7}
SEVERAL = ("sweep", "compare")  # the endpoints that draw pictures of several requests
BESIDE = ("structure_map", "image_embeds")  # those that draw nothing
WHOLE = {"steps", "count", "repaint_passes", "feather", "only", "clip_skip", "face", "figure_dpi"}
WHOLE |= {"mask_grow"}
WHOLE |= {f"extend_{side}" for side in ("left", "top", "right", "bottom")}
OPEN = {"seed", "width", "height"}


def png(path: str) -> Image.Image:
    return Image.open(io.BytesIO(Path(path).read_bytes()))


@pytest.fixture(scope="module")
def url(model: Any) -> Iterator[str]:
    """The address of a page whose endpoints are tools as well."""
    settings = Settings(port=free_port(), mcp=True)
    page = build_ui(ImagePromptPipeline(model), settings)
    launch(page, settings)
    yield f"http://127.0.0.1:{settings.port}/"
    page.close()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the pictures that the clients of the docs name."""
    for name, seed in (("reference.png", 1), ("scene.png", 2)):
        picture(seed).save(tmp_path / name)
    mask = Image.new("L", picture(2).size, 0)
    mask.paste(255, (8, 8, 40, 40))
    mask.save(tmp_path / "mask.png")
    return tmp_path


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    client = Client(url, verbose=False)
    yield client
    client.close()


# Plain values


def test_an_answer_is_files_and_plain_values(client: Client, files: Path) -> None:
    reference = handle_file(files / "reference.png")
    pictures, seeds, status, maps = client.predict(
        reference=reference, **FAST, attention=True, api_name="/variation"
    )
    assert seeds == [7, 8]
    assert re.fullmatch(r"2 pictures in [\d.]+ s, seeds 7 to 8\.", status)
    assert [request_from_png(path).seed for path in pictures] == [7, 7]
    assert [png(path).size for path in maps] == [(64, 64), (64, 64)]


def test_nothing_on_the_way_is_an_update_of_the_page(client: Client, files: Path) -> None:
    job = client.submit(
        reference=handle_file(files / "reference.png"), **FAST, api_name="/variation"
    )
    job.result()
    said = job.outputs()
    assert "__type__" not in str(said)
    assert "<" not in "".join(status for _, _, status, _ in said)
    assert [status for _, _, status, _ in said[:-1]] == ["Step 1 of 2.", "Step 2 of 2."]


def test_without_a_seed_one_is_drawn_and_told(client: Client, files: Path) -> None:
    values = {"reference": handle_file(files / "reference.png"), "steps": 1, "count": 1}
    drawn = [client.predict(**values, api_name="/variation")[1] for _ in range(2)]
    assert drawn[0] != drawn[1]


def described(name: str, endpoint: str = "") -> str:
    """Of a parameter, or of that of a slot."""
    if endpoint == "compare" and name in OWN:
        return OWN[name][0]
    if name == "scales":
        return "The values of λ, from 0 to 2, at most 32."
    return DESCRIPTIONS.get(name) or DESCRIPTIONS[re.sub(r"_\d$", "", name)]


def test_every_parameter_has_a_type_and_a_sentence(url: str) -> None:
    endpoints = httpx.get(f"{url}gradio_api/info").json()["named_endpoints"]
    assert set(endpoints) == {f"/{name}" for name in (*TABS, *SEVERAL, *BESIDE)}
    seen = set()
    for called, endpoint in endpoints.items():
        for parameter in endpoint["parameters"]:
            name = parameter["parameter_name"]
            text = described(name, called[1:])
            name = next((known for known, one in DESCRIPTIONS.items() if one == text), name)
            seen.add(name)
            assert parameter["type"]["description"].startswith(text)
            assert parameter["python_type"]["description"].startswith(text)
            kinds = str(parameter["type"].get("type", parameter["type"].get("anyOf")))
            assert ("integer" in kinds) == (name in WHOLE | OPEN), name
            assert parameter["parameter_has_default"], name
        assert [one["label"] for one in endpoint["returns"]] in (
            ["pictures", "seeds", "status", "attention_maps"],
            ["pictures", "scales", "seed", "status"],
            ["pictures", "cells", "status", "files"],
            ["map"],
            ["embeds"],
        )
    assert seen == set(DESCRIPTIONS) | set(OWN) | {"scales"}


# Several pictures


def test_a_sweep_is_one_picture_at_several_scales(client: Client, files: Path) -> None:
    reference = handle_file(files / "reference.png")
    values = {"reference": reference, "steps": 1, "seed": 7, "prompt": "a cone"}
    scales = [0, 0.5, 2]
    pictures, drawn, seed, status = client.predict(**values, scales=scales, api_name="/sweep")
    assert (drawn, seed, status) == (scales, 7, "3 of 3 pictures.")
    for path, scale in zip(pictures, scales, strict=True):
        request = request_from_png(path)
        assert (request.image_scale, request.seed, request.count) == (scale, 7, 1)
        [alone], *_ = client.predict(**values, count=1, image_scale=scale, api_name="/image_text")
        assert Path(alone).read_bytes() == Path(path).read_bytes()


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        ([], "scales must be a list of 1 to 32 numbers, got 0"),
        ([0] * 33, "scales must be a list of 1 to 32 numbers, got 33"),
        ("0:1", "scales must be a list of 1 to 32 numbers, got '0:1'"),
        ([3], r"scales must be from 0 to 2, got 3"),
        (["a"], "scales must be a number, got 'a'"),
    ],
)
def test_scales_that_cannot_be_swept_are_named(client: Client, scales: Any, said: str) -> None:
    with pytest.raises(AppError, match=said):
        client.predict(prompt="a cone", scales=scales, steps=1, api_name="/sweep")


def test_a_comparison_is_its_cells_with_their_names_and_files(client: Client, files: Path) -> None:
    pictures = [handle_file(files / "reference.png"), handle_file(files / "scene.png")]
    job = client.submit(
        pictures=pictures,
        spec="columns: {image_scale: [0, 1]}\nrows: {reference: [scene.png, reference.png]}\n"
        "request: {steps: 1, seed: 3}",
        api_name="/compare",
    )
    made, cells, status, published = job.result()
    assert cells == [
        {"name": f"p1-r{r}-c{c}", "page": "", "row": row, "column": f"λ = {c - 1}"}
        for r, row in ((1, "scene"), (2, "reference"))
        for c in (1, 2)
    ]
    assert [request_from_png(path).image_scale for path in made] == [0, 1, 0, 1]
    assert status == "4 of 4 cells."
    assert {"bundle.zip", "scores.csv"} <= {Path(path).name for path in published}
    said = job.outputs()
    assert "__type__" not in str(said)
    assert "<" not in "".join(status for _, _, status, _ in said)


def test_a_comparison_says_what_is_wrong(client: Client, files: Path) -> None:
    with pytest.raises(AppError, match="columns: choose what differs"):
        client.predict(columns_axis="", rows_axis="", api_name="/compare")
    with pytest.raises(AppError, match=r"none\.png is not among the pictures"):
        client.predict(spec="columns: {reference: [none.png]}", api_name="/compare")
    with pytest.raises(AppError, match=r"rows must differ in one of .*, got 'guidence'"):
        client.predict(rows_axis="guidence", api_name="/compare")
    large = files / "large.png"
    Image.new("1", (2049, 8)).save(large)
    with pytest.raises(
        AppError, match=r"inpaint\.image must have at most 2048 pixels a side, got 2049x8: make it"
    ):
        client.predict(
            pictures=[handle_file(large)],
            spec="columns: {seed: [1]}\nrequest: {inpaint: {image: large.png, mask: large.png}}",
            api_name="/compare",
        )
    reference = [handle_file(files / "reference.png")]
    with pytest.raises(AppError, match=r"costs .* calls of the model .* is the limit"):
        client.predict(
            pictures=reference,
            spec="columns: {seed: [1, 2]}\nrequest: {steps: 200, width: 1024, height: 1024, "
            "references: [{image: reference.png}]}",
            api_name="/compare",
        )
    with pytest.raises(AppError, match=r"costs .* calls of the model .* is the limit"):
        client.predict(prompt="a cone", width=1024, height=512, steps=200, api_name="/sweep")


# The clients of the docs


CLIENTS = re.findall(r"^```py\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.M | re.S)


def test_there_is_a_client_of_six_lines_for_every_endpoint() -> None:
    named = re.findall(r'api_name="/(\w+)"', "".join(CLIENTS))
    assert named == [*TABS, *SEVERAL, *BESIDE, "image_text"]
    assert all(len(text.splitlines()) <= 6 for text in CLIENTS)


@pytest.mark.parametrize("text", CLIENTS, ids=[*TABS, *SEVERAL, *BESIDE])
def test_a_client_of_the_docs_runs(
    text: str, url: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    names: dict[str, Any] = {}
    exec(text.replace("http://127.0.0.1:7860/", url), names)
    made = names["pictures"] if "pictures" in names else [names["map"]]
    assert made
    assert all(png(path).format == "PNG" for path in made)
    names["client"].close()


# Tools


def with_tools(url: str, use: Callable[[ClientSession], Coroutine[Any, Any, Any]]) -> Any:
    async def session() -> Any:
        async with (
            streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as opened,
        ):
            await opened.initialize()
            return await use(opened)

    with ThreadPoolExecutor(1) as thread:  # a browser's loop may run in this one
        return thread.submit(asyncio.run, session()).result()


def called(url: str, name: str, **values: Any) -> Any:
    return with_tools(url, lambda session: session.call_tool(name, values))


def data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def texts(answer: Any) -> str:
    return " ".join(one.text for one in answer.content if one.type == "text")


def test_the_tools_are_the_endpoints_with_their_descriptions(url: str) -> None:
    tools = with_tools(url, lambda session: session.list_tools()).tools
    assert {tool.name for tool in tools} == {*TABS, *SEVERAL, *BESIDE}
    for tool in tools:
        assert tool.description
        for name, schema in tool.inputSchema["properties"].items():
            assert schema["description"].startswith(described(name, tool.name))


def test_a_tool_takes_a_picture_and_gives_pictures(url: str, files: Path) -> None:
    answer = called(url, "variation", reference=data_url(files / "reference.png"), **FAST)
    assert not answer.isError
    images = [one for one in answer.content if one.type == "image"]
    assert [one.mimeType for one in images] == ["image/png"] * 2
    assert Image.open(io.BytesIO(base64.b64decode(images[0].data))).size == (64, 64)
    assert "seeds 7 to 8" in texts(answer)


def test_a_tool_takes_several_pictures(url: str, files: Path) -> None:
    content = (files / "scene.png").read_bytes()
    [path] = httpx.post(f"{url}gradio_api/upload", files={"files": ("a.png", content)}).json()
    pictures = [data_url(files / "reference.png"), path]
    answer = called(url, "compare", pictures=pictures, columns_values="0, 1", steps=1)
    assert not answer.isError, texts(answer)
    assert sum(one.type == "image" for one in answer.content) >= 4
    assert "4 of 4 cells." in texts(answer)


def test_a_tool_takes_what_was_uploaded(url: str, files: Path) -> None:
    content = (files / "scene.png").read_bytes()
    [path] = httpx.post(f"{url}gradio_api/upload", files={"files": ("a.png", content)}).json()
    for given in (path, f"{url}gradio_api/file={path}"):
        answer = called(url, "structure_map", control=given, kind="canny/canny")
        assert [one.type for one in answer.content] == ["image", "text"]


def test_a_tool_reads_no_other_file_of_the_server(url: str, files: Path) -> None:
    secret = str(files / "reference.png")
    whole = {"path": secret, "meta": {"_type": "gradio.FileData"}}
    for given in (secret, whole, f"{url}gradio_api/file={secret}", "file:" + f"//{secret}"):
        assert called(url, "variation", reference=given, **FAST).isError


def test_no_address_is_fetched(url: str, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a program nor for a tool: gradio would, before anybody checked."""
    fetched: list[object] = []
    monkeypatch.setattr(
        "gradio.processing_utils.async_ssrf_protected_download",
        lambda *address: fetched.append(address),
    )
    address = "https://example.com/a.png"
    with pytest.raises(AppError, match="a file must be uploaded"):
        client.predict(reference=handle_file(address), api_name="/variation")
    answer = called(url, "variation", reference=address)
    assert "a file must be uploaded" in texts(answer)
    assert not fetched


def test_a_tool_says_what_is_wrong(url: str, files: Path) -> None:
    reference = data_url(files / "reference.png")
    answer = called(url, "variation", reference=reference, steps=999)
    assert answer.isError
    assert "steps must be from 1 to 200, got 999" in texts(answer)


def test_an_agent_has_his_own_address() -> None:
    """And not that of this machine, from which gradio's server calls the page, nor one that he
    writes himself."""
    request = SimpleNamespace(client=SimpleNamespace(host="198.51.100.9"), scope={IN_SCOPE: "name"})
    own = {"x-forwarded-for": "198.51.100.9", HEADER: "name"}
    server = SimpleNamespace(
        postprocess_output_data=len,
        convert_strings_to_filedata=len,
        mcp_server=SimpleNamespace(request_context=SimpleNamespace(request=request)),
        _prepare_tool_call_args=lambda *_: ("/variation", [], dict.fromkeys(own, "1.2.3.4"), None),
    )
    complete(server)
    _, _, headers, _ = server._prepare_tool_call_args("variation", {})
    assert headers == own


def test_tools_are_served_only_where_it_shows_that_an_agent_leaves(url: str) -> None:
    assert httpx.get(f"{url}gradio_api/mcp/sse").status_code == 404
    assert httpx.post(f"{url}gradio_api/mcp/messages/").status_code == 404


def test_what_only_the_page_uses_is_no_tool(url: str) -> None:
    assert called(url, "live_frame").isError


# Who may see the page


def test_a_login_is_asked_for_and_never_shown(
    model: Any, tmp_path: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logins").write_text("# of the lab\nada:s3cret:x\n\ngrace:other\n")
    settings = Settings(port=free_port(), auth=str(tmp_path / "logins"))
    page = build_ui(ImagePromptPipeline(model), settings)
    launch(page, settings)
    url = f"http://127.0.0.1:{settings.port}/"
    assert httpx.get(f"{url}config").status_code == 401
    for path in ("call/v2/variation", "call/variation", "run/look", "queue/join", "call/v2/none"):
        refused = httpx.post(f"{url}gradio_api/{path}", json={"unknown": 1})
        assert (refused.status_code, "log in" in refused.text) == (401, True), path
    assert httpx.post(f"{url}login", data={"username": "ada", "password": "no"}).is_error
    client = Client(url, auth=("ada", "s3cret:x"), verbose=False)
    [made], *_ = client.predict(
        reference=handle_file(files / "reference.png"),
        steps=1,
        count=1,
        api_name="/variation",
    )
    assert png(made).format == "PNG"
    client.close()
    page.close()
    assert "s3cret" not in repr(settings) + "".join(capsys.readouterr())


@pytest.mark.parametrize("wrong", ["s3cret", "s3cret:", ":s3cret", "s3cret" * 100])
def test_a_bad_login_is_refused_without_repeating_it(
    wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        settings_from_args(["--auth", wrong], {})
    said = capsys.readouterr().err
    assert "auth must be user:password, or a file of such lines" in said
    assert "s3cret" not in said


def test_logins_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "logins").write_bytes(b"ada:\xff\xfe")
    with pytest.raises(ValueError, match=r"^auth: .*logins cannot be read as text in UTF-8"):
        Settings(auth=str(tmp_path / "logins"))


def test_a_bad_line_of_logins_is_named_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "logins").write_text("ada:s3cret\nhidden\n")
    with pytest.raises(ValueError, match=r"auth: line 2 of .*logins must be user:password") as said:
        Settings(auth=str(tmp_path / "logins"))
    assert "hidden" not in str(said.value)
    (tmp_path / "empty").write_text("# nobody\n")
    with pytest.raises(ValueError, match=r"auth: .*empty has no line user:password"):
        Settings(auth=str(tmp_path / "empty"))


def test_logins_that_a_program_of_windows_wrote_are_read(tmp_path: Path) -> None:
    (tmp_path / "logins").write_bytes(b"\xef\xbb\xbf# of the lab\r\nada:s3cret\r\n")
    assert logins(str(tmp_path / "logins")) == [("ada", "s3cret")]
    (tmp_path / "logins").write_bytes(b"\xef\xbb\xbfada:s3cret\r\n")
    assert logins(str(tmp_path / "logins")) == [("ada", "s3cret")]


@pytest.mark.parametrize("path", [r"C:\s3cret\auth.txt", "c:/s3cret/auth.txt", r" D:\s3cret.txt"])
def test_the_path_of_a_file_that_is_not_there_is_no_login(path: str) -> None:
    with pytest.raises(ValueError, match=r"^auth looks like the path of a file .* none of") as said:
        Settings(auth=path)
    assert "s3cret" not in str(said.value), "it may be a password"
    for login in (r"ada:\s3cret", "c:s3cret", "c:s3cret/x", r"cc:/s3cret"):
        assert logins(login) == [tuple(login.split(":"))]


def test_tools_without_their_package_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipadapter_demo.settings.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r'^mcp needs a package: pip install "mcp>=1.30,<2"$'):
        Settings(mcp=True)
    assert Settings().mcp is False


def test_tools_and_a_login_exclude_each_other() -> None:
    """gradio's server of tools asks nobody for a login."""
    with pytest.raises(ValueError, match="mcp and auth exclude each other"):
        Settings(mcp=True, auth="ada:s3cret")
