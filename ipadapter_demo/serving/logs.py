"""The log of a server as lines of JSON, without anything that a visitor wrote.

A line has the facts of a request under its id (`pipeline.request_log`), or a message without its
values; of an error it has the type and the places in the code, not the text, which may repeat what
was asked for. Messages that another library has filled in already are left out.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

PACKAGE = "ipadapter_demo"


def log_requests(as_json: bool, stream: TextIO = sys.stderr) -> None:
    """Write the log of this process to a stream: warnings and errors as they are, or, as JSON,
    everything, with a line for each request."""
    handler = logging.StreamHandler(stream)
    if as_json:
        handler.setFormatter(JsonLines())
    else:
        handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    logging.getLogger(PACKAGE).setLevel(logging.INFO)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        ours = record.name.split(".")[0] == PACKAGE
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if ours or record.args:
            line["message"] = record.msg if isinstance(record.msg, str) else ""
        line |= facts_of(record)
        if record.exc_info and record.exc_info[1] is not None:
            line["errors"] = list(_errors(record.exc_info[1]))
        return json.dumps(line)


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """Of a request; none in any other record."""
    return getattr(record, "facts", {})


def _errors(error: BaseException) -> Iterator[dict[str, object]]:
    """An error, then the one that it came from, and so on. Notes are written by this project."""
    found: BaseException | None = error
    while found is not None:
        places = traceback.extract_tb(found.__traceback__)
        yield {
            "type": type(found).__name__,
            "notes": getattr(found, "__notes__", []),
            "places": [f"{place.filename}:{place.lineno} {place.name}" for place in places],
        }
        found = found.__cause__ or found.__context__
