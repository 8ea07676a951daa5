"""Words for tabletop scenes: what a caption can say is less than what a picture shows.

Exact hue, second colour, size, texture scale and light have no words here: only an image prompt
can carry them. Solids are named from left to right. A solid whose finish is not said is matte.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ipadapter_demo.tabletop.scene import COLOURS, FINISHES, SHAPES, TEXTURES, Scenes


@dataclass(frozen=True, slots=True)
class CaptionStyle:
    """Shares of captions that stay silent: altogether, about one attribute, a surface, the solids.

    Without captions silent about the solids, "on a green checkered floor" would begin as no
    training caption does, and mean nothing to the base.
    """

    empty: float
    attribute: float
    surface: float
    solids: float
    matte: float = 0.0  # the share of matte solids that are called so


FULL = CaptionStyle(empty=0.0, attribute=0.0, surface=0.0, solids=0.0)
# teaches the base what words mean
RICH = CaptionStyle(empty=0.0, attribute=0.1, surface=0.15, solids=0.1)
# leaves the picture something to say
POOR = CaptionStyle(empty=0.5, attribute=0.5, surface=0.5, solids=0.2)


@dataclass(frozen=True, slots=True)
class Phrase:
    """The words for one thing; "" for what is not said, and the noun "solid" for no shape."""

    colour: str
    texture: str
    noun: str
    finish: str = ""  # of solids: "" is matte

    @property
    def adjectives(self) -> tuple[str, ...]:
        return tuple(word for word in (self.colour, self.texture, self.finish) if word)


@dataclass(frozen=True, slots=True)
class Said:
    """All that a caption says: the solids from left to right, the floor and the wall."""

    solids: tuple[Phrase, ...] = ()
    floor: Phrase | None = None
    wall: Phrase | None = None

    @property
    def named(self) -> frozenset[str]:
        """The attributes that it names: count, solid_shape, ..., wall_colour."""
        things = dict(zip(("solid", "second"), self.solids, strict=False))
        things |= {phrase.noun: phrase for phrase in (self.floor, self.wall) if phrase}
        names = {"count"} if self.solids else set()
        for thing, phrase in things.items():
            kinds = {
                "colour": phrase.colour,
                "texture": phrase.texture,
                "finish": phrase.finish,
                "shape": phrase.noun in SHAPES,
            }
            names |= {f"{thing}_{kind}" for kind, said in kinds.items() if said}
        return frozenset(names)


def said_of(scenes: Scenes, index: int, style: CaptionStyle, rng: random.Random) -> Said:
    """As much of a scene as the style says."""
    if rng.random() < style.empty:
        return Said()

    def said(word: str) -> str:
        return "" if rng.random() < style.attribute else word

    solids: list[Phrase] = []
    silent = rng.random() < style.solids
    for slot in range(0 if silent else int(scenes.present[index].sum())):
        noun = said(SHAPES[scenes.shape[index, slot]]) or "solid"
        colour = said(COLOURS[scenes.colour[index, slot]])
        texture = said(TEXTURES[scenes.texture[index, slot]])
        finish = FINISHES[scenes.finish[index, slot]]
        if finish == "matte" and (style.matte == 0 or rng.random() >= style.matte):
            finish = ""
        solids.append(Phrase(colour, texture, noun, finish))
    floor = wall = None
    if rng.random() >= style.surface:
        colour = said(COLOURS[scenes.floor_colour[index]])
        texture = said(TEXTURES[scenes.floor_texture[index]])
        floor = Phrase(colour, texture, "floor")
    if rng.random() >= style.surface:
        wall = Phrase(COLOURS[scenes.wall_colour[index]], "", "wall")
    return Said(tuple(solids), floor, wall)


def written(said: Said) -> str:
    """A caption, e.g. "a red striped sphere and a blue plain cube on a green checkered floor with a
    teal wall"."""
    parts = [" and ".join(map(_noun_phrase, said.solids))]
    if said.floor is not None:
        parts.append(f"on {_noun_phrase(said.floor)}")
    if said.wall is not None:
        parts.append(f"with {_noun_phrase(said.wall)}")
    return " ".join(part for part in parts if part)


def caption(scenes: Scenes, index: int, style: CaptionStyle, rng: random.Random) -> str:
    """One caption of a scene."""
    return written(said_of(scenes, index, style, rng))


def floor_caption(scenes: Scenes, index: int) -> str:
    """Names the floor and nothing else, e.g. "on a green checkered floor"."""
    colour = COLOURS[scenes.floor_colour[index]]
    texture = TEXTURES[scenes.floor_texture[index]]
    return written(Said(floor=Phrase(colour, texture, "floor")))


def with_one_word_wrong(text: str, rng: random.Random) -> str:
    """A caption that no longer fits: one colour, texture, finish or shape replaced by another of
    its kind.

    Each kind is as likely as the others, however many words of it there are.
    """
    words = text.split()
    places = [
        (kind, i)
        for kind in (COLOURS, TEXTURES, FINISHES, SHAPES)
        for i, word in enumerate(words)
        if word in kind
    ]
    if not places:
        return text
    chosen = rng.choice(sorted({kind for kind, _ in places}))
    place = rng.choice([i for kind, i in places if kind == chosen])
    words[place] = rng.choice([word for word in chosen if word != words[place]])
    return " ".join(words)


def vocabulary() -> tuple[str, ...]:
    """Every word a caption may contain."""
    words = ("a", "an", "and", "on", "with", "solid", "floor", "wall")
    return (*words, *COLOURS, *TEXTURES, *FINISHES, *SHAPES)


def _noun_phrase(phrase: Phrase) -> str:
    words = " ".join((*phrase.adjectives, phrase.noun))
    return f"{article(words)} {words}"


def article(words: str) -> str:
    """The one that stands before them."""
    return "an" if words[0] in "aeiou" else "a"
