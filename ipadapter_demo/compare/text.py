"""What people typed, as plain text: in a figure, in LaTeX, in a table."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from matplotlib.textpath import TextToPath

FAMILY = "DejaVu Sans"  # comes with matplotlib, so a figure looks the same everywhere
MAX_LINES = 6
SHAPELESS = ("Cc", "Cf", "Cs")  # control, format (that turn the direction, too), half of a pair

# https://www.ctan.org/pkg/comprehensive, table 2: what LaTeX takes for itself
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "_": r"\_", "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "λ": r"$\lambda$", "×": r"$\times$", "–": "--", "…": r"\dots{}",
}


def printable(text: str) -> str:
    """One line that the figure's font can write: what it lacks by its name, as [party popper].

    Characters without a shape go, those that turn the direction of others included.
    """
    shown = []
    for character in text:
        kind = unicodedata.category(character)
        if character.isspace():
            shown.append(" ")
        elif kind in SHAPELESS or "\ufe00" <= character <= "\ufe0f":  # variation selectors
            continue
        elif ord(character) in _drawable():
            shown.append(character)
        else:
            shown.append(_named(character))
    return " ".join("".join(shown).split())


def latex(text: str) -> str:
    """For a LaTeX document: nothing in it is a command; symbols that its fonts lack are named."""
    named = (_named(c) if unicodedata.category(c) == "So" else c for c in _visible(text))
    return "".join(_LATEX.get(c, c) for part in named for c in part)


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
        for character in word:  # a word wider than a line is broken wherever it must
            if lines[-1] and _width(lines[-1] + character, size) > width:
                lines.append("")
            lines[-1] += character
    if len(lines) > most:
        last = lines[most - 1]
        while last and _width(last + "…", size) > width:
            last = last[:-1]
        lines = [*lines[: most - 1], last + "…"]
    return "\n".join(lines)


def listed(heads: Sequence[str]) -> str:
    """Of numbers the first, the next and the last; of anything else all, if they are few."""
    starts = {head.rstrip("-.0123456789") for head in heads}
    if len(heads) > 3 and len(starts) == 1:
        values = [float(head[len(*starts):] or "nan") for head in heads]
        if all(b > a for a, b in pairwise(values)):
            start = len(next(iter(starts)))
            return f"{heads[0]}, {heads[1][start:]}, …, {heads[-1][start:]}"
    return ", ".join(heads) if len(heads) <= 8 else f"{', '.join(heads[:7])}, …"


def _named(character: str) -> str:
    return f"[{unicodedata.name(character, f'U+{ord(character):04X}').lower()}]"


def _visible(text: str) -> str:
    kept = (" " if c.isspace() else c for c in text)
    return "".join(c for c in kept if unicodedata.category(c) not in SHAPELESS)


@cache
def _drawable() -> frozenset[int]:
    return frozenset(FT2Font(findfont(FAMILY)).get_charmap())


def text_width(text: str, size: float) -> float:
    """Of the longest line, in points."""
    return max(_width(line, size) for line in text.split("\n"))


@cache
def _width(text: str, size: float) -> float:
    if not text:
        return 0.0
    font = FontProperties(family=FAMILY, size=size)
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
    return width
