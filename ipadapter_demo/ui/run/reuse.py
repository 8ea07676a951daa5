"""Lines that make a result again, outside the page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

OPTIONS = ("model", "device", "dtype")


def command(name: str, provenance: Mapping[str, object]) -> str:
    """For a shell, of the result that was saved as `name`."""
    options = [f"--{option} {shlex.quote(str(provenance[option]))}" for option in OPTIONS]
    return " ".join(["python -m ipadapter_demo generate --from-png", shlex.quote(name), *options])


def python(name: str, provenance: Mapping[str, object]) -> str:
    """The same in Python."""
    model, device, dtype = (repr(str(provenance[option])) for option in OPTIONS)
    return (
        f"import ipadapter_demo as ip\n\n"
        f"pipeline = ip.load({model}, device={device}, dtype={dtype})\n"
        f"request = ip.request_from_png({name!r})\n"
        f"result = pipeline.generate(request)\n"
    )
