"""The paper's protocol on a few pictures: shared by two workers, resumed, and equal to what one
process computes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

import ipadapter_demo as ip
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.evaluation import coco
from ipadapter_demo.evaluation.coco import Item, Protocol, Row, Scorer, evaluate_coco, items_of
from ipadapter_demo.evaluation.similarity import NamedClip
from ipadapter_demo.imaging import flatten_image, read_image
from ipadapter_demo.request import MAX_SEED
from tests.tiny import picture, tiny_image_processor, tiny_tokenizer, write_tiny_model

SHORT = Protocol(samples=2, steps=2)


def write_clip(folder: Path) -> Path:
    """A random CLIP of the published class and layout."""
    tokenizer = tiny_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tiny_image_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a CLIP, five pictures and their captions in COCO's layout."""
    place = tmp_path_factory.mktemp("coco")
    write_tiny_model(place / "model")
    write_clip(place / "clip")
    (place / "images").mkdir()
    for number in range(5):
        picture(number, 48, 40).save(place / "images" / f"{number:012d}.jpg")
    content = {
        "images": [{"id": 10 * n, "file_name": f"{n:012d}.jpg"} for n in reversed(range(5))],
        "annotations": [
            {"image_id": 10 * n, "caption": f"caption {k} of {n} "}
            for k in range(2)
            for n in range(5)
        ],
    }
    (place / "captions.json").write_text(json.dumps(content))
    return place


def items(place: Path, limit: int | None = None) -> list[Item]:
    return items_of(place / "images", place / "captions.json", limit)


@pytest.fixture(scope="module")
def options(place: Path) -> dict[str, Any]:
    from tests.tiny import tiny_entry

    return {"model": tiny_entry("tiny", place / "model")}


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cluster of this test alone, as quick as any process: they would be "nice", and starve
    beside another test."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_worker_niceness", "0")


@pytest.fixture
def cluster(workers: None) -> Iterator[None]:
    """A cluster that is there, for several evaluations to join."""
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, logging_level="error")
    yield
    ray.shutdown()


def test_the_first_caption_of_each_picture_in_the_order_of_ids(place: Path) -> None:
    found = items(place)
    assert [item.caption for item in found] == [f"caption 0 of {n}" for n in range(5)]
    assert [Path(item.path).name for item in found] == [f"{n:012d}.jpg" for n in range(5)]
    assert len(items(place, 2)) == 2


def shown_of(place: Path) -> Image.Image:
    return flatten_image(read_image(Path(items(place)[3].path)))


def test_a_row_holds_the_cosines_of_every_sample(place: Path, options: dict[str, Any]) -> None:
    scorer = Scorer(options, place / "clip", SHORT)
    row = scorer.row(items(place)[3])
    made = (
        ip.load(**options)
        .generate(
            ip.GenerateRequest(
                references=(ip.Reference(image=shown_of(place)),),
                count=2,
                seed=6,
                steps=2,
                guidance=7.5,
                sampler="ddim",
            )
        )
        .images
    )
    clip = NamedClip(place / "clip")
    shown = clip.of_images([shown_of(place)])
    torch.testing.assert_close(torch.tensor(row["clip_i"]), (clip.of_images(made) @ shown[0]))
    said = clip.of_texts(["caption 0 of 3"])
    torch.testing.assert_close(torch.tensor(row["clip_t"]), (clip.of_images(made) @ said[0]))


