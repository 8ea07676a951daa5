"""Between strangers and gradio: who may ask, for what, and how much of it.

From the outside inwards: headers on every answer, words instead of errors, trusted hosts, the
routes that the page needs, a bounded body, a call that has the shape of its endpoint, and agents
who leave.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from starlette.middleware import Middleware

from ipadapter_demo.settings import Settings, bytes_of
from ipadapter_demo.ui.guard.agents import Agents
from ipadapter_demo.ui.guard.answers import Answers
from ipadapter_demo.ui.guard.bodies import Bodies
from ipadapter_demo.ui.guard.calls import Calls
from ipadapter_demo.ui.guard.headers import Headers
from ipadapter_demo.ui.guard.hosts import Hosts, trusted_hosts
from ipadapter_demo.ui.guard.quota import Quota, Share
from ipadapter_demo.ui.guard.routes import Routes

__all__ = ["app_options"]

MAX_FILES, MAX_FILES_OF_ALL = 1000, 20_000  # uploaded within an hour


def app_options(settings: Settings, env: Mapping[str, str] = os.environ) -> dict[str, object]:
    """Options of the FastAPI application, for the `app_kwargs` of gradio's `launch`."""
    on_space = bool(env.get("SPACE_ID"))
    quota = Quota(
        Share(bytes_of(settings.upload_quota), MAX_FILES),
        Share(bytes_of(settings.upload_quota_total), MAX_FILES_OF_ALL),
    )
    return {
        "middleware": [
            Middleware(Headers, on_space=on_space),
            Middleware(Answers),
            Middleware(Hosts, trusted=trusted_hosts(settings, env)),
            Middleware(Routes),
            Middleware(Bodies, quota=quota),
            Middleware(Calls),
            Middleware(Agents),
        ],
        "docs_url": None,  # FastAPI's own pages ask another machine for their scripts
        "redoc_url": None,
        "openapi_url": None,
    }
