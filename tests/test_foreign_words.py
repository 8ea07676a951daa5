"""PNGs of other programs: what has another meaning here, or none, is said in words."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ipadapter_demo.foreign import ForeignSettings
from ipadapter_demo.foreign.settings import Collector
from ipadapter_demo.foreign.weights import weights_of_comfyui, weights_of_invokeai
from tests.test_foreign import COMFYUI, INVOKEAI, read
from tests.test_languages import is_translated


def comfyui(nodes: dict[str, dict[str, Any]]) -> ForeignSettings:
    """COMFYUI with other inputs of its nodes, and further nodes."""
    graph = dict(COMFYUI)
    for name, node in nodes.items():
        known = graph.get(name, {"inputs": {}})
        graph[name] = known | node | {"inputs": known["inputs"] | node["inputs"]}
    return read(prompt=json.dumps(graph))


def prompts(positive: str, negative: str = "blurry") -> ForeignSettings:
    return comfyui({"6": {"inputs": {"value": positive}}, "7": {"inputs": {"text": negative}}})


def new(found: ForeignSettings, plain: ForeignSettings) -> list[str]:
    """What is said of the one, not of the other; all of it has its Chinese."""
    said = [sentence for sentence in found.left if sentence not in plain.left]
    assert [sentence for sentence in said if not is_translated(sentence)] == []
    return said


PLAIN = comfyui({})
FURTHER = {
    "weight": 0.3,
    "weight_type": "style and composition",
    "start_at": 0.5,
    "end_at": 1.0,
    "ipadapter": ["2", 1],
    "image": ["17", 0],
    "model": ["2", 0],
}


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("style and composition", ", layers style+layout"),
        ("linear", ""),
        ("channel penalty", ", layers channel penalty"),
    ],
)
def test_a_further_adapter_of_comfyui_changes_nothing(layers: str, words: str) -> None:
    """It is upstream of the first, and so come to after it."""
    found = comfyui(
        {
            "4": {"inputs": {"model": ["16", 0]}},
            "16": COMFYUI["4"] | {"inputs": FURTHER | {"weight_type": layers}},
            "17": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
        }
    )
    assert found.fields == PLAIN.fields
    assert found.fields["image_layers"] == "style"
    assert new(found, PLAIN) == [
        f"further image prompt: PLUS (high strength), weight 0.3{words}",
        "reference: cat.png is not in the file: give it",
    ]


@pytest.mark.parametrize(
    ("method", "words"), [("style", ", layers style"), ("full", ""), ("odd", ", layers odd")]
)
def test_a_further_adapter_of_invokeai_changes_nothing(method: str, words: str) -> None:
    first = INVOKEAI["ipAdapters"][0]
    plain = read(invokeai_metadata=json.dumps(INVOKEAI))
    both = INVOKEAI | {"ipAdapters": [first, first | {"method": method, "weight": 0.4}]}
    found = read(invokeai_metadata=json.dumps(both))
    assert found.fields == plain.fields
    assert found.fields["image_layers"] == "layout"
    further = f"further image prompt: ip-adapter-plus_sdxl_vit-h, weight 0.4{words}"
    assert new(found, plain) == [further]


OTHERWISE = (
    "prompt syntax: weighted (ComfyUI weighs against the empty prompt: the same weight acts "
    "otherwise here)"
)
LESS = "(plain text in ComfyUI, less weight here)"
END = "(plain text in ComfyUI, the end of a window here)"
ALONE = "(its weight counts alone in ComfyUI, brackets around it multiply it here)"


@pytest.mark.parametrize(
    ("positive", "negative", "said"),
    [
        ("a (red:1.4) cat", "blurry", []),
        ("a cat", "(blurry)", []),
        ("a ((red)) cat, ((red):1.2)", "blurry", []),
        ("a (red:1.4) cat [in rain], [fog]", "blurry", [f"positive: [in rain] {LESS}"]),
        ("a (red) cat [", "blurry", [f"positive: [ {LESS}"]),
        ("a (red) cat", "[blurry", [f"negative: [blurry {LESS}"]),
        ("a (red) cat BREAK rain", "blurry", [f"positive: BREAK {END}"]),
        ("a ((red:1.4) cat) (a (b:1.1))", "blurry", [f"positive: (red:1.4) {ALONE}"]),
    ],
)
def test_comfyui_weighs_by_round_brackets(positive: str, negative: str, said: list[str]) -> None:
    found = prompts(positive, negative)
    assert found.fields == PLAIN.fields | {
        "prompt": positive,
        "negative_prompt": negative,
        "prompt_syntax": "weighted",
    }
    assert new(found, PLAIN) == [OTHERWISE, *said]


@pytest.mark.parametrize("positive", ["a cat [in rain] BREAK :)", "a ( cat"])
def test_without_a_weight_a_prompt_of_comfyui_is_plain(positive: str) -> None:
    found = prompts(positive)
    assert "prompt_syntax" not in found.fields
    assert new(found, PLAIN) == []


def test_a_bracket_of_comfyui_behind_a_backslash_is_one() -> None:
    found = prompts(r"a cat \(animal\)")
    assert found.fields["prompt_syntax"] == "weighted"
    assert new(found, PLAIN) == []


def test_a_weight_of_comfyui_that_no_request_has_is_said() -> None:
    found = prompts("a (red:14) cat [in rain]")
    assert "prompt_syntax" not in found.fields
    assert found.fields["prompt"] == "a (red:14) cat [in rain]"
    said = [sentence for sentence in found.left if sentence not in PLAIN.left]
    assert [sentence.partition(" (")[0] for sentence in said] == ["prompt syntax: weighted"]


@pytest.mark.parametrize(
    ("prompt", "weight"),
    [
        ("a (red)1.4 cat", "(red)1.4"),
        ("a (red dog).5, (b)2", "(red dog).5"),
        ("a (red)++ cat", "(red)++"),
        ("a red++ cat", "red++"),
        ("a cat, red--", "red--"),
        ("a (red (big) cat)1.1", ")1.1"),
        ("a black-and-white cat -- (red) dog, 4 + 5 - 6", None),
        (r"a cat \(animal\)2", None),
        ("a (red:1.4) cat", None),
    ],
)
def test_weights_of_invokeai_are_said(prompt: str, weight: str | None) -> None:
    plain = read(invokeai_metadata=json.dumps(INVOKEAI))
    for name, what in (("positive_prompt", "prompt"), ("negative_prompt", "negative prompt")):
        found = read(invokeai_metadata=json.dumps(INVOKEAI | {name: prompt}))
        assert "prompt_syntax" not in found.fields
        why = "(a weight of InvokeAI, read as plain text here)"
        assert new(found, plain) == ([f"{what}: {weight} {why}"] if weight else [])


MASK = {"class_type": "LoadImageMask", "inputs": {"image": "left.png", "channel": "red"}}
ALONE_THERE = "(the picture acts within it alone there, everywhere here)"


@pytest.mark.parametrize(
    ("inputs", "node", "said"),
    [
        ({"attn_mask": ["16", 0]}, MASK, f"region mask: left.png {ALONE_THERE}"),
        (
            {"attn_mask": ["16", 0]},
            {"class_type": "EmptyMask", "inputs": {}},
            f"region mask: EmptyMask {ALONE_THERE}",
        ),
        (
            {"image_negative": ["16", 0]},
            {"class_type": "LoadImage", "inputs": {"image": "bad.png"}},
            "negative image prompt: bad.png (the picture is not in the file: give it)",
        ),
        (
            {"combine_embeds": "average"},
            MASK,
            "combine_embeds: average (choose how several pictures are put together)",
        ),
        (
            {"embeds_scaling": "K+V w/ C penalty"},
            MASK,
            "embeds_scaling: K+V w/ C penalty (λ multiplies what a picture adds here, as V only "
            "does)",
        ),
        ({"combine_embeds": "concat", "embeds_scaling": "V only"}, MASK, None),
    ],
)
def test_what_an_adapter_of_comfyui_has_besides_is_said(
    inputs: dict[str, Any], node: dict[str, Any], said: str | None
) -> None:
    found = comfyui({"4": {"inputs": inputs}, "16": node})
    assert found.fields == PLAIN.fields
    known = [sentence for sentence in new(found, PLAIN) if sentence != "node: EmptyMask"]
    assert known == ([said] if said else [])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"start_at_step": 0, "end_at_step": 10_000}, []),
        ({"start_at_step": 0, "end_at_step": 30}, []),
        (
            {"start_at_step": 5, "end_at_step": 30},
            ["start_at_step: 5 (the steps before it are drawn here too)"],
        ),
        (
            {"start_at_step": 0, "end_at_step": 24},
            ["end_at_step: 24 (the steps after it are drawn here too)"],
        ),
    ],
)
def test_a_sampler_of_comfyui_that_draws_some_steps(
    inputs: dict[str, Any], said: list[str]
) -> None:
    found = comfyui({"10": {"class_type": "KSamplerAdvanced", "inputs": inputs}})
    assert found.fields == PLAIN.fields
    assert new(found, PLAIN) == said


@pytest.mark.parametrize(
    "text",
    ["(", "((a:1", "[", "(a)", "a", "a+", "a-b", ")", ")1.", "\\(", ": ", ":1", ":1.4)", "(:1 )"],
)
def test_weights_are_looked_for_in_one_pass(text: str) -> None:
    """A request's prompt is short; this holds without that."""
    found = Collector("any")
    found.fields["prompt"] = text * 200_000
    began = time.process_time()
    weights_of_invokeai(found, "prompt", text * 200_000)
    for ending in ("", "b"):
        found.fields["prompt"] = text * 200_000 + ending
        weights_of_comfyui(found, {"positive": "prompt"})
    assert time.process_time() - began < 3