@pytest.mark.slow
def test_two_workers_a_stop_and_the_report(
    place: Path, options: dict[str, Any], tmp_path: Path, cluster: None
) -> None:
    everything = items(place)
    report = evaluate_coco(
        everything, options, place / "clip", SHORT, tmp_path / "whole", workers=2
    )
    rows = [
        json.loads(line) for line in (tmp_path / "whole" / "rows.jsonl").read_text().splitlines()
    ]
    assert sorted(row["number"] for row in rows) == list(range(5))
    alone = Scorer(options, place / "clip", SHORT)
    for row in rows:
        expected = alone.row(everything[row["number"]])
        assert row["clip_i"] == pytest.approx(expected["clip_i"], abs=1e-5)
        assert row["clip_t"] == pytest.approx(expected["clip_t"], abs=1e-5)
    values = [v for row in rows for v in row["clip_t"]]
    assert report["clip_t"]["cosine"] == pytest.approx(sum(values) / 10, abs=1e-4)
    assert report["clip_t"]["clip_score"] == pytest.approx(
        sum(2.5 * max(v, 0) for v in values) / 10, abs=1e-4
    )
    assert report["protocol"]["seed"] == 0
    assert report["provenance"]["weights"]

    # stopped in the middle of a line, after two rows
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    for name in ("settings.json", "provenance.json"):
        (stopped / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    lines = (tmp_path / "whole" / "rows.jsonl").read_text().splitlines(True)
    (stopped / "rows.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
    again = evaluate_coco(everything, options, place / "clip", SHORT, stopped, workers=1)
    assert again["clip_i"] == pytest.approx(report["clip_i"])
    kept = (stopped / "rows.jsonl").read_text().splitlines(True)
    assert kept[:2] == lines[:2]
    assert len(kept) == 5

    other = Protocol(samples=2, steps=3)
    with pytest.raises(RequestError, match="holds an evaluation with other settings"):
        evaluate_coco(everything, options, place / "clip", other, stopped)


@pytest.mark.slow
def test_what_a_worker_cannot_do_is_said_as_it_is(
    place: Path, options: dict[str, Any], tmp_path: Path, workers: None
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(RequestError, match=r"images: .*broken\.jpg is not a picture"):
        evaluate_coco(
            [Item(0, str(broken), "words")], options, place / "clip", SHORT, tmp_path / "out"
        )


def test_a_broken_picture_is_named(place: Path, options: dict[str, Any], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(RequestError, match=r"images: .*broken\.jpg is not a picture"):
        Scorer(options, place / "clip", SHORT).row(Item(0, str(broken), "words"))


class Here:
    """Stands for an actor: it works in this process, and its answers are there at once."""

    def __init__(self, kind: Callable[..., Scorer], *given: Any) -> None:
        scorer = kind(*given)
        self.row = SimpleNamespace(remote=scorer.row)
        self.provenance = SimpleNamespace(remote=scorer.provenance)


class Pool:
    """Ray's, for actors that are here. It is stopped after `most` rows."""

    most: int | None = None

    def __init__(self, actors: Sequence[Here]) -> None:
        self._actors = actors

    def map_unordered(self, work: Callable[[Here, Item], Row], items: Sequence[Item]) -> Any:
        for number, item in enumerate(items):
            if number == self.most:
                raise KeyboardInterrupt
            yield work(self._actors[0], item)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    actor = lambda kind: SimpleNamespace(remote=lambda *given: Here(kind, *given))  # noqa: E731
    monkeypatch.setattr(ray, "remote", lambda **_: actor)
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(ray.util, "ActorPool", Pool)


def test_a_stopped_evaluation_goes_on_with_what_it_began_with_alone(
    place: Path,
    options: dict[str, Any],
    tmp_path: Path,
    in_process: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = (items(place), options, place / "clip", SHORT, tmp_path)
    monkeypatch.setattr(Pool, "most", 2)
    with pytest.raises(KeyboardInterrupt):
        evaluate_coco(*given)
    monkeypatch.setattr(Pool, "most", None)
    began = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(began) == {"settings.json", "provenance.json", "rows.jsonl"}

    changed = json.loads(began["provenance.json"]) | {"device": "cuda:0"}
    changed["versions"] |= {"torch": "9"}
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "provenance", lambda _: changed)
        with pytest.raises(RequestError) as raised:
            evaluate_coco(*given)
    assert str(raised.value) == (
        f"out: {tmp_path} holds rows of another provenance, name another folder: "
        f"device was 'cpu' and is 'cuda:0', versions.torch was '{version('torch')}' and is '9'"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == began

    os.link(tmp_path / "rows.jsonl", tmp_path / "beside")  # as a stop while it is written leaves it
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(b"half a li")
    report = evaluate_coco(*given)
    assert (tmp_path / "beside").read_bytes().endswith(b"half a li"), "it is replaced, not cut"
    assert (tmp_path / "rows.jsonl").read_bytes().startswith(began["rows.jsonl"])
    assert report["pictures"] == 5
    assert report["provenance"] == json.loads(began["provenance.json"])


def test_rows_of_an_unknown_provenance_are_not_gone_on_with(
    place: Path, options: dict[str, Any], tmp_path: Path, in_process: None
) -> None:
    """Those of a version that wrote it at the end."""
    given = (items(place, 2), options, place / "clip", SHORT, tmp_path)
    evaluate_coco(*given)
    (tmp_path / "provenance.json").unlink()
    lines = (tmp_path / "rows.jsonl").read_text().splitlines(True)
    (tmp_path / "rows.jsonl").write_text(lines[0])
    with pytest.raises(RequestError, match=r"holds rows of another provenance.*device was None"):
        evaluate_coco(*given)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, "steps must be from 1 to 200, got 0"),
        ({"samples": 17}, "count must be from 1 to 16, got 17"),
        ({"seed": MAX_SEED - 2}, "seed must be"),
    ],
)
def test_a_protocol_that_cannot_be_drawn_leaves_its_folder_to_another(
    place: Path,
    options: dict[str, Any],
    tmp_path: Path,
    in_process: None,
    wrong: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(RequestError, match=said):
        evaluate_coco(
            items(place, 2), options, place / "clip", replace(SHORT, **wrong), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_loaded_leaves_its_folder_to_another(
    place: Path, options: dict[str, Any], tmp_path: Path, in_process: None
) -> None:
    given = (items(place, 1), place / "clip", SHORT, tmp_path)
    with pytest.raises(ModelError, match="model must be one of"):
        evaluate_coco(given[0], {"model": "sd0"}, *given[1:])
    assert evaluate_coco(given[0], options, *given[1:])["pictures"] == 1


@pytest.mark.parametrize(
    ("count", "gpus", "room"),
    [(8, 1, 2), (2, 2, 1), (5, 0.4, 4), (4, 0.4, None), (1, 2, None), (17, 0, 16), (16, 0, None)],
)
def test_workers_that_would_wait_without_an_end_are_refused(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    gpus: float,
    room: int | None,
) -> None:
    class Started(Exception):
        """An actor would be."""

    def remote(**_: object) -> None:
        raise Started

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 16.0, "GPU": 2.0})
    monkeypatch.setattr(ray, "remote", remote)
    with pytest.raises((RequestError, Started)) as raised:
        evaluate_coco(items(place), {}, place / "clip", SHORT, tmp_path, count, gpus)
    assert isinstance(raised.value, Started if room is None else RequestError)
    assert room is None or str(raised.value) == (
        f"workers: {count} with gpus {gpus} each do not fit: "
        f"Ray has 2 GPUs and 16 CPUs, which is room for {room}"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "captions: .* is no COCO captions file"),
        ('{"images": []}', "captions: .* is no COCO captions file: KeyError"),
        ('{"images": [], "annotations": []}', "has no picture with a caption"),
        (
            '{"images": [{"id": 1, "file_name": "x.jpg"}], '
            '"annotations": [{"image_id": 1, "caption": 7}]}',
            "is no COCO captions file: .*caption must be a text, got 7",
        ),
        (
            '{"images": [{"id": 1, "file_name": 8}], '
            '"annotations": [{"image_id": 1, "caption": "a"}]}',
            "is no COCO captions file: .*file_name must be a text, got 8",
        ),
        (
            '{"images": [{"id": 1, "file_name": "x"}, {"id": "b", "file_name": "y"}], '
            '"annotations": [{"image_id": 1, "caption": "a"}, {"image_id": "b", "caption": "b"}]}',
            "is no COCO captions file: TypeError",
        ),
        (
            '{"images": [{"id": 1, "file_name": "x.jpg"}], '
            '"annotations": [{"image_id": 1, "caption": "a"}]}',
            "images: 1 of 1 pictures are not in .*, such as x.jpg",
        ),
    ],
)
def test_a_collection_that_is_none(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "captions.json"
    path.write_text(content)
    with pytest.raises(RequestError, match=said):
        items_of(tmp_path, path)


def test_the_defaults_are_the_papers() -> None:
    assert Protocol() == Protocol(
        samples=4, steps=50, guidance=7.5, sampler="ddim", image_scale=1.0, seed=0
    )
    assert coco.CLIP_SCORE == 2.5
