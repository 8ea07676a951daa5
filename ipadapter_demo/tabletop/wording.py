"""What a caption says, in the many ways in which people say it.

Other words for the same things, in any order, as phrases, lists and sentences, with articles or
without, and the places of two solids said outright. A tokenizer that knows the captions' words only
spells all others, so long texts may not fit: whoever asks says what does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ipadapter_demo.tabletop.caption import Phrase, Said, article, written
from ipadapter_demo.tabletop.scene import SHAPES

SYNONYMS: dict[str, tuple[str, ...]] = {
    "sphere": ("ball", "ball", "orb", "globe"),
    "cube": ("box", "box", "block"),
    "cylinder": ("tin", "can", "barrel", "drum", "tube"),
    "solid": ("object", "thing", "shape"),
    "floor": ("ground", "ground", "table", "tabletop", "surface"),
    "wall": ("background", "backdrop"),
    "red": ("crimson", "scarlet"),
    "teal": ("cyan", "turquoise", "aqua"),
    "purple": ("violet", "violet", "lilac"),
    "pink": ("magenta", "rose"),
    "plain": ("uniform", "solid-coloured", "solid-colored", "unpatterned"),
    "striped": ("stripy", "stripey", "banded"),
    "checkered": ("chequered", "checked", "checkerboard", "chessboard"),
    "dotted": ("spotted", "spotty", "polka-dotted", "polka dot", "polka-dot"),
}
PATTERNS: dict[str, tuple[str, ...]] = {  # behind "with"
    "plain": ("no pattern", "one colour"),
    "striped": ("stripes", "stripes", "bands"),
    "checkered": ("checks", "squares", "a checkerboard pattern"),
    "dotted": ("dots", "spots", "polka dots"),
}
# Words between the things, by what a caption says in their place.
BETWEEN: dict[str, tuple[str, ...]] = {
    "and": ("next to", "beside", "to the left of", "to the right of"),
    "on": ("standing on", "on top of"),
    "with": ("in front of", "before", "against"),
    "a": ("two", "2", "a pair of", "that is", "which are", "alone"),
}
TRIES = 20
OPENINGS = ("a picture of", "a photo of", "an image of", "a rendering of", "there is", "draw")


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a text. `led`: a preposition begins it. `open`: adjectives end it, and another one
    behind a comma would be taken for its own."""

    text: str
    led: bool = False
    open: bool = False


def other_words() -> dict[str, list[str]]:
    """By a caption's word what is read for it as well, for the page to know."""
    found = {word: list(others) for word, others in SYNONYMS.items()}
    for word, patterns in PATTERNS.items():
        found[word] += patterns
    for word in (*SHAPES, "solid"):
        names = (word, *SYNONYMS.get(word, ()))
        found[word] = [*names[1:], *(_plural(name) for name in names)]
    found |= {word: list(others) for word, others in BETWEEN.items()}
    found["a"] += OPENINGS
    return {word: list(dict.fromkeys(others)) for word, others in found.items()}


def reworded(said: Said, rng: random.Random, fits: Callable[[str], bool]) -> str:
    """A text that says the same and fits, with fewer and fewer other words until it does; the
    caption itself if none of `TRIES` does."""
    if said == Said():
        return ""
    synonyms = rng.choice((0.0, 0.3, 0.7))
    for attempt in range(TRIES):
        text = _Writer(rng, synonyms * (1 - attempt / TRIES)).text(said)
        if fits(text):
            return text
    return written(said)


