"""Where the image prompt is heard: the weights are those that draw, and looking changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import ipadapter_demo as ip
from ipadapter_demo.adapter import AttentionRecorder, ImagePrompt
from ipadapter_demo.adapter.attention_maps import attention_weights
from ipadapter_demo.cli import main
from ipadapter_demo.imaging import tinted
from ipadapter_demo.pipeline import ImagePromptPipeline, Result
from ipadapter_demo.pipeline.conditioning.images import attention_maps
from ipadapter_demo.pipeline.conditions import TimedPrompt
from ipadapter_demo.request import GenerateRequest, Reference
from tests.tiny import box_mask, noise, picture

ONE, OTHER = Reference(image=picture(1)), Reference(image=picture(2))
REQUEST = GenerateRequest(prompt="a cube", references=(ONE,), guidance=3.0, steps=3, count=2)


def recorded(pipeline: ImagePromptPipeline, request: GenerateRequest) -> Result:
    *_, result = pipeline.stream(request, record_attention=True)
    assert isinstance(result, Result)
    return result


def test_the_weights_are_those_of_the_attention_that_draws() -> None:
    """Softmax of the product: applied to the values it gives what torch's attention gives."""
    query, key, value = (noise(seed, 2, 3, n, 8) for seed, n in ((1, 16), (2, 5), (3, 5)))
    weights = attention_weights(query, key)
    expected = F.scaled_dot_product_attention(query, key, value)
    assert torch.allclose(weights @ value, expected, atol=1e-6)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 3, 16))


def test_a_map_is_the_share_of_tokens_times_the_share_of_the_branch() -> None:
    recorder = AttentionRecorder((2, 2), (64, 64))
    query, key = noise(1, 1, 3, 64, 8), noise(2, 1, 3, 4, 8)
    text, image = noise(3, 1, 64, 24), noise(4, 1, 64, 24)
    for _ in range(2):  # a mean, so that the number of layers and steps does not matter
        recorder(query, key, text, image, (8, 8))
    weights = attention_weights(query, key).mean(1)[0]  # (64, 4)
    loud = image[0].norm(dim=-1) / (image[0].norm(dim=-1) + text[0].norm(dim=-1))
    expected = (weights[:, 2:].sum(1) * loud).view(1, 1, 8, 8)
    expected = F.interpolate(expected, (64, 64), mode="bilinear", align_corners=False)
    assert recorder.maps().shape == (1, 2, 64, 64)
    assert torch.allclose(recorder.maps()[:, 1:], expected, atol=1e-6)
    faint = AttentionRecorder((2, 2), (64, 64))
    faint(query, key, 1e-4 * text, 1e-4 * image, (8, 8))
    assert torch.allclose(faint.maps(), recorder.maps(), atol=1e-6)


def test_tiles_are_the_maps_of_each_layer_and_step() -> None:
    recorder = AttentionRecorder((4,), (64, 32))
    key, image = noise(2, 1, 3, 4, 8), noise(4, 1, 32, 24)
    for step in range(2):  # layer 1 never acts; text grows, so the share falls
        for layer in (0, 2):
            text = (1 + step) * (1 + layer) * image
            recorder(noise(1, 1, 3, 32, 8), key, text, image, (4, 8), layer)
    tiles, layers, steps = recorder.tiles()
    assert (layers, steps, tuple(tiles.shape)) == (3, 2, (1, 1, 3 * 8, 2 * 16))
    means = tiles.float().unflatten(2, (3, 8)).unflatten(4, (2, 16)).mean((3, 5))[0, 0] / 255
    expected = torch.tensor([[1 / 2, 1 / 3], [0, 0], [1 / 4, 1 / 7]])
    assert torch.allclose(means, expected, atol=1 / 255)


def test_a_map_has_the_shape_of_the_output_and_where_nothing_acts_it_is_zero() -> None:
    recorder = AttentionRecorder((4,), (640, 4))
    assert bool(recorder.is_empty) is True
    nothing = torch.zeros(1, 64, 24)
    recorder(noise(1, 1, 3, 64, 8), noise(2, 1, 3, 4, 8), nothing, nothing, (1, 64))
    assert bool(recorder.is_empty) is False
    assert recorder.maps().shape == (1, 1, 1, 64)
    assert not recorder.maps().any()


