"""An error as the result of an operation: raised by awaiting it, as the port of resource managers says."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["refused"]


def refused(error: BaseException) -> asyncio.Future[Any]:
    """A future that has failed."""
    future = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future
