"""The solids recipe: a text encoder that tells two solids apart, and reads all else as before."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.tabletop.scene import COLOURS
from ipadapter_demo.training.tabletop import solids
from ipadapter_demo.training.tabletop.latents import Frozen
from ipadapter_demo.training.tabletop.pictures import Pictures, rendered_pictures
from tests.shipped import few_steps, shipped_with_own


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return rendered_pictures(tmp_path_factory.mktemp("pictures"), 48)


def confuse_colours(folder: Path) -> None:
    """The tokens of the colours lie nearer to each other."""
    file = folder / "model.safetensors"
    weights, tokenizer = (
        load_file(file),
        CLIPTokenizer.from_pretrained(TABLETOP.folder / "tokenizer"),
    )
    tokens = [tokenizer(colour).input_ids[1] for colour in COLOURS]
    table = weights[next(name for name in weights if name.endswith("token_embedding.weight"))]
    mean = table[tokens].float().mean(dim=0)
    table[tokens] = (mean + 0.3 * (table[tokens].float() - mean)).to(table.dtype)
    save_file(weights, file, {"format": "pt"})


@pytest.fixture(scope="module")
def trained(
    pictures: Pictures, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[float, int], dict]:
    """The figures of some steps with a weight of what stays, from the built-in model with confused
    colours."""

    def train(kept: float, steps: int) -> dict:
        folder = tmp_path_factory.mktemp("solids")
        out = shipped_with_own("text_encoder", folder)
        confuse_colours(out / "text_encoder")
        run = few_steps(folder / "run", steps, batch=8, lr=1e-3)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(solids, "KEPT", kept)
            return solids.train_solids(run, pictures, pictures, out)

    return train


def test_before_the_first_step_nothing_differs(trained: Callable[[float, int], dict]) -> None:
    figures = trained(30.0, 0)
    assert figures["denoised"] == pytest.approx(1, abs=1e-4)
    assert figures["states"] < 1e-5
    assert figures["embeds"] < 1e-5


def test_two_solids_come_to_be_drawn_and_the_weight_keeps_other_texts(
    trained: Callable[[float, int], dict],
) -> None:
    free, held = trained(0.5, 20), trained(300.0, 20)
    assert free["denoised"] < 0.995
    assert held["states"] < 0.5 * free["states"]
    assert held["embeds"] < free["embeds"]


def test_a_text_of_two_is_the_whole_caption_or_colours_and_shapes(pictures: Pictures) -> None:
    rng, row = random.Random(0), int(solids._pairs(pictures)[0])
    texts = {solids._text_of_two(pictures, row, rng) for _ in range(20)}
    short, full = sorted(texts, key=len)
    assert len(short.split()) == 7
    assert short.split()[3] == "and"
    assert "floor" in full
    assert "wall" in full


def test_other_texts_name_no_two_solids(pictures: Pictures) -> None:
    assert torch.equal(solids._pairs(pictures), torch.nonzero(pictures.scenes.present[:, 1])[:, 0])
    model = Frozen.load(TABLETOP.folder, "cpu", with_image_encoder=False)
    texts = solids._other_texts(model, pictures, list(range(48)), random.Random(0))
    assert len(texts) == 48
    pairs = set(solids._pairs(pictures).tolist())
    for row, text in enumerate(texts[::2]):
        if 2 * row in pairs:
            assert not any(word in text for word in ("sphere", "cube", "cylinder", "cone"))
