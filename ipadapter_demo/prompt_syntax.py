"""Prompts with weights, written as AUTOMATIC1111's web UI reads them.

(a) counts 1.1 times, [a] 1 / 1.1 times, (a:1.3) 1.3 times; brackets inside of each other multiply.
A backslash makes a bracket an ordinary character. BREAK ends a window: what follows begins another.
https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from ipadapter_demo import checks

PromptSyntax = Literal["plain", "weighted"]
PROMPT_SYNTAXES: tuple[PromptSyntax, ...] = get_args(PromptSyntax)

MAX_EMPHASIS = 10.0
_MORE, _LESS = 1.1, 1 / 1.1
_PIECES = re.compile(
    r"\\(?P<literal>[()\[\]\\]?)"
    r"|(?P<open>[(\[])"
    r"|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)"
    r"|(?P<close>[)\]])"
    r"|(?P<text>[^\\()\[\]:]+|:)"
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


@dataclass(frozen=True, slots=True)
class Fragment:
    text: str
    weight: float = 1.0


def parts_of(prompt: str) -> tuple[tuple[Fragment, ...], ...]:
    """The fragments between one BREAK and the next, neighbours of equal weight as one. What is
    still open at the end ends there; what closes nothing is text."""
    found: list[tuple[str | None, float]] = []  # None for a BREAK
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, by: float) -> None:
        found[start:] = [(text, weight * by) for text, weight in found[start:]]

    for piece in _PIECES.finditer(prompt):
        literal, opening, weight, closing, text = piece.group(
            "literal", "open", "weight", "close", "text"
        )
        if opening:
            opened[opening].append(len(found))
        elif weight and opened["("]:
            multiply(opened["("].pop(), float(weight))
        elif closing == ")" and opened["("]:
            multiply(opened["("].pop(), _MORE)
        elif closing == "]" and opened["["]:
            multiply(opened["["].pop(), _LESS)
        elif literal is not None:
            found.append((literal, 1.0))
        else:
            first, *others = _BREAK.split(text or piece[0])
            found.append((first, 1.0))
            for other in others:
                found += [(None, 1.0), (other, 1.0)]
    for start in opened["("]:
        multiply(start, _MORE)
    for start in opened["["]:
        multiply(start, _LESS)
    return _joined(found)


def check_weights(field: str, prompt: str) -> None:
    """Raises RequestError for a fragment whose weight is too large to be meant."""
    for part in parts_of(prompt):
        for fragment in part:
            checks.number(f"{field}: a weight", fragment.weight, -MAX_EMPHASIS, MAX_EMPHASIS)


def _joined(found: list[tuple[str | None, float]]) -> tuple[tuple[Fragment, ...], ...]:
    parts: list[list[Fragment]] = [[]]
    for text, weight in found:
        part = parts[-1]
        if text is None:
            parts.append([])
        elif part and part[-1].weight == weight:
            part[-1] = Fragment(part[-1].text + text, weight)
        elif text:
            part.append(Fragment(text, weight))
    return tuple(map(tuple, parts))
