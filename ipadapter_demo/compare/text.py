"""Typed text as plain text: in a figure, in LaTeX, in a table."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from ipadapter_demo.compare.fonts import drawable, families

MAX_LINES = 6
SHAPELESS = ("Cc", "Cf", "Cs")  # control, format (that turn the direction, too), half of a pair

# https://www.ctan.org/pkg/comprehensive, table 2: what LaTeX takes for itself
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "λ": r"$\lambda$",
    "×": r"$\times$",
    "–": "--",
    "…": r"\dots{}",
}


def printable(text: str) -> str:
    """One line that the figure's fonts can write: what they lack by its name, as [party popper].

    Characters without a shape go, those that turn the direction of others included.
    """
    known = drawable(text)
    shown = [c if c in known or c.isspace() else _named(c) for c in text if _has_shape(c)]
    return " ".join("".join(shown).split())


def undrawable(text: str) -> list[str]:
    """The letters of `text` for which this system has no font, each once. Symbols are no letters:
    their names do."""
    known = drawable(text)
    return [
        c
        for c in dict.fromkeys(text)
        if c not in known and _has_shape(c) and unicodedata.category(c)[0] in "LMNP"
    ]


def latex(text: str) -> str:
    """For a LaTeX document: nothing in it is a command; symbols that its fonts lack are named."""
    named = (_named(c) if unicodedata.category(c) == "So" else c for c in _visible(text))
    return "".join(_LATEX.get(c, c) for part in named for c in part)


def beyond_pdflatex(text: str) -> list[str]:
    """The letters of `text` that pdfLaTeX stops at, each once: those of other scripts than ours."""
    return [
        c
        for c in dict.fromkeys(text)
        if unicodedata.category(c)[0] in "LM"
        and c not in _LATEX
        and not unicodedata.name(c, "").startswith("LATIN")
    ]


def csv_cell(text: str) -> str:
    """For a spreadsheet: nothing in it is a formula."""
    text = _visible(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def wrapped(text: str, width: float, size: float, most: int = MAX_LINES) -> str:
    """`printable` text in lines of at most `width` points at a font size of `size` points; what
    takes more than `most` lines ends in an ellipsis."""
    lines: list[str] = [""]
    for word in printable(text).split(" "):
        longer = f"{lines[-1]} {word}".lstrip()
        if _width(longer, size) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        if len(lines) > most:  # the rest is not shown, whatever it is
            break
        for character in word:  # a word wider than a line is broken wherever it must
            if lines[-1] and _width(lines[-1] + character, size) > width:
                lines.append("")
                if len(lines) > most:
                    break
            lines[-1] += character
    if len(lines) > most:
        last = lines[most - 1]
        while last and _width(last + "…", size) > width:
            last = last[:-1]
        lines = [*lines[: most - 1], last + "…"]
    return "\n".join(lines)


def listed(heads: Sequence[str]) -> str:
    """Of numbers in even steps the first, the next and the last; of anything else all, if they are
    few."""
    starts = {head.rstrip("-.0123456789") for head in heads}
    if len(heads) > 3 and len(starts) == 1:
        start = len(next(iter(starts)))
        if _in_even_steps([head[start:] for head in heads]):
            return f"{heads[0]}, {heads[1][start:]}, …, {heads[-1][start:]}"
    return ", ".join(heads) if len(heads) <= 8 else f"{', '.join(heads[:7])}, …"


def _in_even_steps(texts: Sequence[str]) -> bool:
    """True for texts that are numbers, rising by the same. Dates and versions are none."""
    if not all(re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", text) for text in texts):
        return False
    steps = [float(b) - float(a) for a, b in pairwise(texts)]
    return steps[0] > 0 and all(math.isclose(s, steps[0], rel_tol=1e-6) for s in steps)


def _named(character: str) -> str:
    return f"[{unicodedata.name(character, f'U+{ord(character):04X}').lower()}]"


def _has_shape(character: str) -> bool:
    return character.isspace() or (
        unicodedata.category(character) not in SHAPELESS and not "\ufe00" <= character <= "\ufe0f"
    )  # variation selectors


def _visible(text: str) -> str:
    kept = (" " if c.isspace() else c for c in text)
    return "".join(c for c in kept if unicodedata.category(c) not in SHAPELESS)


def text_width(text: str, size: float) -> float:
    """Of the longest line, in points."""
    return max(_width(line, size) for line in text.split("\n"))


@lru_cache(maxsize=10_000)  # what visitors type must not stay for ever
def _width(text: str, size: float) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    if not text:
        return 0.0
    font = FontProperties(family=families(text), size=size)
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
    return width
