"""Pictures as people have them: every layout reads alike, in an order that only the seed decides,
and what is broken is counted and passed over."""

from __future__ import annotations

import functools
import http.server
import io
import json
import tarfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.tabletop.files import pictures_of, write_shards
from ipadapter_demo.tabletop.scene import sample_scenes
from ipadapter_demo.training.data import shards
from ipadapter_demo.training.data.examples import Example, Preparer
from ipadapter_demo.training.data.shards import shards_of
from ipadapter_demo.training.data.stream import ShardPlan, Stream
from ipadapter_demo.training.data.types import Pair, Shard
from tests.tiny import picture


def content_of(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write_tar(path: Path, first: int, count: int, broken: tuple[int, ...] = ()) -> Path:
    """As img2dataset writes them: 000000003.jpg, .txt, .json, one after the other."""
    with tarfile.open(path, "w") as tar:
        for number in range(first, first + count):
            image = content_of(picture(number, 40, 30), "JPEG")
            parts = {
                "jpg": b"not a picture" if number in broken else image,
                "txt": f"caption {number}".encode(),
                "json": json.dumps({"key": f"{number:09d}", "status": "success"}).encode(),
            }
            for ending, content in parts.items():
                member = tarfile.TarInfo(f"{number:09d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for number in range(4):
        write_tar(tmp_path / f"{number:05d}.tar", 10 * number, 10 + number)
    return tmp_path


def pairs_of(shards: list[Shard]) -> list[Pair]:
    found = []
    for shard in shards:
        rows = shard.open()
        found += [row for i in range(len(rows)) if isinstance(row := rows[i], Pair)]
    return found


def test_tar_shards_are_what_img2dataset_writes(tars: Path) -> None:
    pairs = pairs_of(shards_of([f"{tars}/{{00000..00001}}.tar"]))
    assert [p.caption for p in pairs] == [f"caption {i}" for i in [*range(10), *range(10, 21)]]
    assert pairs[3].image.size == (40, 30)
    assert pairs[3].image.mode == "RGB"
    assert len(shards_of([f"{tars}/*.tar"])) == len(shards_of([str(tars)])) == 4


def test_a_caption_may_stand_in_the_json_only(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (
            ("x.webp", content_of(picture(1), "WEBP")),
            ("x.json", json.dumps({"caption": "a cat"}).encode()),
            ("y.png", content_of(picture(2))),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert [p.caption for p in pairs_of(shards_of([str(tmp_path / "a.tar")]))] == ["a cat", ""]


def test_a_shard_that_was_cut_short_gives_what_is_whole(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "cut.tar", 0, 8)
    path.write_bytes(path.read_bytes()[:9000])
    rows = shards_of([str(path)])[0].open()
    assert 1 <= len(rows) < 8
    assert rows[0].caption == "caption 0"


@pytest.fixture
def server(tars: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(tars))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


def test_urls_are_read_as_files_are(tars: Path, server: str) -> None:
    there = pairs_of(shards_of([f"{server}/{{00000..00003}}.tar"]))
    here = pairs_of(shards_of([str(tars)]))
    assert [(p.key, p.caption, p.image.tobytes()) for p in there] == [
        (p.key, p.caption, p.image.tobytes()) for p in here
    ]


def test_a_folder_with_captions(tmp_path: Path) -> None:
    lines = []
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"picture {number}"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    pairs = pairs_of(shards_of([str(tmp_path)]))
    assert [p.caption for p in pairs] == ["picture 0", "picture 1", "picture 2"]
    assert pairs[2].image.tobytes() == picture(2).tobytes()


def test_lines_of_captions_end_where_json_lines_do(tmp_path: Path) -> None:
    """Behind a byte order mark, with a line separator in a caption, and an empty line at the end"""
    picture(0).save(tmp_path / "0.png")
    wanted = ["a\u2028b", "c\x85d", "e"]
    lines = [json.dumps({"file_name": "0.png", "text": w}, ensure_ascii=False) for w in wanted]
    (tmp_path / "metadata.jsonl").write_text("\n".join([*lines, "", ""]), "utf-8-sig")
    assert [p.caption for p in pairs_of(shards_of([str(tmp_path)]))] == wanted


def test_a_caption_that_is_no_text_breaks_its_row_alone(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "0.png")
    lines = [json.dumps({"file_name": "0.png", "text": text}) for text in ("a", "half \ud800")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    [shard] = shards_of([str(tmp_path)])
    rows = shard.open()
    assert rows[0].caption == "a"
    with pytest.raises(ValueError, match="surrogates not allowed"):
        rows[1]


@pytest.mark.slow
def test_what_the_datasets_library_saves(tmp_path: Path) -> None:
    import datasets

    rows = {
        "image": [{"bytes": content_of(picture(i)), "path": None} for i in range(3)],
        "caption": [f"picture {i}" for i in range(3)],
    }
    kind = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=kind).save_to_disk(tmp_path / "saved")
    pairs = pairs_of(shards_of([f"datasets:{tmp_path / 'saved'}"]))
    assert [p.caption for p in pairs] == ["picture 0", "picture 1", "picture 2"]
    assert pairs[1].image.tobytes() == picture(1).tobytes()


def test_rendered_shards_hold_poor_captions(tmp_path: Path) -> None:
    scenes = sample_scenes(12, 5)
    paths = write_shards(tmp_path, scenes, pictures_of(scenes, 32), 5, rows=8)
    assert [p.name for p in paths] == ["00000.tar", "00001.tar"]
    pairs = pairs_of(shards_of([str(tmp_path)]))
    assert len(pairs) == 12
    assert len({p.image.tobytes() for p in pairs}) == 12
    assert any(p.caption == "" for p in pairs)
    assert any(p.caption for p in pairs)
    assert all(
        p.reference is not None and p.reference.tobytes() != p.image.tobytes() for p in pairs
    )


def test_the_image_encoder_sees_the_reference_beside_a_picture(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, image in (
            ("x.png", picture(1)),
            ("x.reference.jpg", picture(2)),
            ("y.reference.png", picture(3)),
            ("y.jpg", picture(4)),
            ("z.png", picture(5)),
        ):
            content = content_of(image)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    pairs = pairs_of(shards_of([str(tmp_path)]))
    processor = CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    prepare = Preparer(32, processor)
    for pair, shown, seen in zip(pairs, (1, 4, 5), (2, 3, 5), strict=True):
        example, wanted = prepare(pair), prepare(Pair("", picture(seen), ""))
        assert torch.equal(example.clip_pixels, wanted.clip_pixels)
        assert torch.equal(example.pixels, prepare(Pair("", picture(shown), "")).pixels)
        own = Preparer(32, processor, own_pictures=True)
        assert torch.equal(own(pair).clip_pixels, prepare(Pair("", picture(shown), "")).clip_pixels)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nowhere", "data: nowhere is neither a .tar file, a folder, nor a URL"),
        ("none-*.tar", "data: none-*.tar holds no pictures"),
        ("datasets:/nowhere/at/all", "data: datasets:/nowhere/at/all cannot be loaded"),
    ],
)
def test_places_that_are_none(place: str, said: str) -> None:
    with pytest.raises(TrainingError, match=said.replace("*", r"\*")):
        shards_of([place])


def test_a_folder_without_captions_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"has neither a metadata.jsonl with a line"):
        shards_of([str(tmp_path)])


# --- the order -----------------------------------------------------------------------------------


def joined(steps: Iterable[list[str]]) -> list[str]:
    return list(chain.from_iterable(steps))


def captioned(row: Pair | Example) -> Example:
    return Example(row.caption, original=(1, 1), crop=(0, 0))


def captions(
    shards: list[Shard], steps: int, slots: ShardPlan, workers: int = 0, start: dict | None = None
) -> tuple[list[list[str]], Stream]:
    stream = Stream(shards, slots, seed=3, prepare=captioned, workers=workers, start=start)
    return [[example.caption for _, example in next(stream)] for _ in range(steps)], stream


def test_every_picture_comes_once_a_round_and_rounds_differ(tars: Path) -> None:
    shards = shards_of([f"{tars}/00002.tar"])
    steps, _ = captions(shards, 8, ShardPlan.of(3))
    first, second = joined(steps[:4]), joined(steps[4:])
    assert sorted(first) == sorted(second) == sorted(f"caption {i}" for i in range(20, 32))
    assert first != second


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_several_processes_see_what_one_would(tars: Path, processes: int) -> None:
    shards = shards_of([str(tars)])
    whole, _ = captions(shards, 12, ShardPlan.of(6))
    parts = [
        captions(shards, 12, ShardPlan.of(6 // processes, p, processes))[0]
        for p in range(processes)
    ]
    assert [joined(step) for step in zip(*parts, strict=True)] == whole


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than cores
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_nothing(tars: Path, workers: int) -> None:
    shards = shards_of([str(tars)])
    assert (
        captions(shards, 12, ShardPlan.of(6), workers)[0]
        == captions(shards, 12, ShardPlan.of(6))[0]
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # as above
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_where_it_was(tars: Path, workers: int) -> None:
    shards = shards_of([str(tars)])
    whole, _ = captions(shards, 20, ShardPlan.of(6))
    first, stream = captions(shards, 7, ShardPlan.of(6), workers)
    rest, _ = captions(shards, 13, ShardPlan.of(6), workers, start=stream.positions)
    assert first + rest == whole


@pytest.mark.parametrize(("count", "batch"), [(9, 8), (19, 8), (11, 4), (40, 6), (9, 1)])
def test_every_picture_of_a_folder_comes_as_often(
    count: int, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ROWS", 8)
    picture(0).save(tmp_path / "0.png")
    lines = [json.dumps({"file_name": "0.png", "text": str(i)}) for i in range(count)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    steps, _ = captions(shards_of([str(tmp_path)]), 10 * count // batch, ShardPlan.of(batch))
    found = Counter(joined(steps))
    assert len(found) == count
    assert max(found.values()) - min(found.values()) <= 4  # of 10


@pytest.mark.parametrize("rows", [(24, 1), (12, 1, 12), (8, 8, 8, 8, 2)])
def test_every_picture_of_unequal_tars_comes_as_often(
    rows: tuple[int, ...], tmp_path: Path
) -> None:
    for number, count in enumerate(rows):
        write_tar(tmp_path / f"{number}.tar", 100 * number, count)
    steps, _ = captions(shards_of([str(tmp_path)]), 5 * sum(rows), ShardPlan.of(2))
    found = Counter(joined(steps))
    assert len(found) == sum(rows)
    assert max(found.values()) - min(found.values()) <= 3  # of 10


def test_shards_of_others_stand_in_for_a_streams_own(tmp_path: Path) -> None:
    for number in range(4):
        write_tar(tmp_path / f"{number}.tar", 10 * number, 6)
    bad = tmp_path / "2.tar"
    bad.write_bytes(b"x" * bad.stat().st_size)
    steps, stream = captions(shards_of([str(tmp_path)]), 40, ShardPlan.of(4))
    assert set(joined(steps)) == {f"caption {10 * n + i}" for n in (0, 1, 3) for i in range(6)}
    assert stream.broken >= 1
    for number in (0, 1, 3):
        (tmp_path / f"{number}.tar").write_bytes(bad.read_bytes())
    with pytest.raises(TrainingError, match="none of 4 shards can be read"):
        captions(shards_of([str(tmp_path)]), 1, ShardPlan.of(4))


def test_broken_rows_are_counted_and_others_stay_where_they_were(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tar(tmp_path / "whole.tar", 0, 12)
    write_tar(tmp_path / "broken.tar", 0, 12, broken=(3, 7))
    whole, _ = captions(shards_of([f"{tmp_path}/whole.tar"]), 6, ShardPlan.of(2))
    broken, stream = captions(shards_of([f"{tmp_path}/broken.tar"]), 6, ShardPlan.of(2))
    ours, theirs = joined(broken), joined(whole)
    different = [a for a, b in zip(theirs, ours, strict=True) if a != b]
    assert sorted(different) == ["caption 3", "caption 7"]
    assert f"skipped: {tmp_path}/broken.tar, row 3: " in caplog.text
    assert stream.broken >= 2


def test_shards_without_a_readable_row_are_passed_over(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", 0, 4, broken=tuple(range(4)))
    (tmp_path / "1.tar").write_bytes(b"no tar at all")
    write_tar(tmp_path / "2.tar", 8, 4)
    steps, stream = captions(shards_of([str(tmp_path)]), 12, ShardPlan.of(1))
    assert {c for step in steps for c in step} == {f"caption {i}" for i in range(8, 12)}
    assert stream.broken >= 4


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_may_begin_with_a_shard_without_a_readable_row(seed: int, tmp_path: Path) -> None:
    for first in (0, 4, 8, 12):
        broken = () if first == 8 else tuple(range(first, first + 4))
        write_tar(tmp_path / f"{first}.tar", first, 4, broken)
    plan, shards = ShardPlan.of(4), shards_of([str(tmp_path)])
    stream = Stream(shards, plan, seed, captioned)
    found = {example.caption for _ in range(3) for _, example in next(stream)}
    assert found <= {f"caption {i}" for i in range(8, 12)}
    write_tar(tmp_path / "8.tar", 8, 4, broken=tuple(range(8, 12)))
    with pytest.raises(TrainingError, match=r"^data: no row of 4 shards can be read$"):
        next(Stream(shards, plan, seed, captioned))


def test_nothing_readable_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "1.tar").write_bytes(b"no tar at all")
    with pytest.raises(TrainingError, match=r"none of 1 shards can be read"):
        captions(shards_of([str(tmp_path)]), 1, ShardPlan.of(1))
