"""Notices over HTTP: one signed POST to a URL that the configuration allows, and whether it was taken.

Owns: the session, the secret, and the list of what is allowed. Must never do: retry, follow a redirect (it could lead
to where nothing may be sent), or write the secret anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import aiohttp
from yarl import URL

from coordinator.ports import CallFailed, Letter
from coordinator.webhooks import admits, signed_headers

__all__ = ["HttpNotifier"]


class HttpNotifier:
    """The `Notifier` port. `allowed`: prefixes of URLs. `wall_s` gives wall-clock seconds. To be stopped."""

    def __init__(
        self, allowed: Sequence[str], secret: bytes, *, timeout_s: float = 5.0, wall_s: Callable[[], float]
    ) -> None:
        self._allowed = tuple(allowed)
        self._secret = secret
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._wall_s = wall_s
        self._session: aiohttp.ClientSession | None = None

    async def stop(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def refusal(self, url: str) -> str:
        if any(admits(prefix, url) for prefix in self._allowed):
            return ""
        return "is not below any URL that the configuration allows (notify.allow)"

    def send(self, letter: Letter) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._send(letter))

    async def _send(self, letter: Letter) -> None:
        if why := self.refusal(letter.url):
            raise CallFailed(f"{URL(letter.url, encoded=True).origin()} {why}")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
            )
        signed = signed_headers(letter.id, letter.body, self._secret, int(self._wall_s()))
        headers = {"Content-Type": "application/json", **signed}
        url = URL(letter.url, encoded=True)
        try:
            async with self._session.post(
                url, data=letter.body, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                if not 200 <= response.status < 300:
                    raise CallFailed(f"{url.origin()} answered {response.status}")
        except TimeoutError as error:
            raise CallFailed(f"{url.origin()} did not answer within {self._timeout.total:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise CallFailed(f"{url.origin()}: {error or type(error).__name__}") from error
