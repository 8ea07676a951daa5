"""Files come from the hub for real: from a server that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub.utils import disable_progress_bars

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.sources import (
    Hub,
    announced,
    fetched,
    file_sha256,
    local_folder,
    of_repository,
)
from ipadapter_demo.pipeline import load
from ipadapter_demo.request import GenerateRequest, Structure
from tests.tiny import picture

REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {"part/config.json": b"{}", "part/weights.safetensors": bytes(30_000_000)}
HUB = Hub(
    repo="someone/something",
    folder="part",
    revision=REVISION,
    megabytes=1,
    files=("config.json", "weights.safetensors"),
)


class Answer(BaseHTTPRequestHandler):
    """HEAD tells what a file is, GET sends it; anything else is not there."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool = False) -> None:
        start = f"/someone/something/resolve/{REVISION}/"
        content = FILES.get(self.path.removeprefix(start))
        if self.path.startswith("/api/models/someone/something/tree/main"):
            content = json.dumps(
                [
                    {"type": "file", "path": path, "size": len(FILES[path]), "oid": REVISION}
                    for path in FILES
                ]
            ).encode()
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield url
    server.shutdown()
    server.server_close()


def test_missing_files_are_fetched_with_progress_and_then_at_hand(hub: str) -> None:
    disable_progress_bars()  # a page hears of it all the same
    assert local_folder(HUB, None) is None
    heard: list[tuple[str, float]] = []
    folder = fetched(HUB, report=lambda text, share: heard.append((text, share)))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name.removeprefix("part/"): content for name, content in FILES.items()
    }
    shares = [share for _, share in heard]
    assert any(0.5 < share < 1.0 for share in shares), "a large file has steps of its own"
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert heard[-1][0] == "someone/something: part/weights.safetensors"
    assert local_folder(HUB, None) == folder
    assert fetched(HUB) == folder


def test_a_terminal_hears_of_every_file_once(hub: str) -> None:
    said: list[str] = []
    fetched(HUB, report=announced(said.append))
    assert said == [f"fetching someone/something: {name}" for name in FILES]


def test_loading_a_model_tells_what_is_fetched_for_it(
    hub: str, tmp_path: Path, entry: CatalogEntry
) -> None:
    """Base, image encoder and, when it is first asked for, a structure network. This hub has none
    of them."""
    heard: list[str] = []

    def report(text: str, share: float) -> None:
        heard.append(text)

    with pytest.raises(ModelError, match="could not be fetched"):
        load("sd15", device="cpu", models_dir=tmp_path, report=report)
    with pytest.raises(ModelError, match="could not be fetched"):
        load(entry, device="cpu", image_encoder="nobody/encoder", report=report)
    edges = replace(entry.structures["canny"], folder=Hub(repo="nobody/net", files=("a.json",)))
    pipeline = load(replace(entry, structures={"canny": edges}), device="cpu", report=report)
    with pytest.raises(ModelError, match="could not be fetched"):
        pipeline.generate(
            GenerateRequest(steps=1, structures=(Structure(kind="canny", image=picture(3)),))
        )
    assert heard == [
        "stable-diffusion-v1-5/stable-diffusion-v1-5: model_index.json",
        "nobody/encoder: config.json",
        "nobody/net: a.json",
    ]


def test_another_repository_gives_what_it_has(hub: str, tmp_path: Path) -> None:
    """Plain weights where it has no others; a small file it lacks is left out, weights are not."""
    like = Hub(
        repo="first/first",
        revision=REVISION,
        files=(
            "part/config.json",
            "part/weights.fp16.safetensors",
            "part/absent.json",
            "other/weights.fp16.safetensors",
        ),
    )
    found = of_repository("someone/something", like, tmp_path)
    assert (found.repo, found.revision) == ("someone/something", None)
    assert found.files == (
        "part/config.json",
        "part/weights.safetensors",
        "other/weights.safetensors",
    )
    mirror = tmp_path / "someone" / "something"
    for file in like.files:
        (mirror / file).parent.mkdir(parents=True, exist_ok=True)
        (mirror / file).touch()
    assert of_repository("someone/something", like, tmp_path).files == like.files
    with pytest.raises(ModelError, match="of nobody/nothing; they could not be fetched"):
        of_repository("nobody/nothing", like, tmp_path)


WEIGHTS = "weights.safetensors"
RIGHT = hashlib.sha256(FILES[f"part/{WEIGHTS}"]).hexdigest()


def test_pinned_hashes_are_checked(hub: str, tmp_path: Path) -> None:
    """Of what was just fetched, and of what the cache has: it may have changed since."""
    folder = fetched(replace(HUB, sha256={WEIGHTS: RIGHT}))
    assert fetched(replace(HUB, sha256={WEIGHTS: RIGHT})) == folder
    cached = (folder / WEIGHTS).resolve()
    cached.write_bytes(b"something else")
    got = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(ModelError) as refused:
        fetched(replace(HUB, sha256={WEIGHTS: RIGHT}))
    said = str(refused.value)
    assert said.startswith(f"someone/something: {WEIGHTS} has the SHA-256 {got}, but {RIGHT} is ")
    assert f"Remove {folder / WEIGHTS}" in said
    assert "--models-dir" in said
    assert fetched(HUB) == folder  # nothing is pinned there


def test_another_file_than_the_pinned_one_is_refused_as_it_comes(hub: str) -> None:
    other = "0" * 64
    with pytest.raises(ModelError, match=f"has the SHA-256 {RIGHT}, but {other} is pinned"):
        fetched(replace(HUB, sha256={WEIGHTS: other}))


def test_a_folder_of_one_s_own_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "someone" / "something" / "part"
    folder.mkdir(parents=True)
    for file in HUB.files:
        (folder / file).write_bytes(b"mine")
    assert fetched(replace(HUB, sha256={WEIGHTS: RIGHT}), tmp_path) == folder


def test_a_file_is_hashed_anew_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for content in (b"one", b"another"):
        path.write_bytes(content)
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()


def test_another_repository_has_other_hashes(hub: str, tmp_path: Path) -> None:
    like = replace(HUB, repo="first/first", sha256={WEIGHTS: RIGHT})
    assert of_repository("someone/something", like, tmp_path).sha256 == {}


def test_a_file_that_the_hub_does_not_have(hub: str, tmp_path: Path) -> None:
    absent = Hub(repo="someone/something", files=("absent.json",), revision=REVISION)
    with pytest.raises(ModelError) as refused:
        fetched(absent, tmp_path / "models")
    said = str(refused.value)
    assert said.startswith("missing: absent.json of someone/something; they could not be fetched")
    assert f"Put them below {tmp_path}/models/someone/something" in said
