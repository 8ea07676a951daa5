"""The endpoints as tools of the Model Context Protocol, by gradio's server for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import wraps
from typing import Any

from gradio_client import handle_file

from ipadapter_demo.errors import RequestError
from ipadapter_demo.ui.guard.agents import HEADER, IN_SCOPE
from ipadapter_demo.ui.run.uploads import path_of_upload


def complete(server: Any) -> None:  # noqa: ANN401 - gradio's, there only with its package
    """Return every picture of a list as a picture, which gradio would as the text of its address,
    and take uploads by their address, which gradio would download, but not from this machine."""
    to_content, to_files = server.postprocess_output_data, server.convert_strings_to_filedata

    @wraps(to_content)
    def content(data: Iterable[object], root_url: str) -> object:
        return to_content(list(_flat(data)), root_url)

    @wraps(to_files)
    def files(values: dict[str, object], positions: list[list[str | int]]) -> dict[str, object]:
        def one(value: object) -> object:
            found = _upload(value)
            return to_files({"file": value}, [["file"]])["file"] if found is None else found

        def field(name: str, value: object) -> object:
            if isinstance(value, list) and [name, "items"] in positions:  # gradio knows no lists
                return [one(item) for item in value]
            return one(value) if [name] in positions else value

        return {name: field(name, value) for name, value in values.items()}

    server.postprocess_output_data, server.convert_strings_to_filedata = content, files
    _as_the_visitor(server)


def _as_the_visitor(server: Any) -> None:  # noqa: ANN401
    """gradio's server calls the page from this machine, with the headers that it was sent: let the
    page know the visitor's address, which limits count by, and the name under which it is known
    whether he is still there; none that he writes himself."""
    prepare = server._prepare_tool_call_args

    @wraps(prepare)
    def prepared(name: str, arguments: dict[str, object]) -> tuple[Any, ...]:
        endpoint, values, headers, called = prepare(name, arguments)
        request = server.mcp_server.request_context.request
        own = {"x-forwarded-for": request.client.host, HEADER: request.scope[IN_SCOPE]}
        return endpoint, values, headers | own, called

    server._prepare_tool_call_args = prepared


def _flat(values: Iterable[object]) -> Iterator[object]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _upload(value: object) -> object | None:
    """The file of a path that an upload was answered with, or of its address."""
    if not isinstance(value, str):
        return None
    try:
        return handle_file(path_of_upload({"path": value.rpartition("file=")[2]}, "file"))
    except RequestError:
        return None
