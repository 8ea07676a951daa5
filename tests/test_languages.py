"""The page in English and Chinese: no text without a translation, none that is not used, and no
English left in a Chinese browser."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import gradio
import pytest

from ipadapter_demo.models.at_hand import cost_of
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.models.hub_files import VIT_H
from ipadapter_demo.models.listing import labels
from ipadapter_demo.models.published import PUBLISHED, Published
from ipadapter_demo.pipeline import ImagePromptPipeline, ModelInfo
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui
from ipadapter_demo.ui.language import entries
from ipadapter_demo.ui.language.script import SCRIPT
from ipadapter_demo.ui.tabs.compare.form import AXES
from ipadapter_demo.ui.widgets.layers import PRESETS
from ipadapter_demo.ui.widgets.slots import LABELS, structure_choices
from tests.messages import PACKAGE, messages, warnings

TABLE = {english: chinese for section in entries().values() for english, chinese in section.items()}
PLAIN = {english.replace("{n}", "{}") for english in TABLE}
# Names, and what models and programs call by an English word only.
NAMES = re.compile(
    r"tabletop|tiny|Ctrl|Shift|IP-Adapter demo|Python|Canny|LoRAs|VAE|DPI|CLIP-[IT]|λ = 0|"
    r"ddim|pndm|euler(_a)?|lcm|tcd|unipc|heun|dpm\+\+( sde)?|karras|leading|trailing|\d+x\d+"
)
# Values to write into a field, as programs call them.
WRITTEN = re.compile("(plain|default|crop|concat|all|as it is), .*")
FIELD = re.compile(r"^[a-z_]+(\.[a-z_]+)?(?= |:)")


VALUES = {"{}": "([^\x00]+)", "{n}": r"([-−+\d.,]+)"}
# The words of a text with values, and its pattern, which is slow over texts without the words.
PATTERNS = [
    (
        re.split(r"\{n?\}", text),
        re.compile("".join(VALUES.get(p) or re.escape(p) for p in re.split(r"(\{n?\})", text))),
    )
    for text in TABLE
    if "{" in text
]


def is_translated(text: str) -> bool:
    bare = " ".join(text.split())
    if not re.search("[A-Za-z]{2}", bare) or NAMES.fullmatch(bare):
        return True
    if text in TABLE or bare in TABLE:
        return True
    return any(holds(bare, parts) and one.fullmatch(bare) for parts, one in PATTERNS)


def holds(text: str, parts: list[str]) -> bool:
    """True if the parts stand in it, one after the other."""
    at = 0
    for part in parts:
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True


class Texts(HTMLParser):
    """What a person reads of HTML: texts, and names for screen readers."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.own = 0  # in an element that says lang=en
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.own or ("lang", "en") in attrs:
            self.own += tag not in ("br", "input", "img")
        elif tag != "data":
            self.found += [v for name, v in attrs if v and name in ("aria-label", "title", "alt")]

    def handle_endtag(self, tag: str) -> None:
        self.own = max(0, self.own - 1)

    def handle_data(self, data: str) -> None:
        if not self.own and data.strip():
            self.found.append(data.strip())


def texts_of(page: Any) -> Iterator[str]:
    """All that a page says as it is opened."""
    for one in page.get_config_file()["components"]:
        props, kind = one["props"], one["type"]
        if kind in ("api", "state") or props.get("visible") is False:
            continue
        yield from (str(props[k]) for k in ("label", "info", "placeholder") if props.get(k))
        for choice in props.get("choices") or ():
            yield str(choice[0] if isinstance(choice, list | tuple) else choice)
        yield from map(str, props.get("headers") or ())
        if kind in ("button", "html", "markdown") and isinstance(props.get("value"), str):
            yield from Texts(props["value"]).found


@pytest.fixture(scope="module", params=["tabletop", "tiny"])
def opened(request: pytest.FixtureRequest) -> Any:
    if request.param == "tabletop":
        import ipadapter_demo

        pipeline = ipadapter_demo.load("tabletop")
    else:
        pipeline = ImagePromptPipeline(request.getfixturevalue("model"))
    return build_ui(ModelManager(pipeline), Settings(), lambda seed: None)  # type: ignore[arg-type, return-value]


