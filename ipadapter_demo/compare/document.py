"""JSON or YAML of unknown origin to plain values, at a bounded price.

JSON is read as JSON, everything else as YAML 1.2's core schema: `1:20:5`, `yes` and `2024-05-01`
are texts. There are no aliases, no merge keys and no tags, so a document is never larger than its
text: https://yaml.org/spec/1.2.2/#103-core-schema
"""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

import yaml

from ipadapter_demo.errors import RequestError

MAX_TEXT = 300_000  # characters
MAX_NODES = 10_000  # values and names of fields
MAX_ITEMS = 400  # of one list or object; a comparison has at most as many cells
MAX_DEPTH = 20  # a spec needs six
MAX_INTEGER = 2**63

# libyaml where PyYAML was built with it, which is thirty times faster.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE, _FALSE = re.compile(r"true|True|TRUE"), re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")


def document_from_text(text: str | bytes) -> object:
    """Raises RequestError for what is neither JSON nor YAML, or more than the limits above."""
    if len(text) > MAX_TEXT:
        raise RequestError(f"spec must have at most {MAX_TEXT:,} characters, got {len(text):,}")
    text = _decoded(text)
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_not_finite)
    except RequestError:
        raise
    except (ValueError, RecursionError) as not_json:
        try:
            document = _Yaml(text).document()
        except (yaml.YAMLError, ValueError) as not_yaml:
            if isinstance(not_yaml, RequestError):
                raise
            raise RequestError(
                f"spec is neither JSON ({_said(not_json)}) nor YAML ({_said(not_yaml)})"
            ) from not_yaml
    check_document(document)
    return document


def check_document(document: object) -> None:
    """Raises RequestError for a document that is too large or too deep to be worked on, or that
    holds a number which no field can have."""
    level, nodes = [document], 1
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            below += _parts(value)
            if nodes + len(below) > MAX_NODES:
                raise _too_many_values()
        if not below:
            return
        level, nodes = below, nodes + len(below)
    raise _too_deep()


def _parts(value: object) -> list[object]:
    """The parts of a list or an object."""
    if isinstance(value, (list, tuple, dict)):
        if len(value) > MAX_ITEMS:
            raise RequestError(
                f"spec: a list or object may have {MAX_ITEMS} entries, got {len(value):,}"
            )
        return [*value, *(value.values() if isinstance(value, dict) else ())]
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(f"spec: numbers must be finite, got {value}")
    if isinstance(value, int) and abs(value) >= MAX_INTEGER:
        raise RequestError("spec: whole numbers must lie below 2^63, got a larger one")
    return []


def _too_many_values() -> RequestError:
    return RequestError(f"spec may have {MAX_NODES:,} values, got more")


def _too_deep() -> RequestError:
    return RequestError(f"spec may be nested {MAX_DEPTH} deep, got more")


def _decoded(text: str | bytes) -> str:
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:  # what JSON may be written in, and what editors on Windows write
        return text.decode(json.detect_encoding(text)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"spec must be text in UTF-8: {error.reason} at byte {error.start:,}"
        ) from error


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            _twice(name)
        found[name] = value
    return found


def _twice(name: str) -> NoReturn:
    raise RequestError(f"spec says {name!r:.80} twice in one place")


def _not_finite(name: str) -> NoReturn:
    raise RequestError(f"spec: numbers must be finite, got {name}")


def _said(error: Exception) -> str:
    """One short line, with the place and without the text that was refused."""
    if isinstance(error, yaml.MarkedYAMLError):
        where = error.problem_mark or error.context_mark
        what = str(error.problem or error.context or "malformed")
        return f"line {where.line + 1}: {what:.120}" if where else f"{what:.120}"
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}: {error.msg:.120}"
    return f"{' '.join(str(error).split()):.120}" or type(error).__name__


class _Yaml:
    """One YAML text, read event by event: what is refused is refused where it begins."""

    def __init__(self, text: str) -> None:
        self._events = yaml.parse(text, Loader=_LOADER)
        self._nodes = 0

    def document(self) -> object:
        value = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                value = self._value(next(self._events), 0)
                next(self._events)  # DocumentEndEvent
                if isinstance(next(self._events), yaml.DocumentStartEvent):
                    raise RequestError("spec must be one YAML document, got several")
        return value

    def _value(self, event: yaml.Event, depth: int) -> object:
        self._check(event, depth)
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._value(event, depth + 1))
            return items
        found: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            name = self._name(event, depth + 1)
            if name in found:
                _twice(name)
            found[name] = self._value(next(self._events), depth + 1)
        return found

    def _name(self, event: yaml.Event, depth: int) -> str:
        self._check(event, depth)
        if not isinstance(event, yaml.ScalarEvent):
            raise RequestError(f"spec: names of fields must be text (line {_line(event)})")
        if event.value == "<<" and event.implicit[0]:
            raise RequestError(
                f"spec may have no YAML merge keys, <<, got one in line "
                f"{_line(event)}: write it out"
            )
        return event.value

    def _check(self, event: yaml.Event, depth: int) -> None:
        assert isinstance(event, yaml.NodeEvent)  # what begins a value or a name
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _too_many_values()
        if depth >= MAX_DEPTH:
            raise _too_deep()
        if event.anchor is not None:
            raise RequestError(
                f"spec may have no YAML anchors or aliases, & or *, got "
                f"{event.anchor!r:.40} in line {_line(event)}: write it out"
            )
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise RequestError(
                f"spec may have no YAML tags, got {tag!r:.80} in line {_line(event)}"
            )


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None  # of an event that was parsed
    return event.start_mark.line + 1


def _scalar(event: yaml.ScalarEvent) -> object:
    """A plain word is what JSON would read, if it reads it; in quotes it is text."""
    text = event.value
    if not event.implicit[0]:
        return text
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text[0] in "tT"
    if _INTEGER.fullmatch(text):
        if len(text) > 20:  # digits of 2^63, and a sign
            raise RequestError(
                f"spec: whole numbers must lie below 2^63, got one of "
                f"{len(text):,} digits in line {_line(event)}"
            )
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
