"""Structured logs: for people on a terminal, one JSON object a line otherwise.

Fields with a fixed meaning: `node` (this replica or participant), `shard` (the replica's, if there are several), `gid`,
`branch`, `participant`, `term`. Owns the process's logging set-up, called once by whatever owns the process; never by
library code.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

__all__ = ["Level", "setup"]


class Level(StrEnum):
    """How much is said."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


def setup(stream: TextIO, *, level: Level = Level.INFO, node: str | None = None, shard: int | None = None) -> None:
    """Send our logs and those of the standard library to `stream`; `node` and `shard` go into every line."""
    ours = {key: value for key, value in {"node": node, "shard": shard}.items() if value is not None}

    def with_ours(_: object, __: str, event: EventDict) -> EventDict:
        return {**ours, **event}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        with_ours,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if stream.isatty():
        render: list[Processor] = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.value)
    logging.getLogger("aiohttp.access").setLevel("WARNING")
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