def test_where_a_reference_is_all_that_is_added_its_map_is_white() -> None:
    recorder = AttentionRecorder((4,), (64, 64))
    recorder(
        noise(1, 1, 3, 64, 8),
        noise(2, 1, 3, 4, 8),
        torch.zeros(1, 64, 24),
        noise(4, 1, 64, 24),
        (8, 8),
    )
    prompt = ImagePrompt(rows=slice(0, 1), tokens=noise(2, 1, 4, 24), scale=1.0, recorder=recorder)
    [[amount]] = attention_maps([TimedPrompt((0.0, 1.0), prompt)], 1)
    assert amount.getextrema() == (255, 255)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    "references",
    [
        (ONE,),
        (ONE, OTHER),
        (ONE, replace(OTHER, mask=box_mask((0, 0, 32, 64)))),
    ],
)
def test_looking_changes_no_pixel(
    pipeline: ImagePromptPipeline, guidance: float, references: Any
) -> None:
    request = replace(REQUEST, references=references, guidance=guidance)
    result, unseen = recorded(pipeline, request), pipeline.generate(request)
    assert all(np.array_equal(a, b) for a, b in zip(result.images, unseen.images, strict=True))
    assert unseen.attention_maps == ()
    assert [len(maps) for maps in result.attention_maps] == [len(references)] * 2
    assert {m.size for maps in result.attention_maps for m in maps} == {(64, 64)}
    assert [len(tiles) for tiles in result.attention_tiles] == [len(references)] * 2
    assert {t.steps for tiles in result.attention_tiles for t in tiles} == {request.steps}


def test_a_reference_of_one_image_is_heard_there_and_a_silent_one_nowhere(
    pipeline: ImagePromptPipeline,
) -> None:
    result = recorded(pipeline, replace(REQUEST, references=(replace(ONE, only_image=1),)))
    assert [len(maps) for maps in result.attention_maps] == [0, 1]
    assert recorded(pipeline, replace(REQUEST, image_scale=0.0)).attention_maps == ()


def test_a_mask_is_seen_in_the_map(pipeline: ImagePromptPipeline) -> None:
    masked = replace(ONE, mask=box_mask((0, 0, 32, 64)))
    [[amount]] = recorded(pipeline, replace(REQUEST, references=(masked,), count=1)).attention_maps
    values = np.asarray(amount, dtype=float)
    assert values[:, :24].mean() > 10 * max(1.0, values[:, 40:].mean())


def test_louder_is_brighter(pipeline: ImagePromptPipeline) -> None:
    means = []
    for scale in (0.2, 1.0):
        [[amount]] = recorded(pipeline, replace(REQUEST, image_scale=scale, count=1)).attention_maps
        means.append(np.asarray(amount, dtype=float).mean())
    assert means[1] > 1.5 * means[0]


def test_tinted_is_between_the_colour_and_a_third_of_its_grey() -> None:
    image = Image.new("RGB", (5, 1), (254, 254, 254))
    amount = Image.new("L", (5, 1))
    amount.putdata([10, 20, 35, 48, 60])  # stretched: 0, 51, 128, 194, 255
    shown = tinted(image, amount)
    assert [pixel[0] for pixel in shown.get_flattened_data()] == [84, 118, 169, 213, 254]
    amount.putdata([8, 8, 8, 8, 7])
    shown = tinted(image, amount)
    assert [pixel[0] for pixel in shown.get_flattened_data()] == [254, 254, 254, 254, 84]


def test_tinted_keeps_what_is_heard_and_darkens_the_rest() -> None:
    image = Image.new("RGB", (64, 64), (200, 40, 40))
    amount = Image.new("L", (2, 1))
    amount.putpixel((1, 0), 30)
    shown = tinted(image, amount)
    assert shown.getpixel((63, 32)) == (200, 40, 40)
    left = shown.getpixel((0, 32))
    assert max(left) - min(left) <= 2  # type: ignore[arg-type, type-var, operator]


def test_on_the_command_line(
    pipeline: ImagePromptPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(1).save("R.png")
    picture(2).save("S.png")
    words = "generate --reference R.png --reference S.png --count 2 --steps 2 --seed 3 --out"
    for out, more in (("with", ["--attention-maps"]), ("without", [])):
        assert main([*words.split(), out, *more], lambda *_, **__: pipeline) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("attention_maps") for line in lines] == [
        ["with/3-attention-1.png", "with/3-attention-2.png"],
        ["with/4-attention-1.png", "with/4-attention-2.png"],
        None,
        None,
    ]
    request = ip.request_from_png("with/3.png")
    expected = recorded(pipeline, request)
    for index, line in enumerate(lines[:2]):
        for path, amount in zip(
            line["attention_maps"], expected.attention_maps[index], strict=True
        ):
            drawn = tinted(expected.images[index], amount)
            assert np.array_equal(np.asarray(Image.open(path)), np.asarray(drawn))
    for seed in (3, 4):
        one, other = (Path(out, f"{seed}.png").read_bytes() for out in ("with", "without"))
        assert one == other
