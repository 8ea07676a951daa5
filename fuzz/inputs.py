"""Files of strangers, in process: each is read, or refused in a short sentence."""

from __future__ import annotations

import base64
import io
import json
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import psutil
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fuzz.mutations import CANARY, SECRET, changed_bytes, changed_json
from ipadapter_demo.compare import Bundle, Plan, spec_from_text
from ipadapter_demo.errors import DemoError, RequestError
from ipadapter_demo.imaging import flatten_image, read_image
from ipadapter_demo.json_values import Json
from ipadapter_demo.masks import flatten_mask
from ipadapter_demo.record import record_from_png, request_to_json, save_png
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference, Structure
from ipadapter_demo.serving import ModelManager

MAX_WORDS = 1200  # characters of a refusal
SLOW = 5.0  # seconds of the processor for one file
Check = Callable[[bytes], object]


class Opened:
    """Counts the times that this process opens a file of the canary's name; for its whole life."""

    count = 0

    @classmethod
    def watched(cls) -> None:
        def note(event: str, arguments: tuple[object, ...]) -> None:
            if event == "open" and CANARY in str(arguments[0]):
                cls.count += 1

        sys.addaudithook(note)


def picture(width: int = 32, height: int = 24, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def pictures() -> list[bytes]:
    """One file of each format, of several modes."""
    pillow_heif.register_heif_opener()
    found = []
    for kind, mode, options in (
        ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {}), ("PNG", "1", {}),
        ("PNG", "I;16", {}),
        ("JPEG", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}),
        ("JPEG", "CMYK", {}), ("JPEG", "L", {"progressive": True}), ("WEBP", "RGBA", {}),
        ("GIF", "P", {"save_all": True, "append_images": [picture(mode="P")]}), ("BMP", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "I;16", {}), ("TIFF", "F", {}),
        ("AVIF", "RGB", {}), ("HEIF", "RGB", {}),
    ):  # fmt: skip
        file = io.BytesIO()
        image = picture(mode="L" if mode in ("I;16", "F") else mode)
        image = Image.fromarray(np.asarray(image, np.uint16)) if mode == "I;16" else image
        (image.convert(mode) if mode == "F" else image).save(file, kind, **options)
        found.append(file.getvalue())
    return found


def requests() -> list[GenerateRequest]:
    mask = picture(mode="L").point(lambda v: 255 * (v > 99))
    return [
        GenerateRequest(references=(Reference(image=picture(), mask=mask),), seed=3, steps=2),
        GenerateRequest(
            structures=(Structure(kind="canny", image=picture()),),
            inpaint=Inpaint(image=picture(), mask=mask, repaint_passes=2),
            prompt="a red cube", guidance_window=(0.1, 0.9),
        ),
    ]  # fmt: skip


def results() -> list[bytes]:
    """Output PNGs."""
    found = []
    for request in requests():
        file = io.BytesIO()
        save_png(file, picture(), request, 3, 0, provenance())
        found.append(file.getvalue())
    return found


def provenance() -> dict[str, Json]:
    return {"model": "tabletop", "device": "cpu", "dtype": "float32", "weights": {"unet": "0" * 64}}


def records() -> list[dict[str, Any]]:
    extra = {"index": 0, "seed": 3, "provenance": provenance()}
    return [request_to_json(request) | extra for request in requests()]


def result_of_record(record: object) -> bytes:
    """A PNG that holds any document, whole."""
    info, file = PngInfo(), io.BytesIO()
    info.add_itxt("ipadapter_demo", json.dumps(record).encode("utf-8", "replace").decode())
    picture(8, 8).save(file, "PNG", pnginfo=info)
    return file.getvalue()


SPECS: list[dict[str, Any]] = [
    {
        "title": "x", "request": {"prompt": "a cube", "steps": 2, "seed": 1},
        "columns": {"image_scale": "0:1:0.5"}, "rows": {"reference": ["a.png", "b.png"]},
        "beside": ["reference", "no_image"], "labels": {"rows": ["one", "two"]},
        "figure": {"width": "single", "dpi": 100, "zoom": [0.4, 0.4, 0.2, 0.2]},
    },
    {
        "schema": 1, "model": "tabletop",
        "request": {
            "references": [{"image": "a.png", "weight": 0.5, "window": [0, 1], "mask": "b.png"}],
            "structures": [{"kind": "canny", "image": "a.png"}],
            "inpaint": {"image": "a.png", "mask": "b.png", "feather": 2},
        },
        "columns": {"guidance": [1, 2.5], "sampler": ["ddim"]}, "pages": {"seed": [1, 2]},
        "redraw": {"p1-r1-c1": 7},
    },
]  # fmt: skip


