"""Other words say the same: nothing is lost, nothing is added, and left stays left."""

from __future__ import annotations

import json
import random
import re

import pytest
from transformers import CLIPTokenizer

from ipadapter_demo.evaluation.hand_written import PROMPTS, named_attributes
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.pipeline.warnings import JOINING
from ipadapter_demo.tabletop.caption import FULL, RICH, CaptionStyle, Phrase, Said, said_of, written
from ipadapter_demo.tabletop.scene import COLOURS, SHAPES, TEXTURES, sample_scenes
from ipadapter_demo.tabletop.wording import PATTERNS, SYNONYMS, other_words, reworded

SCENES = sample_scenes(400, seed=21)
WORDS = (*COLOURS, *TEXTURES, *SHAPES, "floor", "wall")


def always(text: str) -> bool:
    return True


def count_of(word: str, text: str) -> int:
    """How often a text says what a word of the captions says."""
    ways = {word, *SYNONYMS.get(word, ()), *(f"with {p}" for p in PATTERNS.get(word, ()))}
    longest_first = sorted(ways, key=len, reverse=True)
    return len(re.findall(rf"\b(?:{'|'.join(longest_first)})(?:e?s)?\b(?!-)", text))


@pytest.mark.parametrize("style", [FULL, RICH], ids=["full", "rich"])
def test_other_words_say_all_that_the_caption_says_and_nothing_else(style: CaptionStyle) -> None:
    rng = random.Random(0)
    for index in range(len(SCENES)):
        said = said_of(SCENES, index, style, rng)
        text = reworded(said, rng, always)
        plural = re.search(r"\b(two|2|a pair of)\b", text)
        for word in WORDS:
            expected = written(said).split().count(word)
            if plural and word in written(Said(said.solids[:1])).split():
                expected -= 1
            assert count_of(word, text) == expected, (word, written(said), text)


def test_the_solid_on_the_left_stays_there() -> None:
    rng = random.Random(0)
    left, right = Phrase("red", "", "cube"), Phrase("blue", "", "cone")
    orders = set()
    for _ in range(400):
        text = reworded(Said((left, right)), rng, always)
        red = re.search(r"red|crimson|scarlet", text)
        blue = re.search(r"blue", text)
        assert red
        assert blue
        right_first = re.search(r"right of|right.*left", text) is not None
        assert (blue.start() < red.start()) == right_first, text
        orders.add(right_first)
    assert orders == {True, False}


def test_two_alike_may_be_one_plural() -> None:
    rng = random.Random(0)
    two = Said((Phrase("red", "striped", "cube"),) * 2)
    texts = [reworded(two, rng, always) for _ in range(100)]
    plurals = [text for text in texts if re.match(r"(two|2|a pair of|.* of two) ", text)]
    assert 40 < len(plurals) < 95
    assert all(re.search(r"(cubes|boxes|blocks)\b", text) for text in plurals)


def test_a_text_that_does_not_fit_gives_way_to_the_caption() -> None:
    rng = random.Random(0)
    said = said_of(SCENES, 0, FULL, rng)
    assert reworded(said, rng, lambda text: False) == written(said)
    limit = len(written(said)) + 4
    texts = [reworded(said, rng, lambda text: len(text) <= limit) for _ in range(50)]
    assert max(map(len, texts)) <= limit
    assert len(set(texts)) > 20
    assert reworded(Said(), rng, always) == ""


def test_what_a_caption_names() -> None:
    said = Said(
        (Phrase("red", "", "cube"), Phrase("", "plain", "solid")), wall=Phrase("teal", "", "wall")
    )
    assert said.named == {
        "count",
        "solid_colour",
        "solid_shape",
        "second_texture",
        "wall_colour",
    }
    assert Said(floor=Phrase("", "dotted", "floor")).named == {"floor_texture"}


def test_the_hand_written_prompts_are_read_to_their_end() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(TABLETOP.folder / "tokenizer")
    assert len({text for text, *_ in PROMPTS}) == 50
    for text, *said in PROMPTS:
        assert len(tokenizer(text).input_ids) <= tokenizer.model_max_length, text
        assert named_attributes(*said), text


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def test_the_page_knows_every_word_that_the_texts_are_written_in() -> None:
    known = {*TABLETOP.words, *JOINING, *TABLETOP.synonyms}
    rng = random.Random(0)
    for index in range(len(SCENES)):
        text = reworded(said_of(SCENES, index, RICH, rng), rng, always)
        assert set(words_of(text)) <= known, text
    for text, *_ in PROMPTS:
        assert set(words_of(text)) <= known, text


def test_the_words_in_the_folder_are_those_of_the_texts() -> None:
    assert json.loads((TABLETOP.folder / "synonyms.json").read_text()) == other_words()
