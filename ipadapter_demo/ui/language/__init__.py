"""The page in English and Chinese. Code, command line, HTTP, records and files speak English alone:
`zh.json` says for every English text of the page what it is in Chinese, and it is put in its place
in the browser.

Two read the table there. gradio does, as a `gr.I18n` whose keys are the English texts: it looks up
labels, infos, placeholders and names of choices, also those that an event changes. It also looks up
what a field holds at first, and would send it back in Chinese: `keep_values` puts that right. It
does not look into HTML, toasts, alternative texts or what scripts write, and knows no texts with
values in them: `script.py` does that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import gradio as gr

from ipadapter_demo.ui.language.script import SCRIPT

__all__ = ["SCRIPT", "SWITCH", "entries", "keep_values", "translations"]

TABLE = Path(__file__).with_name("zh.json")
# Only the language that is not shown is seen: see assets/style.css.
SWITCH = (
    '<div class="language"><button type="button" data-language="en" lang="en">English</button>'
    '<button type="button" data-language="zh-CN" lang="zh-CN">中文</button></div>'
)


@cache
def entries() -> dict[str, dict[str, str]]:
    """English to Chinese, by the section of the table. A {} in a text stands for any value, {n} for
    a number; {2} in a Chinese text is the second one."""
    found: dict[str, dict[str, str]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


def translations() -> gr.I18n:
    return gr.I18n(**{"zh-CN": dict(_all())})


def keep_values(page: gr.Blocks) -> None:
    """Fields that begin with a word of the table hold it as it is, in any browser."""
    texts = dict(_all())
    fields = [
        one
        for one in page.blocks.values()
        if isinstance(one, gr.Dropdown | gr.Radio | gr.Textbox)
        and isinstance(one.value, str)
        and one.value in texts
    ]
    values = json.dumps([one.value for one in fields])
    page.load(None, js=f"() => {values}", outputs=fields, api_visibility="private")


def _all() -> Iterator[tuple[str, str]]:
    for section in entries().values():
        yield from section.items()
