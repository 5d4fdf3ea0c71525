"""A wire between a client and its server that is cut when the client has said something, before the answer arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Self

from yarl import URL

__all__ = ["Eavesdropper"]

ANSWER_TIME_S = 0.3  # for the server to do what it was asked, once its answer is lost


class Eavesdropper:
    """Passes on every byte, in both directions, until it hears the words."""

    def __init__(self, dsn: str) -> None:
        self._server = URL(dsn)
        self._words: bytes | None = None
        self._last_words: bytes | None = None
        self._is_silent = False
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def at(cls, dsn: str) -> AsyncIterator[Self]:
        """A wire to the server of `dsn`."""
        wire = cls(dsn)
        listener = await asyncio.start_server(wire._serve, "127.0.0.1")
        wire._port = listener.sockets[0].getsockname()[1]
        try:
            yield wire
        finally:
            listener.close()
            for task in wire._tasks:
                task.cancel()
            await asyncio.gather(*wire._tasks, return_exceptions=True)
            await listener.wait_closed()

    @property
    def dsn(self) -> str:
        """Of the server, through this."""
        return str(self._server.with_port(self._port))

    def cut_after(self, words: bytes) -> None:
        """Let the next client that says this have no answer. Once."""
        self._words = words

    def fall_silent_after(self, words: bytes) -> None:
        """Once a client has said this, nobody has an answer any more, and no connection ends."""
        self._last_words = words

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with closing(writer), suppress(asyncio.CancelledError):  # whoever cancels waits for the end of it
            await self._carry(reader, writer)
        self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._server.host, self._server.port)
        answers = asyncio.ensure_future(self._pass_on(there[0], writer))
        try:
            while data := await reader.read(65_536):
                if self._last_words is not None and self._last_words in data:
                    self._is_silent = True
                if self._words is not None and self._words in data:
                    self._words = None
                    answers.cancel()
                    there[1].write(data)
                    await asyncio.sleep(ANSWER_TIME_S)
                    return
                there[1].write(data)
        except OSError:
            return
        finally:
            answers.cancel()
            there[1].close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                if not self._is_silent:
                    writer.write(data)
        except OSError:
            return
        finally:
            writer.close()
