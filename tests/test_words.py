"""The words recipe: what attention makes of texts, and a text encoder that learns other words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from ipadapter_demo.adapter import cross_attention_layers
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.tabletop.wording import other_words
from ipadapter_demo.training.run import Run
from ipadapter_demo.training.tabletop.latents import Frozen, frozen_unet
from ipadapter_demo.training.tabletop.pictures import rendered_pictures
from ipadapter_demo.training.tabletop.queries import QUERIES, Queries, recorded_queries
from ipadapter_demo.training.tabletop.words import train_words
from tests.shipped import shipped_with_own


def test_a_difference_is_that_of_the_layers_outputs() -> None:
    unet = frozen_unet(TABLETOP.folder, "cpu")
    layers = list(cross_attention_layers(unet).values())
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    hidden = [normal(3, 5, layer.to_q.in_features) for layer in layers]
    asked = [layer.to_q(each).detach() for layer, each in zip(layers, hidden, strict=True)]
    rows, states, wanted = torch.tensor([2, 0]), normal(2, 32, 192), normal(2, 32, 192)
    expected = []
    with torch.no_grad():
        for layer, each in zip(layers, hidden, strict=True):
            ours, theirs = layer(each[rows], states), layer(each[rows], wanted)
            spread = (theirs - theirs.mean(dim=0)).square().mean()
            expected.append((ours - theirs).square().mean() / spread)
    queries = Queries(layers, asked)
    assert len(queries) == 3
    found = queries.difference(rows, states, wanted)
    torch.testing.assert_close(found, torch.stack(expected).mean())
    assert queries.difference(rows, wanted, wanted) == 0


def test_queries_are_recorded_in_every_layer_and_the_unet_is_left_as_it_was(
    tmp_path: Path,
) -> None:
    unet = frozen_unet(TABLETOP.folder, "cpu")
    frozen = Frozen.load(TABLETOP.folder, "cpu", with_image_encoder=False)
    pictures = rendered_pictures(tmp_path, 3)
    found = recorded_queries(unet, frozen, pictures, tmp_path)
    assert len(found) == 3
    for layer, recorded in zip(found.layers, found.recorded, strict=True):
        assert recorded.shape == (3, QUERIES, layer.to_q.out_features)
        assert recorded.float().std() > 0.1
        assert not layer.to_q._forward_hooks


def forget_other_words(folder: Path) -> None:
    """The tokens of synonyms get the embedding of a word that is no synonym."""
    file = folder / "model.safetensors"
    weights, tokenizer = (
        load_file(file),
        CLIPTokenizer.from_pretrained(TABLETOP.folder / "tokenizer"),
    )
    words = other_words()
    known = tokenizer(" ".join(words)).input_ids
    others = tokenizer([other for each in words.values() for other in each]).input_ids
    forgotten = {token for text in others for token in text} - set(known)
    table = next(name for name in weights if name.endswith("token_embedding.weight"))
    weights[table][sorted(forgotten)] = weights[table][tokenizer("a").input_ids[1]].clone()
    save_file(weights, file, {"format": "pt"})


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Before and after 40 steps, on the built-in model without its other words."""
    folder = tmp_path_factory.mktemp("words")
    out = shipped_with_own("text_encoder", folder)
    forget_other_words(out / "text_encoder")
    pictures = rendered_pictures(folder, 48)
    run = Run(
        folder=folder / "one",
        steps=1,
        batch=16,
        lr=1e-9,
        warmup=0,
        precision="no",
        preview_every=0,
    )
    before = train_words(run, pictures[:32], pictures[32:], out)
    longer = dataclasses.replace(run, folder=folder / "forty", steps=40, lr=5e-4, ema=0.0)
    return [before, train_words(longer, pictures[:32], pictures[32:], out)]


def test_other_words_come_to_be_read_as_their_captions(figures: list[dict]) -> None:
    before, after = figures
    assert before["free"] > 0.3
    assert after["free"] < 0.8 * before["free"]
    assert after["free_embeds"] < before["free_embeds"]


def test_captions_are_read_as_before(figures: list[dict]) -> None:
    before, after = figures
    assert before["caption"] < 1e-5
    assert after["caption"] < 0.1
    assert after["caption_embeds"] < 0.1
