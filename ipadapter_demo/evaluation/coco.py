"""The paper's protocol (arXiv 2308.06721, section 4.2): pictures of COCO as image prompts, four
samples of each, CLIP ViT-L/14 cosines with the picture and with its caption.

    python -m ipadapter_demo evaluate coco --images val2017 --captions captions_val2017.json ...

Ray actors share the work, on this machine or on all of a cluster; each has a pipeline and a CLIP of
its own. What is finished is written down row by row, so a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypedDict

from PIL import Image

from ipadapter_demo.errors import RequestError, some_of
from ipadapter_demo.evaluation.similarity import NamedClip
from ipadapter_demo.files import write_file
from ipadapter_demo.imaging import flatten_image, read_image
from ipadapter_demo.json_values import Json
from ipadapter_demo.pipeline import load
from ipadapter_demo.request import GenerateRequest, Reference, Sampler

CLIP_SCORE = 2.5  # w of CLIPScore = w · max(cos, 0): arXiv 2104.08718, section 3
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Settings of the samples; the defaults are the paper's. Image n's sample k has the seed
    seed + n · samples + k."""

    samples: int = 4
    steps: int = 50
    guidance: float = 7.5
    sampler: Sampler = "ddim"
    image_scale: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """A picture of the collection and its first caption."""

    number: int
    path: str
    caption: str


class Row(TypedDict):
    """The figures of an item: its samples' cosines with the picture and with the caption."""

    number: int
    file: str
    clip_i: list[float]
    clip_t: list[float]


def items_of(images: Path, captions: Path, limit: int | None = None) -> list[Item]:
    """From a COCO captions file: {"images": [{"id", "file_name"}], "annotations": [{"image_id",
    "caption"}]}, in the order of the pictures' ids. Raises RequestError."""
    try:
        content = json.loads(captions.read_text(encoding="utf-8"))
        names = {entry["id"]: _text(entry, "file_name") for entry in content["images"]}
        words: dict[int, str] = {}
        for entry in content["annotations"]:
            words.setdefault(entry["image_id"], _text(entry, "caption").strip())
        ids = sorted(i for i in names if i in words)[:limit]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"captions: {captions} is no COCO captions file: {error!r}") from error
    found = [Item(n, str(images / names[i]), words[i]) for n, i in enumerate(ids)]
    if not found:
        raise RequestError(f"captions: {captions} has no picture with a caption")
    missing = [item.path for item in found if not Path(item.path).is_file()]
    if missing:
        raise RequestError(
            f"images: {len(missing)} of {len(found)} pictures are not in {images}, "
            f"such as {Path(missing[0]).name}"
        )
    return found


def _text(entry: Mapping[str, object], name: str) -> str:
    if not isinstance(found := entry[name], str):
        raise TypeError(f"{name} must be a text, got {found!r:.80}")
    return found


def _request(protocol: Protocol, picture: Image.Image, number: int) -> GenerateRequest:
    """For the samples of image `number`. Raises RequestError."""
    fields = asdict(protocol)
    fields["count"] = count = fields.pop("samples")
    fields["seed"] += number * count
    return GenerateRequest(references=(Reference(image=picture),), **fields)


class Scorer:
    """The work of an actor: draw an item's samples and score them."""

    def __init__(
        self, model: dict[str, Any], clip: Path, protocol: Protocol, threads: int | None = None
    ) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self.pipeline, self.protocol = load(**model), protocol
        self.clip = NamedClip(clip, str(self.pipeline.provenance["device"]))

    def provenance(self) -> dict[str, Json]:
        return self.pipeline.provenance

    def row(self, item: Item) -> Row:
        """The cosines of every sample with the picture and with its caption."""
        field = f"images: {item.path}"
        picture = flatten_image(read_image(Path(item.path), field), field)
        request = _request(self.protocol, picture, item.number)
        made = self.clip.of_images(self.pipeline.generate(request).images)
        seen, said = self.clip.of_images([picture]), self.clip.of_texts([item.caption])
        return {
            "number": item.number,
            "file": Path(item.path).name,
            "clip_i": (made @ seen[0]).tolist(),
            "clip_t": (made @ said[0]).tolist(),
        }


def evaluate_coco(
    items: Sequence[Item],
    model: dict[str, Any],
    clip: Path,
    protocol: Protocol,
    out: Path,
    workers: int = 1,
    gpus: float = 0.0,
    progress: Progress = lambda _: None,
) -> dict[str, Json]:
    """Draw and score what `out`/rows.jsonl lacks, then write `out`/report.json and return it.

    `model` are the arguments of `load`, `gpus` a worker's share of them. Raises RequestError where
    `out` holds rows of another protocol or provenance, or the workers do not fit, ModelError or
    CheckpointError.
    """
    settings: dict[str, Json] = {
        "protocol": asdict(protocol),
        "clip": clip.name,
        "items": len(items),
        "items_sha256": _sha256_of(items, clip),
        "model": {name: str(value) for name, value in model.items() if value},
    }
    for item in (items[0], items[-1]):  # before anything is written: can it be drawn?
        _request(protocol, Image.new("RGB", (1, 1)), item.number)
    out.mkdir(parents=True, exist_ok=True)
    rows = _rows_there(out, settings)
    todo = [item for item in items if item.number not in rows]
    if todo:
        begin = partial(_begin, out, settings, bool(rows))
        with (out / "rows.jsonl").open("a") as file:
            for row in _drawn(todo, model, clip, protocol, workers, gpus, begin):
                file.write(json.dumps(row) + "\n")
                file.flush()
                rows[row["number"]] = row
                progress(f"{len(rows)} of {len(items)}")
    report = settings | {"provenance": _provenance_there(out)} | _summary(list(rows.values()))
    write_file(out / "report.json", _as_bytes(report))
    return report


