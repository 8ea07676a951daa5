"""The options of `generate` that are words."""

from __future__ import annotations

from collections.abc import Callable

from ipadapter_demo.prompt_syntax import PROMPT_SYNTAXES


def add_prompt_options(add: Callable[..., object]) -> None:
    add("--prompt", metavar="TEXT", help="what the picture shows, in words")
    add("--negative-prompt", metavar="TEXT", help="what it should not show")
    add(
        "--prompt-2",
        metavar="TEXT",
        help="words for the second text encoder of SDXL [those of --prompt]",
    )
    add("--negative-prompt-2", metavar="TEXT", help="likewise [those of --negative-prompt]")
    add(
        "--prompt-syntax",
        choices=PROMPT_SYNTAXES,
        help="plain: prompts as they stand, as far as the model reads; weighted: (word:1.3), "
        "(word), [word] and BREAK count, and prompts are read whole [plain]",
    )
    add(
        "--clip-skip",
        type=int,
        metavar="N",
        help="how many of the text encoder's last layers the prompt leaves out; what other "
        "programs call clip skip 2 is 1 here [0]",
    )
