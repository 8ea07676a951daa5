"""The errors of the project, sorted by who has to act on them.

`RequestError` is for the person who asked and is shown to them as it is. `CheckpointError`,
`ModelError` and `ServerError` are for whoever runs the program, `TrainingError` for whoever trains.
A programmer's mistake is a plain `AssertionError`.
"""

from collections.abc import Sequence


class DemoError(Exception):
    """Base of every error this project raises on purpose."""


class RequestError(DemoError, ValueError):
    """A request that cannot be carried out. Names the field, the limit and the value."""


class CheckpointError(DemoError, ValueError):
    """A weight file that is not what it was taken for. Names the file and the difference."""


class ModelError(DemoError, RuntimeError):
    """A model that cannot be loaded or lacks a part. Names the part and where it was looked for."""


class ServerError(DemoError, RuntimeError):
    """A server that cannot start. Names its address or its folder, and the reason."""


class TrainingError(DemoError, RuntimeError):
    """A training that cannot begin or go on. Names the field or the step, and what is left."""


def some_of(names: Sequence[str], count: int = 3) -> str:
    """For a message: the first names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