def _drawn(
    todo: Sequence[Item],
    model: dict[str, Any],
    clip: Path,
    protocol: Protocol,
    workers: int,
    gpus: float,
    begin: Callable[[dict[str, Json]], None],
) -> Iterator[Row]:
    """Rows as they are finished, in whatever order; before them `begin` gets the provenance."""
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise RequestError(
            "evaluate coco needs ray: pip install -r requirements-train.txt"
        ) from error
    own = not ray.is_initialized()
    if own:
        options = {"log_to_driver": False, "include_dashboard": False, "logging_level": "error"}
        if "RAY_ADDRESS" not in os.environ:  # a cluster that is there is joined
            options |= {"num_cpus": max(workers, os.cpu_count() or 1)}
        ray.init(**options)
    try:
        _check_room(workers, gpus, ray.cluster_resources())
        actor = ray.remote(num_cpus=1, num_gpus=gpus)(Scorer)
        threads = None if gpus or workers == 1 else 1
        actors = [actor.remote(model, clip, protocol, threads) for _ in range(workers)]
        begin(ray.get(actors[0].provenance.remote()))
        pool = ActorPool(actors)
        yield from pool.map_unordered(lambda scorer, item: scorer.row.remote(item), todo)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.ActorDiedError as error:
        said = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip().rpartition("\n")[2]  # the reason
        raise RequestError(f"workers: one of {workers} died: {said:.300}") from error
    finally:
        if own:
            ray.shutdown()


def _check_room(workers: int, gpus: float, there: Mapping[str, float]) -> None:
    """Raises RequestError where an actor would wait for its share without an end."""
    cpu, gpu = there.get("CPU", 0.0), there.get("GPU", 0.0)
    room = int(cpu)
    if gpus > 0:  # a share below 1 is one of a single GPU
        room = min(room, int(gpu) * int(1 / gpus) if gpus < 1 else int(gpu // gpus))
    if workers > room:
        raise RequestError(
            f"workers: {workers} with gpus {gpus:g} each do not fit: "
            f"Ray has {gpu:g} GPUs and {cpu:g} CPUs, which is room for {room}"
        )


def _sha256_of(items: Sequence[Item], clip: Path) -> str:
    """Of what the rows depend on besides: pictures by name, captions, and CLIP's files by size."""
    there = sorted(clip.iterdir()) if clip.is_dir() else []
    listed = [[Path(item.path).name, item.caption] for item in items]
    listed += [[file.name, str(file.stat().st_size)] for file in there]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _rows_there(out: Path, settings: dict[str, Json]) -> dict[int, Row]:
    """The rows that an earlier run of these settings finished, without a line cut off."""
    known = out / "settings.json"
    if known.exists() and known.read_bytes() != _as_bytes(settings):
        raise RequestError(f"out: {out} holds an evaluation with other settings; name another")
    rows: dict[int, Row] = {}
    path = out / "rows.jsonl"
    if path.exists():
        whole = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
        write_file(path, "".join(whole).encode())
        rows = {row["number"]: row for row in map(json.loads, whole)}
    return rows


def _begin(
    out: Path, settings: dict[str, Json], goes_on: bool, provenance: dict[str, Json]
) -> None:
    """Write down what makes the rows. Raises RequestError where there are some of another."""
    provenance = json.loads(json.dumps(provenance))  # as it is read: without tuples
    if goes_on and (found := list(_differences(_provenance_there(out), provenance))):
        raise RequestError(
            f"out: {out} holds rows of another provenance, name another folder: {some_of(found)}"
        )
    write_file(out / "settings.json", _as_bytes(settings))
    write_file(out / "provenance.json", _as_bytes(provenance))


def _differences(before: dict[str, Json], now: dict[str, Json], inside: str = "") -> Iterator[str]:
    for name in before | now:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{inside}{name}.")
        elif old != new:
            yield f"{inside}{name} was {old!r:.40} and is {new!r:.40}"


def _as_bytes(content: Mapping[str, Json]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _provenance_there(out: Path) -> dict[str, Json]:
    path = out / "provenance.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _summary(rows: Sequence[Row]) -> dict[str, Json]:
    """Means over all samples; the spread is that of pictures' means."""
    scores = [CLIP_SCORE * max(value, 0.0) for row in rows for value in row["clip_t"]]
    return {
        "pictures": len(rows),
        "clip_i": _spread([fmean(row["clip_i"]) for row in rows]),
        "clip_t": _spread([fmean(row["clip_t"]) for row in rows])
        | {"clip_score": round(fmean(scores), 4)},
    }


def _spread(per_picture: Sequence[float]) -> dict[str, float | None]:
    return {
        "cosine": round(fmean(per_picture), 4),
        "std_over_pictures": round(stdev(per_picture), 4) if len(per_picture) > 1 else None,
    }