class _Writer:
    """Choices of one text."""

    def __init__(self, rng: random.Random, synonyms: float) -> None:
        self.rng = rng
        self.synonyms = synonyms  # the share of words that are replaced

    def text(self, said: Said) -> str:
        parts = [part for part in (self.solids(said.solids), *self.surfaces(said)) if part.text]
        if self.chance(0.5):
            self.rng.shuffle(parts)
        text = parts[0].text
        for before, part in pairwise(parts):
            text += self.joint(before, part) + part.text
        if self.chance(0.06) and not parts[0].led:
            text = f"{self.rng.choice(OPENINGS)} {text}"
        return text + ("." if self.chance(0.1) else "")

    def joint(self, before: _Part, part: _Part) -> str:
        if part.led:
            return self.rng.choice((", ", "; ") if before.open else (" ", " ", ", "))
        if before.open:
            return self.rng.choice(("; ", ". "))
        return self.rng.choice((" ", ", ") if before.led else (", ", ", ", ". ", " and "))

    def solids(self, solids: Sequence[Phrase]) -> _Part:
        if not solids:
            return _Part("")
        if len(solids) == 2:
            return self.pair(*solids)
        part = self.clause(solids[0])
        if part.open or not self.chance(0.05):
            return part
        return _Part(f"{part.text} {self.rng.choice(('on the left', 'on the right', 'alone'))}")

    def pair(self, left: Phrase, right: Phrase) -> _Part:
        if left == right and self.chance(0.7):
            return self.phrase(left, number=self.rng.choice(("two", "two", "2", "a pair of")))
        a, b = self.phrase(left), self.phrase(right)
        relations = {
            "{a} and {b}": 6,
            "{a}; {b}" if a.open else "{a}, {b}": 2,
            "{a} next to {b}": 2,
            "{a} beside {b}": 2,
            "{a} left of {b}": 1,
            "{a} to the left of {b}": 1,
            "{a} on the left of {b}": 1,
            "{b} right of {a}": 2,
            "{b} to the right of {a}": 3,
            "{b} on the right of {a}": 1,
            "{a} on the left and {b} on the right": 1,
            "{a} on the left, {b} on the right": 1,
            "{b} on the right and {a} on the left": 2,
            "{b} on the right, {a} on the left": 2,
            "on the left {a}, on the right {b}": 1,
            "on the right {b}, on the left {a}": 1,
            "left: {a}, right: {b}": 1,
            "right: {b}, left: {a}": 1,
        }
        relation = self.rng.choices(list(relations), list(relations.values()))[0]
        last = b if relation.endswith("{b}") else a
        text = relation.format(a=a.text, b=b.text)
        return _Part(text, open=last.open and relation.endswith("}"))

    def surfaces(self, said: Said) -> list[_Part]:
        leads = (
            (said.floor, ("on", "on", "on", "standing on", "on top of")),
            (said.wall, ("with", "with", "in front of", "before", "against")),
        )
        return [self.surface(phrase, before) for phrase, before in leads if phrase is not None]

    def surface(self, phrase: Phrase, before: Sequence[str]) -> _Part:
        if self.chance(0.4):
            return self.clause(phrase)
        part = self.phrase(phrase)
        return _Part(f"{self.rng.choice(before)} {part.text}", led=True, open=part.open)

    def clause(self, phrase: Phrase) -> _Part:
        """A phrase, or a whole sentence about the thing."""
        if not phrase.adjectives or not self.chance(0.12):
            return self.phrase(phrase)
        noun, adjectives = self.word(phrase.noun), self.adjectives(phrase)
        text = self.rng.choice(("the {} is {}", "the {} is {}", "{}: {}"))
        return _Part(text.format(noun, self.listed(adjectives)), open=True)

    def phrase(self, phrase: Phrase, number: str = "") -> _Part:
        """With its article, or with `number` and in the plural."""
        noun = self.word(phrase.noun)
        if number:
            noun = _plural(noun)
        before, behind, is_open = self.adjectives(phrase), "", False
        form = self.rng.random() if before else 1.0
        if form < 0.1:
            behind, before, is_open = f", {self.listed(before)}", [], True
        elif form < 0.2 and not number:
            which = self.rng.choice(("that is", "which is"))
            behind, before, is_open = f" {which} {self.listed(before)}", [], True
        elif form < 0.4 and phrase.texture:
            before = self.words(phrase.colour, phrase.finish)
            behind = f" with {self.rng.choice(PATTERNS[phrase.texture])}"
            if phrase.colour and self.chance(0.3):
                behind, before = f" in {before[0]}{behind}", before[1:]
        elif form < 0.5 and phrase.colour:
            before = self.words(phrase.texture, phrase.finish)
            behind = f" in {self.word(phrase.colour)}"
        glue = self.rng.choice((" ", " ", " ", ", ", " and "))
        words = f"{glue.join(before)} {noun}".strip()
        first = number or self.rng.choice((article(words), article(words), "the", "", ""))
        return _Part(f"{first} {words}{behind}".strip(), open=is_open)

    def adjectives(self, phrase: Phrase) -> list[str]:
        """In any order, the captions' half of the time."""
        words = self.words(*phrase.adjectives)
        return words[::-1] if self.chance(0.5) else words

    def listed(self, words: Sequence[str]) -> str:
        return self.rng.choice((" and ", " and ", ", ", " ")).join(words)

    def words(self, *words: str) -> list[str]:
        return [self.word(word) for word in words if word]

    def word(self, word: str) -> str:
        others = SYNONYMS.get(word, ())
        return self.rng.choice(others) if others and self.chance(self.synonyms) else word

    def chance(self, share: float) -> bool:
        return self.rng.random() < share


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("x") else "s")
