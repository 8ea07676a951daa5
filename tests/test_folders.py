"""Every picture of a folder as a reference: resumable, each result as it would be alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import ipadapter_demo as ip
from ipadapter_demo.cli import main
from ipadapter_demo.errors import RequestError
from ipadapter_demo.folders import MANIFEST, FolderRun
from ipadapter_demo.imaging import read_image
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.record import record_from_png, request_from_png
from ipadapter_demo.request import GenerateRequest, Reference
from tests.tiny import box_mask, picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them in a folder, a file that is damaged and two that are none."""
    given = tmp_path / "given"
    (given / "more").mkdir(parents=True)
    (given / ".cache").mkdir()
    for seed, name in enumerate(
        ("a.png", "a.jpg", "more/b.webp", ".hidden.png", ".cache/c.png"), 1
    ):
        picture(seed).save(given / name)
    (given / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (given / "notes.txt").write_text("no picture")
    return given


def request(**how: Any) -> GenerateRequest:
    return GenerateRequest(references=(Reference(image=picture(9)),), steps=2, seed=7, **how)


def manifest(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]


def test_each_picture_is_drawn_as_alone(
    folder: Path, tmp_path: Path, pipeline: ImagePromptPipeline
) -> None:
    out = tmp_path / "out"
    lines = list(ip.draw_folder(pipeline, request(count=2, prompt="a cube"), folder, out))
    assert manifest(out) == lines
    drawn = [(line["reference"], line["path"], line["seed"]) for line in lines if "path" in line]
    assert drawn == [
        (name, f"{name}-{seed}.png", seed)
        for name in ("a.jpg", "a.png", "more/b.webp")
        for seed in (7, 8)
    ]
    for name, path, seed in drawn:
        record = record_from_png(out / path)
        assert (record.seed, record.request.prompt) == (seed, "a cube")
        assert record.request.references[0] == Reference(image=read_image(folder / name))
        alone = pipeline.generate(record.request).images[record.index]
        assert read_image(out / path).tobytes() == alone.tobytes()
    [failed] = [line for line in lines if "error" in line]
    assert failed["reference"] == "broken.png"
    assert failed["error"].startswith("broken.png is ")


def test_what_is_there_is_not_drawn_again(
    folder: Path, tmp_path: Path, pipeline: ImagePromptPipeline
) -> None:
    out = tmp_path / "out"
    (folder / "broken.png").unlink()
    first = ip.draw_folder(pipeline, request(), folder, out)
    assert next(first)["reference"] == "a.jpg"
    first.close()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    rest = list(ip.draw_folder(pipeline, request(), folder, out))
    assert [line["reference"] for line in rest] == ["a.png", "more/b.webp"]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert list(ip.draw_folder(pipeline, request(), folder, out)) == []

    # another picture of the name, a result that is gone, and other settings
    picture(8).save(folder / "a.png")
    (out / "a.jpg-7.png").unlink()
    again = list(ip.draw_folder(pipeline, request(), folder, out))
    assert [line["path"] for line in again] == ["a.jpg-7.png", "a.png-7-2.png"]
    other = list(ip.draw_folder(pipeline, request(image_scale=0.5), folder, out))
    assert len(other) == 3
    assert request_from_png(out / "more/b.webp-7.png").image_scale == 1.0
    assert request_from_png(out / "more/b.webp-7-2.png").image_scale == 0.5


def test_a_run_that_was_killed_leaves_nothing_double(
    folder: Path, tmp_path: Path, pipeline: ImagePromptPipeline
) -> None:
    """Killed after a result was written and before it was listed, and within a line."""
    out = tmp_path / "out"
    (folder / "broken.png").unlink()
    lines = list(ip.draw_folder(pipeline, request(), folder, out))
    text = (out / MANIFEST).read_bytes()
    (out / MANIFEST).write_bytes(text[:-40])
    picture(1).save(out / "a.png-7.png")  # listed, so it stays as it is
    again = list(ip.draw_folder(pipeline, request(), folder, out))
    assert [line["path"] for line in again] == ["more/b.webp-7.png"]
    assert [line["path"] for line in manifest(out)] == [line["path"] for line in lines]
    picture(1).save(out / "d.jpg-7.png")  # nobody's result, so it stays as well
    picture(5).save(folder / "d.jpg")
    [line] = ip.draw_folder(pipeline, request(), folder, out)
    assert line["path"] == "d.jpg-7-2.png"


def test_the_folder_may_stand_beside_other_references(
    folder: Path, tmp_path: Path, pipeline: ImagePromptPipeline
) -> None:
    style = Reference(image=picture(8), weight=0.5)
    mixed = GenerateRequest(
        references=(style, Reference(image=picture(9), mask=box_mask((0, 0, 32, 64)))), steps=2
    )
    lines = list(ip.draw_folder(pipeline, mixed, folder, tmp_path / "out", at=1))
    first, second = request_from_png(tmp_path / "out" / lines[0]["path"]).references
    assert first == style
    assert second.mask == box_mask((0, 0, 32, 64))
    assert second.image == Reference(image=read_image(folder / "a.jpg")).image


@pytest.mark.parametrize(
    ("asked", "at"),
    [(GenerateRequest(steps=2), 0), (request(), 1), (request(), -1)],
)
def test_a_reference_that_is_not_there_is_named(
    folder: Path, tmp_path: Path, pipeline: ImagePromptPipeline, asked: GenerateRequest, at: int
) -> None:
    count = len(asked.references)
    said = f"at must be the number of one of the request's {count} references, from 0, got {at}"
    with pytest.raises(RequestError, match=said):
        list(ip.draw_folder(pipeline, asked, folder, tmp_path / "out", at))
    assert not (tmp_path / "out").exists()


def test_what_is_hidden_from_the_encoder_is_so_in_each_picture_of_its_proportions(
    tmp_path: Path, pipeline: ImagePromptPipeline
) -> None:
    folder, hidden = tmp_path / "given", box_mask((0, 0, 48, 64), 96, 64)
    folder.mkdir()
    picture(1, 96, 64).save(folder / "a.png")
    picture(2, 64, 64).save(folder / "b.png")
    given = Reference(image=picture(9, 96, 64), clip_mask=hidden)
    asked = GenerateRequest(references=(given,), steps=2)
    drawn, failed = ip.draw_folder(pipeline, asked, folder, tmp_path / "out")
    first = request_from_png(tmp_path / "out" / str(drawn["path"])).references[0]
    assert first == Reference(image=picture(1, 96, 64), clip_mask=hidden)
    assert failed["error"] == (
        "reference.clip_mask must have the proportions of the picture, 64x64, got 96x64"
    )


def test_results_within_the_folder_are_no_references(
    folder: Path, pipeline: ImagePromptPipeline
) -> None:
    out = folder / "out"
    count = len(list(ip.draw_folder(pipeline, request(), folder, out)))
    (folder / "broken.png").unlink()
    assert count == 4
    assert list(ip.draw_folder(pipeline, request(), folder, out)) == []
    with pytest.raises(RequestError, match="out must be another folder"):
        list(ip.draw_folder(pipeline, request(), folder, folder))


def test_a_folder_without_pictures_and_a_damaged_manifest_are_explained(
    tmp_path: Path, pipeline: ImagePromptPipeline
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"empty holds no picture: a file named \.png, \.jpg"):
        list(ip.draw_folder(pipeline, request(), tmp_path / "empty", tmp_path / "out"))
    (tmp_path / MANIFEST).write_text("{]\n")
    with pytest.raises(RequestError, match=f"{MANIFEST} is damaged"):
        FolderRun(request(), 0, tmp_path)


def test_on_the_command_line(
    folder: Path,
    tmp_path: Path,
    pipeline: ImagePromptPipeline,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(8).save("S.png")

    def run(*words: str) -> int:
        return main(["generate", "--steps", "2", "--out", "out", *words], lambda *_, **__: pipeline)

    words = ("--reference", "S.png", "--reference", "given")
    weights = ("--reference-weight", "0.5", "--reference-weight", "1")
    assert run(*words, *weights) == 2
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["reference"] for line in lines if "path" in line] == [
        "a.jpg",
        "a.png",
        "more/b.webp",
    ]
    assert "1 of the pictures in given could not be drawn" in err
    first, second = request_from_png(tmp_path / "out/a.png-0.png").references
    assert (first.image, first.weight) == (picture(8), 0.5)
    assert (second.image, second.weight) == (picture(1), 1.0)
    (folder / "broken.png").unlink()
    assert run(*words, *weights) == 0
    assert capsys.readouterr().out == ""
    assert run("--reference", "given", "--negative-noise", "0", "--seed", "5") == 0
    first, second = request_from_png(tmp_path / "out/a.png-5.png").references
    assert first.image == second.image == picture(1), "each picture, and none that stands for it"
    capsys.readouterr()
    assert run("--reference", "given", "--reference", "given") == 2
    assert "--reference may name one folder, got 2" in capsys.readouterr().err
