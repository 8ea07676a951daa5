"""Fonts for typed text: one that comes with matplotlib, and the system's for what it lacks."""

from __future__ import annotations

import logging
import unicodedata
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType

FAMILY = "DejaVu Sans"  # comes with matplotlib, so a figure looks the same everywhere

# Chinese, Japanese and Korean, in the order in which they are asked: by the names of their files,
# on Linux, macOS and Windows. After them any font called Noto Sans, of whichever script.
_FILES = (
    "NotoSansCJK",
    "SourceHanSans",
    "NotoSansSC",
    "NotoSansJP",
    "NotoSansKR",
    "NotoSansTC",
    "DroidSansFallback",
    "wqy-microhei",
    "wqy-zenhei",
    "PingFang",
    "Hiragino Sans GB",
    "AppleSDGothicNeo",
    "msyh",
    "YuGoth",
    "meiryo",
    "malgun",
    "simhei",
    "msgothic",
    "NanumGothic",
    "ipaexg",
    "ipag",
    "Arial Unicode",
    "NotoSans",
)
_MAX_FILES = 60  # that are opened, of those that fit

log = logging.getLogger(__name__)


def families(text: str) -> list[str]:
    """Font families that together draw `text`, as far as the system has them: matplotlib takes
    each character from the first that has it."""
    return [FAMILY, *_found(_missing(text))]


def drawable(text: str) -> frozenset[str]:
    """The characters of `text` that `families` can draw."""
    files = (_font_manager().findfont(FAMILY), *_found(_missing(text)).values())
    return frozenset(c for c in set(text) if any(ord(c) in _characters(path) for path in files))


def _font_manager() -> ModuleType:
    """matplotlib's, imported with the first text, since the page has no time for it."""
    from matplotlib import font_manager

    return font_manager


def _missing(text: str) -> frozenset[str]:
    """Letters, and characters like them, that the first font lacks. Symbols are named and not
    looked for, since the fonts of most are in colour, and private ones mean something else
    everywhere."""
    own = _characters(_font_manager().findfont(FAMILY))
    return frozenset(c for c in text if ord(c) not in own and unicodedata.category(c)[0] in "LMNP")


@lru_cache(maxsize=256)
def _found(missing: frozenset[str]) -> dict[str, str]:
    """family -> file of as few fonts as bring what is missing, in the order of _FILES."""
    found: dict[str, str] = {}
    for path in _system_fonts() if missing else ():
        had = {c for c in missing if ord(c) in _characters(path)}
        if had:
            found[_family(path)] = path
            missing -= had
        if not missing:
            break
    return found


@cache
def _system_fonts() -> tuple[str, ...]:
    """Those of _FILES that the system has. Looked up on the disk: matplotlib's own list is made
    once and does not know a font that was installed later."""
    found = [path for path in _font_manager().findSystemFonts() if _rank(path) < len(_FILES)]
    return tuple(sorted(found, key=lambda path: (_rank(path), *_plainness(path)))[:_MAX_FILES])


def _rank(path: str) -> int:
    name = Path(path).name.lower().replace("-", "").replace(" ", "")
    wanted = (start.lower().replace("-", "").replace(" ", "") for start in _FILES)
    return next(
        (number for number, start in enumerate(wanted) if name.startswith(start)), len(_FILES)
    )


def _plainness(path: str) -> tuple[bool, str]:
    """The regular weight first."""
    name = Path(path).stem.lower()
    return not name.endswith(("regular", "full", "fallback", "-vf")), name


@cache
def _characters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError) as error:  # a font that nobody can read
        log.info("the font %s cannot be read: %s", path, error)
        return frozenset()


def _family(path: str) -> str:
    """Its name, under which matplotlib finds it from now on."""
    manager = _font_manager().fontManager
    if not any(entry.fname == path for entry in manager.ttflist):
        manager.addfont(path)
    return next(entry.name for entry in manager.ttflist if entry.fname == path)
