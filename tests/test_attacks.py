"""What once froze, filled or stopped the server, each as an attack that costs it nothing now.

Beside these: specs in test_document.py, text of PNGs in test_record.py, hosts, headers, uploads
and calls in test_guard.py, HTML of strangers in test_visitors.py.
"""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from ipadapter_demo import room
from ipadapter_demo.compare import Bundle, spec_from_document, spec_from_manifest, spec_from_text
from ipadapter_demo.compare.archive import MAX_ENTRIES, read_from_zip
from ipadapter_demo.compare.manifest import checksum
from ipadapter_demo.errors import RequestError
from ipadapter_demo.lora import loras_from_texts
from ipadapter_demo.record import record_from_png, save_png
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.ui.run import batch, reuse, uploads
from ipadapter_demo.ui.run.updates import lines_of

MEGABYTE = 2**20


def cost(attack: Callable[[], object]) -> tuple[float, float]:
    """Seconds and megabytes at most."""
    tracemalloc.start()
    began = time.process_time()
    try:
        attack()
    finally:
        seconds, most = time.process_time() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return seconds, most / MEGABYTE


def test_a_small_text_of_nested_aliases_is_refused_at_once() -> None:
    """Of 383 bytes, it took 6 s and 368 MB, and ten times more with each further level."""
    text = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{own}: &{own} [{','.join([f'*{before}'] * 9)}]\n" for before, own in pairwise("abcdefgh")
    )
    merged = "a: &a {x: 1}\n" + "".join(
        f"{own}: &{own} {{<<: [{','.join([f'*{before}'] * 9)}]}}\n"
        for before, own in pairwise("abcdefgh")
    )

    def read(text: str) -> None:
        with pytest.raises(RequestError, match="YAML anchors or aliases"):
            spec_from_text(text, lambda name: b"")

    for attack in (text, merged):
        seconds, megabytes = cost(lambda attack=attack: read(attack))  # type: ignore[misc]
        assert seconds < 0.5
        assert megabytes < 2


# A bundle's zip


def bundle(path: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("manifest.json", content)
    return path


def encrypted(content: bytes) -> bytes:
    changed, directory = bytearray(content), content.index(b"PK\1\2")
    changed[6] |= 1
    changed[directory + 8] |= 1
    return bytes(changed)


def damaged(content: bytes) -> bytes:
    at = content.index(b"manifest.json") + len("manifest.json")
    return content[: at + 1] + bytes(b ^ 0xFF for b in content[at + 1 : at + 9]) + content[at + 9 :]


def of_a_false_size(content: bytes) -> bytes:
    """That says it has 100 bytes: zipfile inflated all of it before it noticed."""
    return content.replace(struct.pack("<I", 90 * MEGABYTE), struct.pack("<I", 100))


@pytest.mark.parametrize(
    ("method", "change", "words"),
    [
        (zipfile.ZIP_DEFLATED, bytes, "100 times its compressed size"),
        (zipfile.ZIP_DEFLATED, of_a_false_size, "Bad CRC-32"),
        (zipfile.ZIP_LZMA, bytes, "must be stored or deflated"),
        (zipfile.ZIP_BZIP2, bytes, "must be stored or deflated"),
    ],
)
def test_a_zip_that_inflates_to_90_megabytes(
    tmp_path: Path, method: int, change: Callable[[bytes], bytes], words: str
) -> None:
    path = bundle(tmp_path / "b.zip", b" " * 90 * MEGABYTE, method)
    path.write_bytes(change(path.read_bytes()))
    assert path.stat().st_size < 100_000

    def read() -> None:
        with pytest.raises(RequestError, match=words):
            Bundle(path)

    seconds, megabytes = cost(read)
    assert seconds < 0.5
    assert megabytes < 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (encrypted, "is encrypted"),
        (damaged, "is no bundle: Error -3 while decompressing"),
        (lambda content: content[:-10], "is no bundle: File is not a zip file"),
        (lambda content: content[:20], "is no bundle: File is not a zip file"),
        (lambda content: content.replace(b"PK\3\4", b"XK\3\4"), "Bad magic number"),
        (lambda content: content.replace(b"manifest.json", b"manifest.xxxx"), "no item named"),
    ],
)
def test_a_zip_that_is_none_is_refused_in_words(
    tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    path = bundle(tmp_path / "b.zip", json.dumps({"a": list(range(99))}).encode())
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(RequestError, match=words):
        Bundle(path)


def test_a_zip_of_very_many_files_is_not_opened(tmp_path: Path) -> None:
    """zipfile keeps an object for each: 400,000 in a file that may be uploaded."""
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("manifest.json", b"{}")
    entry = tmp_path.joinpath("b.zip").read_bytes()
    directory = entry[entry.index(b"PK\1\2") : entry.index(b"PK\5\6")]
    (tmp_path / "many.zip").write_bytes(entry + directory * MAX_ENTRIES)
    with pytest.raises(RequestError, match="may have 10,000 entries, got 10,001"):
        read_from_zip(tmp_path / "many.zip", "manifest.json")


# What a manifest and a record say


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "spec": {"rows": {"reference": ["a.png"]}, "columns": {"seed": [1]}},
        "inputs": [],
        "batch": 1,
        "models": {},
        "cells": [],
    } | changes


