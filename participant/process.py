"""Running a server in this process: which event loop, and when garbage is collected."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run"]

# The collector counts containers that were made and not yet freed. A busy server has tens of thousands of them, all in
# use, and with Python's thresholds (700, 10, 10) a quarter of its time goes into looking at them again and again.
GC_THRESHOLDS = (100_000, 50, 100)

_T = TypeVar("_T")


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run `main` to its end, on uvloop where it is installed. What was imported until now is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(main)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # optional: not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
