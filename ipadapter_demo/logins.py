"""Who may see the page. No message here repeats a password."""

from __future__ import annotations

import re
from pathlib import Path


def logins(text: str) -> list[tuple[str, str]]:
    """(user, password) of "user:password", or of the lines of a file, without empty lines and those
    that begin with #. Raises ValueError."""
    if not text:
        return []
    try:
        is_file = Path(text).is_file()
    except OSError:  # longer than a name can be
        is_file = False
    if not is_file:
        if re.match(r"\s*[A-Za-z]:[\\/]", text):
            raise ValueError(
                "auth looks like the path of a file on Windows, and there is none of that name; "
                r"a user of one letter whose password begins with \ or / goes into a file"
            )
        return [_login(text, "auth")]
    try:
        content = Path(text).read_text(encoding="utf-8-sig")  # as Windows writes it
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"auth: {text} cannot be read as text in UTF-8: {error}") from error
    lines = enumerate(content.splitlines(), 1)
    given = [(number, line) for number, line in lines if line.strip() and line[0] != "#"]
    found = [_login(line, f"auth: line {number} of {text}") for number, line in given]
    if not found:
        raise ValueError(f"auth: {text} has no line user:password")
    return found


def _login(text: str, where: str) -> tuple[str, str]:
    user, colon, password = text.strip().partition(":")
    if not (user and colon and password):
        raise ValueError(f"{where} must be user:password, or a file of such lines")
    return user, password
