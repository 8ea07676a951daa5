"""Trusted hosts. A page elsewhere can make a visitor's browser ask this server, under a name of its
own that it lets point here (DNS rebinding), or under ours: the first shows in Host, the second in
Origin. A browser sets both, and no script can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ipadapter_demo.settings import Settings, listed_hosts
from ipadapter_demo.ui.guard.refusal import Refused


@dataclass(frozen=True, slots=True)
class TrustedHosts:
    """`names` are hosts without a port; one that begins with a dot stands for all below it, and *
    for any. `any_address` trusts every IP address: a page that rebinds a name has no address."""

    names: frozenset[str]
    any_address: bool

    def trusts(self, host: str | None) -> bool:
        """`host` is None where a header has none."""
        if host is None:
            return False
        try:
            address = ip_address(host)
        except ValueError:
            below = (host[at:] for at, letter in enumerate(host) if letter == ".")
            return not self.names.isdisjoint((host, "*", *below))
        return address.is_loopback or self.any_address or host in self.names


def trusted_hosts(settings: Settings, env: Mapping[str, str]) -> TrustedHosts:
    """This machine; what the operator names; of a Space and of a share link, their own."""
    names = {"localhost", settings.host.strip("[]").lower(), *listed_hosts(settings.trusted_hosts)}
    if (shown_at := host_of_url(settings.root_path)) is not None:
        names.add(shown_at)
    if settings.share:
        names.add(".gradio.live")
    if env.get("SPACE_ID"):
        names.add(env.get("SPACE_HOST", "").lower() or ".hf.space")
    return TrustedHosts(frozenset(names), any_address=not _is_loopback(settings.host))


class Hosts:
    def __init__(self, app: ASGIApp, trusted: TrustedHosts) -> None:
        self.app, self.trusted = app, trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            self._check("Host", f"//{headers.get('host', '')}")
            if (origin := headers.get("origin")) is not None:
                self._check("Origin", origin)
        await self.app(scope, receive, send)

    def _check(self, header: str, url: str) -> None:
        host = host_of_url(url)
        if not self.trusted.trusts(host):
            raise Refused(
                403,
                f"{header} {url.removeprefix('//')!r:.100} is not trusted: whoever runs this "
                "server may name it with --trusted-hosts",
            )


def host_of_url(url: str) -> str | None:
    """In lower case, without port, brackets and the dot of the root."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        return None
    return host.removesuffix(".") if host else None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
