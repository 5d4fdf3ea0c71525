"""The ports of the coordinator beside the log (`raftlog.port`)."""

from __future__ import annotations

from asyncio import Future
from typing import NamedTuple, Protocol

from participant.wire import Answer, Capabilities, Operation

__all__ = ["CallFailed", "Letter", "Notifier", "Participants"]


class CallFailed(Exception):
    """The call's outcome is unknown: nothing may be concluded from it but that it may be made again.

    `heard`: the participant said something, though not what it did; so it is not gone.
    """

    def __init__(self, why: str, *, heard: bool = False) -> None:
        super().__init__(why)
        self.heard = heard


class Participants(Protocol):
    """Reaching participants by name. Implementations: HTTP (`participants/http.py`), in process (`local.py`)."""

    def known(self, name: str) -> bool:
        """Whether `name` stands in the configuration; nobody else is ever called."""

    def url(self, name: str) -> str:
        """Where a known participant is, for its peers in a transaction in three phases."""

    async def capabilities(self, name: str) -> Capabilities:
        """The participant's capabilities document, cached; nobody waits long for it. Raises CallFailed."""

    def call(self, name: str, operation: Operation) -> Future[Answer]:
        """Perform one operation at one participant. Ends as CallFailed when its outcome is unknown.

        A future that is cancelled takes nothing back.
        """


class Letter(NamedTuple):
    """A notice on its way. `id`: the same whenever it is sent; `body` is JSON."""

    url: str
    id: str
    body: bytes


class Notifier(Protocol):
    """Reaching applications at URLs that they named. Implementation: HTTP (`participants/notices.py`)."""

    def refusal(self, url: str) -> str:
        """Why nothing may be sent there; "" if it may."""

    def send(self, letter: Letter) -> Future[None]:
        """Send it once. Ends as CallFailed unless it was taken."""