@pytest.mark.parametrize("name", ["a/..", "..", "/", "\\", "a\\..", "a\0b", "a\nb", ".", "./"])
def test_an_input_that_is_no_file_is_refused_by_name(name: str) -> None:
    """It went on as the name of a file in the page's folder."""
    content = base64_of(b"x")
    given = {"file": name, "sha256": checksum(b"x"), "bytes": 1, "content": content}
    spec = {"rows": {"reference": [name]}, "columns": {"seed": [1]}}
    with pytest.raises(RequestError, match="is not the name of a file"):
        spec_from_manifest(json.dumps(manifest(spec=spec, inputs=[given])))
    with pytest.raises(RequestError, match="is not the name of a file"):
        spec_from_document(
            {"columns": {"seed": [1]}, "rows": {"structure": [f"canny={name}"]}}, lambda name: b""
        )


def test_an_unusual_name_is_a_name() -> None:
    for name in ("Bild 1.png", "Screenshot\u202fPM.png", "..a", "a..", "ü/é.jpg", "x" * 300):
        spec = {"rows": {"reference": [name]}, "columns": {"seed": [1]}}
        assert list(spec_from_document(spec, lambda name: b"x").files) == [name]


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"models": {"tiny": "x"}}, "manifest.models.tiny"),
        ({"models": []}, "manifest.models"),
        ({"inputs": [{"file": 1}]}, r"manifest.inputs\[0\]"),
        ({"inputs": {"a": 1}}, "manifest.inputs"),
        ({"cells": [{"name": "p1-r1-c1", "heads": "a"}]}, r"manifest.cells\[0\]"),
        ({"batch": "x" * 10**6}, "manifest.batch"),
        ({"spec": [[[[]]]]}, "manifest.spec"),
    ],
)
def test_facts_of_wrong_types_are_refused_by_their_place(
    change: dict[str, Any], place: str
) -> None:
    with pytest.raises(RequestError, match=place) as refused:
        spec_from_manifest(json.dumps(manifest(**change)))
    assert len(str(refused.value)) < 450


