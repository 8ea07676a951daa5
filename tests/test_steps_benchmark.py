"""`benchmarks.steps` in miniature: what its table says, and how a stopped run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import save_file

from benchmarks.curve import draw, points
from benchmarks.steps import TABS, Timed, main, parsed, settings
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.request import GenerateRequest, Inpaint
from tests.test_request_loras import kohya
from tests.tiny import box_mask, picture

ARGUMENTS = ("--scenes", "2", "--tabs", "variation,inpainting", "--steps", "1,2", "--passes", "2")


def cells(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["cells"]


def rows(printed: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in printed.splitlines()]


def test_a_stopped_run_goes_on_cell_by_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "steps.json"
    main([*ARGUMENTS, "--out", str(out)])
    heads, _, *values = rows(capsys.readouterr().out)
    assert heads[:5] == ["Steps", "Passes", "Variation", "Inpainted solid", "Seam error"]
    assert [row[:2] for row in values] == [["1", "2"], ["2", "2"]]
    whole = json.loads(out.read_text())
    assert [(c["tab"], c["steps"]) for c in whole["cells"]] == [
        ("variation", 1),
        ("inpainting", 1),
        ("variation", 2),
        ("inpainting", 2),
    ]
    assert all(0 <= c["result"]["mean"] <= 1 for c in whole["cells"] if c["tab"] == "variation")
    assert all(c["cpu_seconds_a_picture"] > 0 for c in whole["cells"])

    # a cell that is there is read, one that is missing is drawn: to the same figures
    lost = whole["cells"].pop()
    whole["cells"][0]["result"]["mean"] = 0.123
    out.write_text(json.dumps(whole))
    main([*ARGUMENTS, "--out", str(out)])
    assert rows(capsys.readouterr().out)[2][2] == "12.3 %"
    assert cells(out)[-1]["result"] == lost["result"]

    with pytest.raises(SystemExit, match="name another file"):
        main([*ARGUMENTS, "--out", str(out), "--seed", "5"])


def test_a_model_with_other_defaults_is_measured_into_another_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that is not given is the model's own, which a cell does not say."""
    out = tmp_path / "steps.json"
    arguments = ["--scenes", "1", "--tabs", "text", "--steps", "1", "--out", str(out)]
    main(arguments)
    whole = json.loads(out.read_text())
    assert whole["recommended"]["guidance"] == TABLETOP.recommended.guidance
    whole["recommended"]["guidance"] += 1
    out.write_text(json.dumps(whole))
    with pytest.raises(SystemExit, match="has other scenes, defaults, weights or versions"):
        main(arguments)


def test_loras_are_a_column_and_each_is_known_by_its_sum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_q"
    file = tmp_path / "few.safetensors"
    out = tmp_path / "steps.json"
    choices = ("--lora", "none", "--lora", f"{file}:0.5")
    arguments = ("--scenes", "1", "--tabs", "text", "--steps", "1", "--sampler", "lcm", *choices)
    for seed in (1, 2):
        save_file(kohya(layer, 96, None, seed), file)
        main([*arguments, "--guidance", "1", "--out", str(out)])
    printed = rows(capsys.readouterr().out)
    assert printed[0][:4] == ["Sampler", "Steps", "Guidance", "Loras"]
    assert [row[3] for row in printed[2:4]] == ["none", "few:0.5"]
    # "none" was not drawn again; the file that is another was
    assert [c["loras"] for c in cells(out)] == [[], ["few:0.5"], ["few:0.5"]]
    none, first, second = (c["lora_weights"] for c in cells(out))
    assert none == {}
    assert list(first) == list(second) == ["lora/few"]
    assert first != second


def test_every_tab_is_drawn_under_the_values_given() -> None:
    arguments = parsed(
        [
            "--out",
            "x",
            "--steps",
            "4",
            "--guidance",
            "1,2",
            "--passes",
            "3",
            "--guidance-window",
            "0:0.5,0.2:0.8",
            "--size",
            "96",
            "--context",
            "0.25",
        ]
    )
    assert arguments.tabs == list(TABS)
    asked: list[GenerateRequest] = []
    draw = Timed(
        lambda requests: asked.extend(requests) or [picture(1) for _ in requests],
        settings(arguments)[3],
    )
    request = GenerateRequest(
        guidance=3.0,
        sampler="ddim",
        inpaint=Inpaint(image=picture(1), mask=box_mask((8, 8, 40, 40))),
    )
    words = GenerateRequest(prompt="a cube")
    draw([request, words])
    assert (asked[1].width, asked[1].height) == (96, 96)
    assert asked[0].width is None, "of inpainting it is the picture that has this size"
    assert asked[0].inpaint.context == 0.25
    assert (asked[0].steps, asked[0].guidance, asked[0].sampler) == (4, 2.0, "ddim")
    assert (asked[0].inpaint.repaint_passes, asked[0].guidance_window) == (3, (0.2, 0.8))
    assert draw.pictures == 2


def test_an_unknown_tab_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(["--out", "x", "--tabs", "text,style"])
    assert "inpainting" in capsys.readouterr().err


def test_a_curve_has_a_point_for_each_number_of_steps(tmp_path: Path) -> None:
    def cell(tab: str, steps: int, result: object) -> dict[str, Any]:
        return {
            "tab": tab,
            "steps": steps,
            "guidance": 1.0 if tab == "edges" else 2.0,
            "guidance_window": "0:0.5",
            "result": result,
        }

    results: dict[str, object] = {
        "text": {"mean": 0.9},
        "variation": {"mean": 0.8},
        "image+text": {"solid_of_reference": {"mean": 0.7}},
        "edges": {"edge_f1": 0.6},
    }
    found = [cell(tab, steps, result) for steps in (8, 1) for tab, result in results.items()]
    assert points(found, "image+text", "solid_of_reference") == [(1, 0.7, 1), (12, 0.7, 8)]
    assert points(found, "edges", "edge_f1") == [(1, 0.6, 1), (8, 0.6, 8)]
    draw({"a": found, "b": found[:4]}, tmp_path / "curve.webp")
    with Image.open(tmp_path / "curve.webp") as figure:
        assert figure.size == (1344, 1024)