def manifests() -> list[dict[str, Any]]:
    import hashlib

    files = {name: results()[0] for name in ("a.png", "b.png")}
    inputs = [
        {"file": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content),
         "content": base64.b64encode(content).decode()}
        for name, content in files.items()
    ]  # fmt: skip
    cell = {
        "name": "p1-r1-c1",
        "heads": ["", "a", "b"],
        "model": "tabletop",
        "request": {"seed": 1},
    }
    return [
        {"schema": 1, "spec": spec, "inputs": inputs, "batch": 1,
         "models": {"tabletop": provenance()}, "cells": [cell]}
        for spec in SPECS
    ]  # fmt: skip


def bundle_of_manifest(manifest: object) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("manifest.json", json.dumps(manifest))
    return file.getvalue()


class Checks:
    """What reads each kind of file, all the way to a plan of what is drawn. Files that a spec names
    are read from `folder` by their last name, as the page reads uploads; the canary lies above."""

    def __init__(self, manager: ModelManager, folder: Path) -> None:
        self.manager, self.folder = manager, folder / "uploads"
        self.folder.mkdir()
        (folder / CANARY).write_bytes(SECRET)
        for name, content in zip(("a.png", "b.png"), results(), strict=True):
            (self.folder / name).write_bytes(content)

    def picture(self, content: bytes) -> object:
        image = read_image(content, "reference")
        return flatten_image(image, "reference").size, flatten_mask(image, "mask").size

    def record(self, content: bytes) -> object:
        return record_from_png(content)

    def spec(self, content: bytes) -> object:
        spec = spec_from_text(content, self._read)
        for name in spec.files:
            spec.picture(name)
        return Plan(spec, self.manager).grid

    def bundle(self, content: bytes) -> object:
        path = self.folder / "bundle.zip"
        path.write_bytes(content)
        return Plan(Bundle(path).spec, self.manager).grid

    def _read(self, name: str) -> bytes:
        path = self.folder / Path(name).name
        if Path(name).name not in ("a.png", "b.png"):
            raise RequestError(f"{name:.80} is not among the pictures: upload it first")
        return path.read_bytes()


def kinds(checks: Checks) -> dict[str, tuple[Check, st.SearchStrategy[bytes]]]:
    """Of files, with what reads them and what is made."""
    as_text = st.sampled_from((json.dumps, yaml.safe_dump))
    return {
        "pictures": (checks.picture, changed_bytes(pictures())),
        "records": (
            checks.record,
            changed_bytes(results()) | changed_json(records()).map(result_of_record),
        ),
        "specs": (
            checks.spec,
            changed_bytes([yaml.safe_dump(spec).encode() for spec in SPECS])
            | st.builds(_written, as_text, changed_json(SPECS)),
        ),
        "bundles": (
            checks.bundle,
            changed_bytes([bundle_of_manifest(one) for one in manifests()])
            | changed_json(manifests()).map(bundle_of_manifest),
        ),
    }


def _written(write: Callable[[Any], str], document: object) -> bytes:
    return write(document).encode("utf-8", "replace")


def fuzzed(kind: str, manager: ModelManager, count: int, number: int = 0) -> dict[str, Any]:
    """Figures of `count` files of a kind: read, refused, failures by what they were."""
    told: Counter[str] = Counter()
    failures: dict[str, str] = {}
    slowest = 0.0
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        check, made = kinds(Checks(manager, Path(folder)))[kind]
        memory, opened = process.memory_info().rss, Opened.count

        @seed(number)
        @settings(
            max_examples=count, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(made)
        def one(content: bytes) -> None:
            nonlocal slowest
            began = time.process_time()
            try:
                check(content)
                told["read"] += 1
            except DemoError as error:
                told["refused"] += 1
                if len(str(error)) > MAX_WORDS:
                    failures[f"a refusal of {len(str(error))} characters"] = str(error)[:200]
            except Exception as error:
                told["failed"] += 1
                failures[f"{type(error).__name__}: {error}"[:200]] = traceback.format_exc()[-1500:]
            slowest = max(slowest, time.process_time() - began)

        one()
        grown = process.memory_info().rss - memory
    if slowest > SLOW:
        failures[f"a file took {slowest:.1f} s"] = ""
    return {
        "files": sum(told.values()), "read": told["read"], "refused": told["refused"],
        "failures": failures, "slowest_seconds": round(slowest, 2),
        "read_outside": Opened.count - opened, "megabytes_grown": round(grown / 2**20),
    }  # fmt: skip


def fuzz_all(manager: ModelManager, counts: dict[str, int]) -> dict[str, Any]:
    return {kind: fuzzed(kind, manager, count) for kind, count in counts.items()}


KINDS: Sequence[str] = ("pictures", "records", "specs", "bundles")