def test_every_text_of_a_page_is_translated(opened: Any) -> None:
    texts = list(dict.fromkeys(texts_of(opened)))
    assert len(texts) > 200
    assert [text for text in texts if not is_translated(text)] == []


def test_what_models_of_the_hub_add_to_it_is_translated() -> None:
    texts = [*labels(None).values(), *labels(None, fetches=False).values()]
    for published in PUBLISHED.values():
        texts.append(published.note)
    texts += [name for name, _ in AXES.values()]
    texts += [hint for _, hint in AXES.values() if not WRITTEN.fullmatch(hint)]
    texts += [
        label
        for published in PUBLISHED.values()
        for fetches in (True, False)
        for label, _ in structure_choices(_info(published, cost_of([VIT_H], fetches)))
    ]
    texts += [part for preset in PRESETS.values() for part in (preset[0], f"λ × {preset[1]}")]
    texts += LABELS.values()
    assert [text for text in texts if not is_translated(text)] == []


def _info(model: Published, cost: str) -> ModelInfo:
    """With this behind each kind of map."""
    kinds = {kind: entry.annotators for kind, entry in model.structures.items()}
    return ModelInfo(
        name=model.name,
        native_size=512,
        recommended=model.recommended,
        adapters=(),
        structures=kinds,
        structure_notes={kind: e.note for kind, e in model.structures.items() if e.note},
        structure_costs={f"{kind}/{d}": cost for kind, found in kinds.items() for d in found},
        loras={},
        layer_presets={},
        words=(),
        note=model.note,
    )


def test_every_message_is_translated() -> None:
    """Of errors, toasts and warnings; where one stands that is not."""
    missing = [
        f"{place}: {text}"
        for text, place in itertools.chain(messages(), warnings())
        if not {text, FIELD.sub("{}", text, count=1)} & PLAIN
        and re.search("[a-z]{2}", text.replace("{}", ""))
    ]
    assert missing == []


def literals() -> str:
    """All that is written in the package, a string over several lines as one."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))]
    joined = re.sub(r"""(["'])\s*\+?\s*f?\1""", "", "\n".join(sources))
    return joined.replace('\\"', '"').lower()


def longest_words(text: str) -> str:
    """Of a text without values and punctuation marks: some texts are made of several parts."""
    return max(re.split(r"\{n?\}|[^\w' λ/-]+", text.lower()), key=len).strip()


def test_no_translation_is_left_over() -> None:
    source = literals()
    frontend = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
    built = "".join(path.read_text(encoding="utf-8") for path in sorted(frontend.glob("*.js")))
    of = {"gradio": built.lower()}
    texts = [(section, text) for section, found in entries().items() for text in found]
    assert [t for s, t in texts if longest_words(t) not in of.get(s, source)] == []


def test_both_sides_have_the_same_values() -> None:
    wrong = []
    for english, chinese in TABLE.items():
        count = len(re.findall(r"\{n?\}", english))
        named = sorted({int(place) for place in re.findall(r"\{(\d+)\}", chinese)})
        in_order = chinese.count("{}")
        if (named, in_order) not in (([], count), (list(range(1, count + 1)), 0)):
            wrong.append(english)
    assert wrong == []
    assert sum(map(len, entries().values())) == len(TABLE)  # no text stands in two sections


def test_chinese_is_chinese() -> None:
    english = re.compile("[A-Za-z]{3,} [a-z]{3,} [a-z]{3,}")
    assert [
        text for text in TABLE.values() if english.search(re.sub("pip install [a-z ]+", "", text))
    ] == []


def test_the_script_closes_no_element() -> None:
    assert "</" not in SCRIPT


def test_it_says_that_the_built_in_model_reads_english() -> None:
    """In its note, and below a prompt."""
    assert "英文" in TABLE[TABLETOP.note]
    assert "英文" in TABLE["Write like: {}"]
