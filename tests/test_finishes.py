"""Finishes: what they look like, what captions say of them, and the recipe that teaches them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.tabletop.caption import (
    FULL,
    RICH,
    Phrase,
    Said,
    caption,
    said_of,
    with_one_word_wrong,
    written,
)
from ipadapter_demo.tabletop.render import FIRST_SOLID, render
from ipadapter_demo.tabletop.scene import FINISHES, Scenes, sample_scenes, with_finishes
from ipadapter_demo.tabletop.wording import SYNONYMS, reworded
from ipadapter_demo.training.tabletop import finishes
from ipadapter_demo.training.tabletop.latents import Frozen
from ipadapter_demo.training.tabletop.pictures import TRAIN_SEED, Pictures, rendered_pictures
from tests.shipped import few_steps, shipped_with_own

SCENES = sample_scenes(48, seed=5)


def all_of(name: str) -> Scenes:
    return replace(SCENES, finish=torch.full_like(SCENES.finish, FINISHES.index(name)))


@pytest.fixture(scope="module")
def drawn() -> dict[str, Tensor]:
    return {name: render(all_of(name), size=64).pixels for name in FINISHES}


def test_solids_are_matte_unless_finishes_are_drawn() -> None:
    assert not SCENES.finish.any()
    several = with_finishes(SCENES, 1)
    assert set(several.finish.unique().tolist()) == {0, 1, 2}
    assert torch.equal(several.finish, with_finishes(SCENES, 1).finish)
    assert torch.equal(several.shape, SCENES.shape)
    assert several.truth(0)["solids"][0]["finish"] == FINISHES[several.finish[0, 0]]


def test_a_finish_changes_its_solid_and_nothing_else(drawn: dict[str, Tensor]) -> None:
    """Antialiased edges are of both."""
    solid = torch.nn.functional.max_pool2d(
        (render(SCENES, size=64).ids >= FIRST_SOLID).float(), 3, stride=1, padding=1
    ).bool()
    for name in ("glossy", "metal"):
        change = (drawn[name] - drawn["matte"]).abs().amax(dim=1)
        assert not change[~solid].any()
        assert ((change > 0.1) & solid).flatten(1).any(dim=1).all()


def test_glossy_solids_have_white_lights_and_metal_ones_dark_sides(
    drawn: dict[str, Tensor],
) -> None:
    solid = render(SCENES, size=64).ids >= FIRST_SOLID
    glossy, metal = (drawn[name] - drawn["matte"] for name in ("glossy", "metal"))
    assert glossy.amin() > -1e-4  # nothing becomes darker
    for pixels, mask in zip(metal, solid, strict=True):
        assert pixels[:, mask].amin() < -0.04
        assert pixels[:, mask].amax() > 0.04


def test_a_picture_with_finishes_does_not_depend_on_those_drawn_with_it() -> None:
    several = with_finishes(SCENES, 1)
    whole = render(several, size=32).pixels
    assert torch.equal(render(several[3:4], size=32).pixels[0], whole[3])


def test_captions_say_glossy_and_metal_and_leave_matte_to_be_understood() -> None:
    several = with_finishes(SCENES, 1)
    for index in range(len(SCENES)):
        text = caption(several, index, FULL, random.Random(0)).split()
        there = several.finish[index, : int(several.present[index].sum())].tolist()
        for name in ("glossy", "metal"):
            assert text.count(name) == there.count(FINISHES.index(name))
        assert "matte" not in text
        assert caption(SCENES, index, FULL, random.Random(0)).split() == [
            word for word in text if word not in FINISHES
        ]


def test_matte_is_said_as_often_as_a_style_wants_it() -> None:
    rng = random.Random(0)
    texts = [caption(SCENES, i % 48, replace(FULL, matte=0.25), rng) for i in range(960)]
    solids = sum(int(SCENES.present[i % 48].sum()) for i in range(960))
    assert sum(text.count("matte") for text in texts) / solids == pytest.approx(0.25, abs=0.04)


def test_other_words_keep_the_finish() -> None:
    several, rng = with_finishes(SCENES, 1), random.Random(0)
    for index in range(len(SCENES)):
        said = said_of(several, index, FULL, rng)
        text = reworded(said, rng, lambda text: True)
        finishes_said = {phrase.finish for phrase in said.solids if phrase.finish}
        words = {name: (name, *SYNONYMS.get(name, ())) for name in FINISHES}
        assert {name for name in FINISHES if any(word in text for word in words[name])} == (
            finishes_said
        )
        assert ("solid_finish" in said.named) == bool(said.solids[0].finish)


def test_a_wrong_caption_may_have_another_finish() -> None:
    rng = random.Random(0)
    wrong = {with_one_word_wrong("a metal solid", rng) for _ in range(30)}
    assert wrong == {"a matte solid", "a glossy solid"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return rendered_pictures(tmp_path_factory.mktemp("pictures"), 12)


@pytest.fixture(scope="module")
def trained(
    pictures: Pictures, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[float, int], dict[str, float]]:
    """The figures of some steps with a weight of what is to stay, from the built-in model."""

    def train(kept: float, steps: int) -> dict[str, float]:
        folder = tmp_path_factory.mktemp("finishes")
        out = shipped_with_own("unet", folder, "text_encoder")
        run = few_steps(folder / "run", steps, batch=4, lr=1e-4)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(finishes, "KEPT", kept)
            # few steps teach few pictures: it is asked of those that were learnt
            patched.setattr(finishes, "HELD_OUT_SEED", TRAIN_SEED)
            return finishes.train_finishes(run, pictures, pictures[:6], out)

    return train


def test_before_the_first_step_nothing_differs(
    trained: Callable[[float, int], dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishes, "STYLE", RICH)  # the word "matte" is new to the built-in model
    figures = trained(4.0, 0)
    assert figures["learnt"] == pytest.approx(1, abs=1e-4)
    assert figures["changed"] < 1e-6


def test_given_again_a_run_is_held_against_the_base_that_it_began_with(
    pictures: Pictures, tmp_path: Path
) -> None:
    out = shipped_with_own("unet", tmp_path, "text_encoder")
    run = few_steps(tmp_path / "run", 2, batch=4, lr=3e-4)
    first, again = (finishes.train_finishes(run, pictures, pictures[:6], out) for _ in range(2))
    assert again["changed"] == first["changed"] > 1e-5
    assert again["learnt"] == first["learnt"] != 1


def test_matte_is_left_out_where_a_text_would_be_cut() -> None:
    model = Frozen.load(TABLETOP.folder, "cpu", with_image_encoder=False)
    short = Said((Phrase("red", "", "cube", "matte"),))
    long = Said((Phrase("red" + " red" * 30, "", "cube", "matte"),))
    texts = finishes._texts(model, [short, long], False, torch.Generator())
    assert texts == [written(short), written(long).replace(" matte", "")]


def test_half_of_the_texts_are_in_free_words_for_learning_alone() -> None:
    model = Frozen.load(TABLETOP.folder, "cpu", with_image_encoder=False)
    said = [Said((Phrase("red", "plain", "sphere", "glossy"),))] * 40
    free = finishes._texts(model, said, True, torch.Generator())
    assert set(free[::2]) == {written(said[0])}
    assert len(set(free[1::2])) > 10
    assert set(finishes._texts(model, said, False, torch.Generator())) == {written(said[0])}


def test_finishes_are_learnt_and_the_base_of_before_keeps_the_rest(
    trained: Callable[[float, int], dict[str, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finishes, "STYLE", RICH)  # what is to stay is what was known before
    free, held = trained(0.0, 20), trained(40.0, 20)
    assert free["learnt"] < 0.97
    assert held["changed"] < 0.7 * free["changed"]
