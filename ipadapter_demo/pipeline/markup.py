"""Markup of other programs in a prompt, where it is read as plain text.

Brackets as AUTOMATIC1111's web UI reads them: (a) is stronger, [a] weaker, (a:1.3) weighted, which
is so here too where prompts are "weighted". [a:b:0.5] changes with the steps, [a|b] alternates;
{a|b} chooses at random in its extensions; BREAK and AND split a prompt.
https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ipadapter_demo.prompt_syntax import PromptSyntax

WEIGHT, CHOICE, EMPHASIS = "a weight in brackets", "a choice in brackets", "emphasis by brackets"
EDIT = "a change in brackets"
READ_IF_WEIGHTED = (WEIGHT, EMPHASIS, "BREAK")
# Words that mean something there; none of them says what is to be seen.
WORDS = {
    "BREAK": re.compile(r"\bBREAK\b"),
    "AND": re.compile(r"\bAND\b"),
    "a tag": re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>"),
    "an embedding": re.compile(r"\bembedding:[^\s,()\[\]{}<>]+"),
}
_WEIGHT = re.compile(r"(?<!\d):\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)\s*")
_EDIT = re.compile(r"(?<!\\)\[[^\[\]()]*:\s*(?:\d+(?:\.\d*)?|\.\d+)\s*\]")
_DOUBLE = re.compile(r"\(\(|\)\)")
_PAIRS = {")": "(", "]": "[", "}": "{"}


def unread_markup(prompt: str, syntax: PromptSyntax) -> dict[str, str]:
    """Each kind of markup that is read as plain text, and the first of its kind."""
    found = _markup_in(prompt)
    if syntax == "plain":
        return found
    for kind in READ_IF_WEIGHTED:
        found.pop(kind, None)
    edit = _EDIT.search(prompt)
    return found | ({EDIT: edit[0]} if edit else {})


def _markup_in(prompt: str) -> dict[str, str]:
    spans: dict[str, tuple[int, int]] = {}
    for kind, start, end in _brackets(prompt):
        spans[kind] = min((start, end), spans.get(kind, (start, end)))
    if WEIGHT not in spans and (double := _DOUBLE.search(prompt)):
        spans[WEIGHT] = double.span()
    if WEIGHT in spans:  # says the same of all brackets
        spans.pop(EMPHASIS, None)
    found = {kind: prompt[start:end] for kind, (start, end) in spans.items()}
    return found | {kind: hit[0] for kind, word in WORDS.items() if (hit := word.search(prompt))}


def without_words(prompt: str) -> str:
    """`prompt` without the WORDS; what stands in brackets stays."""
    for word in WORDS.values():
        prompt = word.sub(" ", prompt)
    return prompt


def _brackets(prompt: str) -> Iterator[tuple[str, int, int]]:
    """The kind, start and end of each pair that means something, in one walk. A bracket behind a
    backslash is none, and a pair without a letter, as in (16:9), is punctuation."""
    opened: list[int] = []
    letter = bar = colon = -1  # where the last one was
    skip = False
    for place, char in enumerate(prompt):
        if skip:
            skip = False
        elif char == "\\":
            skip = True
        elif char in "([{":
            opened.append(place)
        elif char in _PAIRS and opened and prompt[opened[-1]] == _PAIRS[char]:
            start = opened.pop()
            if letter > start and (kind := _kind(prompt, start, place, bar, colon)):
                yield kind, start, place + 1
        elif char.isalpha():
            letter = place
        elif char == "|":
            bar = place
        elif char == ":":
            colon = place


def _kind(prompt: str, start: int, end: int, bar: int, colon: int) -> str | None:
    """Of the brackets at `start` and `end`, with the last bar and colon before `end`."""
    curly = prompt[start] == "{"
    if not curly and colon > start and _WEIGHT.fullmatch(prompt, colon, end):
        return WEIGHT
    if bar > start and prompt[start] != "(":
        return CHOICE
    return None if curly else EMPHASIS
