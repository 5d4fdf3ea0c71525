"""What the commands that talk to a cluster share: whom to ask, and the loop to ask in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

import typer

from coordinator.client import Client

__all__ = ["JsonOption", "UrlOption", "ask", "is_url", "urls_of"]

TIMEOUT_S = 10.0

UrlOption = Annotated[
    str, typer.Option("--url", envvar="COMMITD_URL", help="Any replica, or several with commas between them.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

_T = TypeVar("_T")


def ask(url: str, question: Callable[[Client], Awaitable[_T]]) -> _T:
    """Ask the cluster behind `url`, and wait for the answer."""
    urls = urls_of(url)

    async def run() -> _T:
        async with Client(urls, timeout_s=TIMEOUT_S) as client:
            return await question(client)

    return asyncio.run(run())


def urls_of(url: str) -> list[str]:
    """The replicas that `--url` names. Raises BadParameter."""
    urls = [part.strip() for part in url.split(",") if part.strip()]
    if not urls or not all(is_url(part) for part in urls):
        raise typer.BadParameter("write it as http://host:port", param_hint="--url")
    return urls


def is_url(text: str) -> bool:
    """Whether it is http://host:port, or https."""
    parts = urlsplit(text)
    try:
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number, or too large
        return False
