"""Reading what somebody else sends, and no more of it than a limit."""

from __future__ import annotations

from aiohttp import StreamReader

__all__ = ["read_bounded"]


async def read_bounded(content: StreamReader, bytes_max: int) -> bytes:
    """All of a body; of one that is longer than `bytes_max`, its beginning, which then is longer, too."""
    data = bytearray()
    while len(data) <= bytes_max and (piece := await content.readany()):
        data += piece
    return bytes(data)
