"""The options of `serve` that are about the server and its visitors."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def add_server_options(add: Callable[..., argparse.Action], default: Any) -> None:  # noqa: ANN401 - Settings, which is built on this
    """`add` is the method add_argument of a parser; help texts name the default settings."""
    add("--host", help=f"address to listen on [{default.host}]")
    add("--port", type=int, help=f"[{default.port}]")
    add("--max-file-size", help=f"of an upload [{default.max_file_size}]")
    add("--upload-quota", help=f"of a visitor within an hour [{default.upload_quota}]")
    add("--upload-quota-total", help=f"of all visitors [{default.upload_quota_total}]")
    add("--trusted-hosts", help="names of this server, as behind a proxy: demo.example,.lan")
    add("--queue-size", type=int, help=f"waiting users [{default.queue_size}]")
    add(
        "--max-cost",
        type=int,
        metavar="CALLS",
        help="most that one request may cost, in calls of the model for one picture at its own "
        f"size; 0: no limit [{default.max_cost}]",
    )
    add(
        "--time-limit",
        type=int,
        metavar="SECONDS",
        help=f"of drawing for one request, waiting not counted; 0: no limit [{default.time_limit}]",
    )
    add(
        "--visitor-requests",
        type=int,
        metavar="N",
        help="of one visitor, waiting or at work; four times as many from one address; 0: no limit "
        f"[{default.visitor_requests}]",
    )
    add(
        "--models",
        metavar="NAMES",
        help="that visitors may choose, with commas, such as tabletop,sd15 [all of the catalogue]",
    )
    add(
        "--visitor-downloads",
        action=argparse.BooleanOptionalAction,
        help="whoever chooses a model, a LoRA or a structure whose files are not at hand has them "
        "fetched [no]",
    )
    add("--share", action=argparse.BooleanOptionalAction, help="open a public link [no]")
    add("--ray", action=argparse.BooleanOptionalAction, help="draw with Ray Serve [no]")
    add("--replicas", help="of a model, with --ray: 2, or 1-4 [1 to as many as there are GPUs]")
    add("--metrics-port", type=int, help="for Prometheus [none]")
    add("--log-json", action=argparse.BooleanOptionalAction, help="log as JSON lines [no]")
    add("--root-path", metavar="PATH", help="where a proxy shows the page: /demo, or an address")
    add("--auth", metavar="LOGIN", help="user:password, or a file of such lines, for all visitors")
    add("--mcp", action=argparse.BooleanOptionalAction, help="serve the endpoints as tools [no]")
