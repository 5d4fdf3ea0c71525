"""An application that is notified: in memory, and as unhelpful as a test wants it to be."""

from __future__ import annotations

import asyncio
import json

from coordinator.ports import CallFailed, Letter
from coordinator.webhooks import NoticeView

__all__ = ["Application"]


class Application:
    """A `Notifier`. `taken` holds what it took, `offered` counts what came; `away`: it takes nothing."""

    def __init__(self) -> None:
        self.taken: list[NoticeView] = []
        self.ids: list[str] = []
        self.offered = 0
        self.away = False
        self._came = asyncio.Event()

    def refusal(self, url: str) -> str:
        return "" if url.startswith(("http://shop/", "http://office/")) else "is not allowed"

    def send(self, letter: Letter) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.offered += 1
        self._came.set()
        if self.away:
            future.set_exception(CallFailed("http://shop answered 503"))
        else:
            self.taken.append(NoticeView.model_validate(json.loads(letter.body)))
            self.ids.append(letter.id)
            future.set_result(None)
        return future

    async def came(self, count: int) -> None:
        """Wait until so many have come, taken or not."""
        while self.offered < count:
            self._came.clear()
            await self._came.wait()