@pytest.mark.parametrize(
    "provenance", [{}, {"model": 1, "device": [], "dtype": None}, {"model": "x", "dtype": "y"}]
)
def test_a_result_without_its_facts_has_no_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provenance: dict[str, Any]
) -> None:
    """Whoever uploads a PNG may click on it as if it were a result."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    save_png(tmp_path / "x.png", Image.new("RGB", (8, 8)), GenerateRequest(), 0, 0, provenance)
    clicked: Any = type("Event", (), {"_data": {"index": 0}})
    assert lines_of([{"image": {"path": str(tmp_path / "x.png")}}], clicked) == ("", "")
    whole = dict.fromkeys(reuse.OPTIONS, "x")
    save_png(tmp_path / "x.png", Image.new("RGB", (8, 8)), GenerateRequest(), 0, 0, whole)
    assert (
        "--from-png x.png" in lines_of([{"image": {"path": str(tmp_path / "x.png")}}], clicked)[0]
    )


@pytest.mark.parametrize("gallery", [None, [], 7, "x", [1], [{}], [{"image": 1}], {"a": 1}])
@pytest.mark.parametrize("index", [0, -1, 9, None, "0", [0, 0]])
def test_a_gallery_that_is_none_has_no_lines(gallery: Any, index: Any) -> None:
    event: Any = type("Event", (), {"_data": {"index": index}})
    assert lines_of(gallery, event) == ("", "")


def test_no_message_says_a_value_in_full() -> None:
    """A record's fields are a stranger's."""
    for field in ("prompt", "seed", "steps", "guidance", "sampler", "guidance_window", "combine"):
        for value in ("x" * 10**6, [0] * 10**6, {"a": "b" * 10**6}):
            with pytest.raises(RequestError, match=f"^{field}") as refused:
                GenerateRequest(**{field: value})
            assert len(str(refused.value)) < 400


@pytest.mark.parametrize("loras", ["style:0.8", 7, True, 2.5, {"a": 1}])
def test_loras_are_a_list(loras: Any) -> None:
    with pytest.raises(RequestError, match="loras must be a list of names, got "):
        loras_from_texts(loras)


# Large pictures


def test_few_large_pictures_are_decoded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes up to a gigabyte; small ones wait for none of them."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    at_once: list[int] = []
    decoding, inside = threading.Lock(), [0]

    def slow(path: Path, field: str) -> Image.Image:
        with decoding:
            inside[0] += 1
            at_once.append(inside[0])
        time.sleep(0.05)
        with decoding:
            inside[0] -= 1
        return Image.new("RGB", (8, 8), "white")

    monkeypatch.setattr(uploads, "read_image", slow)
    for name, side in (("large", 2100), ("small", 1900)):
        Image.new("L", (side, side)).save(tmp_path / f"{name}.png")

    def at_most(name: str) -> int:
        at_once.clear()
        upload = {"path": str(tmp_path / f"{name}.png")}
        reads = (
            lambda: uploads.image_from_upload(upload, "reference"),
            lambda: uploads.mask_from_upload(upload, "mask"),
            lambda: uploads.value_from_widget(gr.Image(image_mode="L"), upload, "mask"),
            lambda: uploads.painting_from_editor(upload, "painting"),
        )
        threads = [threading.Thread(target=read) for read in reads * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(at_once) == 8
        return max(at_once)

    assert at_most("large") <= 2 < at_most("small")


def test_few_records_are_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A click on a result, or on a file that looks like one, waits in no queue."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    path = tmp_path / "x.png"
    whole = dict.fromkeys(reuse.OPTIONS, "x")
    save_png(path, Image.new("RGB", (8, 8)), GenerateRequest(), 0, 0, whole)
    at_once: list[int] = []
    decoding, inside = threading.Lock(), [0]

    def slow(*given: Any) -> Any:
        with decoding:
            inside[0] += 1
            at_once.append(inside[0])
        time.sleep(0.05)
        with decoding:
            inside[0] -= 1
        return record_from_png(*given)

    monkeypatch.setattr(room, "record_from_png", slow)
    clicked: Any = type("Event", (), {"_data": {"index": 0}})
    with ThreadPoolExecutor(8) as threads:
        clicks = [
            threads.submit(lines_of, [{"image": {"path": str(path)}}], clicked) for _ in range(8)
        ]
    assert all("--from-png x.png" in click.result()[0] for click in clicks)
    assert len(at_once) == 8
    assert max(at_once) <= 2


@contextmanager
def waiting_for_room(monkeypatch: pytest.MonkeyPatch, read: Callable[[], object]) -> Iterator[None]:
    """While there is none."""
    taken = threading.BoundedSemaphore(1)
    monkeypatch.setattr(room, "_ROOM", taken)
    monkeypatch.setattr(room, "SMALL", 100)
    taken.acquire()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read)
        try:
            with pytest.raises(TimeoutError):
                reading.result(timeout=0.3)
        finally:
            taken.release()
        assert reading.result() is not None
    yield


@pytest.mark.parametrize("way", ["upload", "batch", "spec", "whole", "mask"])
def test_few_large_pictures_are_decoded_at_once_whatever_the_way_in(
    way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    path = tmp_path / "a.png"
    Image.new("RGB", (16, 16)).save(path)
    spec = spec_from_document(
        {"columns": {"seed": [1]}, "request": {"references": [{"image": "a.png"}]}},
        lambda name: path.read_bytes(),
    )
    ways: dict[str, Callable[[], object]] = {
        "upload": lambda: uploads.image_from_upload({"path": str(path)}, "reference"),
        "batch": lambda: batch._read(path.read_bytes(), "a.png"),
        "spec": lambda: spec.picture("a.png"),
        "whole": lambda: spec.whole_picture("a.png"),
        "mask": lambda: spec.mask("a.png"),
    }
    with waiting_for_room(monkeypatch, ways[way]):
        monkeypatch.setattr(room, "SMALL", 256)  # the number of its pixels
        room._ROOM.acquire()
        assert ways[way]() is not None, "a small one waits for nobody"


def test_a_layer_that_is_larger_than_the_picture_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    places = {}
    for name, size in (("background", (16, 16)), ("layer", (16, 17))):
        Image.new("RGBA", size).save(tmp_path / f"{name}.png")
        places[name] = {"path": str(tmp_path / f"{name}.png")}
    decoded: list[object] = []
    read = uploads.read_image
    monkeypatch.setattr(
        uploads, "read_image", lambda path, field: decoded.append(path.name) or read(path, field)
    )
    editor = {"background": places["background"], "layers": [places["layer"]]}
    with pytest.raises(
        RequestError, match=r"layers must have the size of the picture, 16x16, got 16x17"
    ):
        uploads.painting_from_editor(editor, "painting")
    assert decoded == ["background.png"]


def test_layers_of_paint_are_counted_before_they_are_decoded() -> None:
    editor = {"background": {"path": "none"}, "layers": [{"path": "none"}] * 13_000}
    with pytest.raises(RequestError, match="layers must have at most 20 entries, got 13000"):
        uploads.painting_from_editor(editor, "painting")
