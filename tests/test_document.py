"""What a comparison's text may be: JSON as JSON, YAML as its core schema, and at what price."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from ipadapter_demo.compare import spec_from_document, spec_from_file, spec_from_text
from ipadapter_demo.compare.axes import expanded
from ipadapter_demo.errors import RequestError

# Every level is nine of the one before: 9^7 texts at the end.
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{own}: &{own} [{','.join([f'*{before}'] * 9)}]\n" for before, own in pairwise("abcdefg")
)
LONG = 299_000  # characters, just below what is read at all

ATTACKS = {
    "aliases": (LAUGHS, "no YAML anchors or aliases, & or \\*, got 'a' in line 1"),
    "one alias": ("columns: {seed: [1]}\nrows: *b", "no YAML anchors or aliases"),
    "merge": ("columns:\n  <<: {seed: [1]}", "no YAML merge keys, <<, got one in line 2"),
    "tag": ("!!python/object/apply:os.system [true]", "no YAML tags, got 'tag:yaml.org,2002:py"),
    "deep flow": ("[" * LONG, "nested 20 deep"),
    "deep block": ("- " * (LONG // 2), "nested 20 deep"),
    "deep JSON": ("[" * 140_000 + "]" * 140_000, "nested 20 deep"),
    "keys that are no text": ("? [a]\n: b", "names of fields must be text"),
    "many values": ("- a\n" * (LONG // 4), "10,000 values, got more"),
    "many in JSON": ("[" + "[]," * 90_000 + "[]]", "400 entries, got 90,001"),
    "many in many": (json.dumps([[[1] * 30] * 30] * 30), "10,000 values, got more"),
    "long text": ("x" * 300_001, "at most 300,000 characters, got 300,001"),
    "a large integer": ("columns: {seed: [" + "9" * 3000 + "]}", "below 2\\^63, got one of 3,000"),
    "a large JSON integer": ('{"columns": {"seed": [' + "9" * 3000 + "]}}", "below 2\\^63"),
    "no number": ('{"columns": {"guidance": [NaN]}}', "must be finite, got NaN"),
    "infinity": ('{"columns": {"guidance": [1e999]}}', "must be finite, got inf"),
    "twice": ("columns: {seed: [1]}\ncolumns: {seed: [2]}", "says 'columns' twice"),
    "twice in JSON": ('{"columns": {"seed": [1], "seed": [2]}}', "says 'seed' twice"),
    "two documents": ("columns: {seed: [1]}\n---\n1", "one YAML document"),
    "one wrong text": (json.dumps({"columns": {"k" * 290_000: [1]}}), "spec.columns: Additional"),
    "wrong items": ("columns: {prompt: [" + "1, " * 390 + "1]}", "spec.columns.prompt"),
    "unlike items": ('{"columns": {"seed": [1]}, "beside": [' + '"a", 1, ' * 190 + "1]}", "beside"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_text_costs_no_more_than_its_length(name: str) -> None:
    """The page reads what is typed without a click, for every visitor."""
    text, message = ATTACKS[name]
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match=message) as caught:
            spec_from_text(text, lambda name: b"")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000
    assert len(str(caught.value)) < 450, "what is refused is not said in full"


@pytest.mark.parametrize(
    "document",
    [
        {"columns": {"seed": [10**400]}},
        {"columns": {"guidance": [float("inf")]}},
        {"columns": {"seed": [1]}, "title": [[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]},
        {"columns": {"prompt": [["x"] * 200] * 100}},
    ],
)
def test_a_document_from_elsewhere_has_the_same_limits(document: object) -> None:
    with pytest.raises(RequestError, match=r"2\^63|finite|20 deep|10,000 values"):
        spec_from_document(document, lambda name: b"")


def test_a_document_that_holds_itself_is_refused() -> None:
    document: dict = {"columns": {"seed": [1]}}
    document["rows"] = document
    with pytest.raises(RequestError, match="20 deep"):
        spec_from_document(document, lambda name: b"")


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ('{"columns": {"prompt": ["\\ud83d\\ude00 smile"]}}', ["😀 smile"]),
        ('{\n\t"columns": {\n\t\t"prompt": ["a",\t"b"]\n\t}\n}', ["a", "b"]),
        ('{"columns": {"prompt": ["a\\/b"]}}', ["a/b"]),
        ('\ufeff{"columns": {"prompt": ["a"]}}', ["a"]),
        ('{"columns": {"prompt": ["grün"]}}'.encode("utf-16"), ["grün"]),
        ("columns: {prompt: [grün]}".encode("utf-8-sig"), ["grün"]),
        (
            "columns: {prompt: [yes, no, on, 2024-05-01, 1:20:5, 0x10, 007, 1_000, .inf]}",
            ["yes", "no", "on", "2024-05-01", "1:20:5", "0x10", "007", "1_000", ".inf"],
        ),
        ("columns: {prompt: ['1', \"~\", 'true', '']}", ["1", "~", "true", ""]),
        ("columns: # a comment\n  prompt:\n  - |\n    two\n    lines\n", ["two\nlines\n"]),
        ('{"columns": {"prompt": ["a",]}}', ["a"]),
    ],
)
def test_json_is_json_and_yaml_its_core(text: str | bytes, prompts: list[str]) -> None:
    assert spec_from_text(text, lambda name: b"").document == {"columns": {"prompt": prompts}}


def test_numbers_and_nothing_are_read_as_json_reads_them() -> None:
    text = "columns: {guidance: [1, -2, 0.5, .5, 1., 1e3, +4]}\nrows: {reference: [~, null, ]}"
    assert spec_from_text(text, lambda name: b"").document == {
        "columns": {"guidance": [1, -2, 0.5, 0.5, 1.0, 1000.0, 4]},
        "rows": {"reference": [None, None]},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"columns": {"seed": [1, 2', r"neither JSON \(line 1: .*\) nor YAML \(line \d+: "),
        ("columns: {seed: [1]}\nrows: [", r"nor YAML \(line \d+: "),
        ("a: \x07", "control characters are not allowed"),
        (b"columns: \xff", "must be text in UTF-8: invalid start byte at byte 9"),
        ("", "None is not of type 'object'"),
    ],
)
def test_what_cannot_be_read_says_where(text: str | bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        spec_from_text(text, lambda name: b"")


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"columns": {"seed": [1, 2')
    with pytest.raises(RequestError, match=r"spec\.json: spec is neither JSON"):
        spec_from_file(tmp_path / "spec.json")


@pytest.mark.parametrize(
    "values",
    [
        "0:" + "9" * 400 + ":1",
        "-" + "9" * 400 + ":0:1",
        "0:1:0." + "0" * 320 + "1",
        "0:1:0." + "0" * 400 + "1",
        "1e308:2e308:1e307",
        "0:1e308",
        "1:0:-0.5",
        "0:1:-1",
        "nan:nan",
        "0:inf",
        "5:1",
        "0:1000000000",
        "1:1:0",
    ],
)
def test_a_range_is_rising_finite_and_short(values: str) -> None:
    """By the schema, where it does not fit it, or when it is written out."""

    def read() -> None:
        spec_from_text(json.dumps({"columns": {"seed": values}}), lambda name: b"")
        expanded("columns.seed", values)

    with pytest.raises(RequestError, match=r"rising|at most 100 values|first:last:step") as caught:
        read()
    assert len(str(caught.value)) < 450


def test_a_range_has_as_many_values_as_an_axis_may_have() -> None:
    assert expanded("x", "1:100") == list(range(1, 101))
    assert expanded("x", "0.01:1:0.01")[-1] == 1
    with pytest.raises(RequestError, match="at most 100 values, got 101"):
        expanded("x", "0:100")
