"""Which transactions have ended, while their applications have not been told: an index of the table, by host.

An application that is gone keeps its transactions open; that there is a count for each host lets it fill its own share
only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from coordinator.ledger.records import TransactionRecord

__all__ = ["Untold", "host_of"]

_AUTHORITY_ENDS = re.compile("[/?#]")


def host_of(url: str) -> str:
    """Host and port of the URL of an application, as far as it names them. Total, as all that a ledger does."""
    return _AUTHORITY_ENDS.split(url.partition("://")[2], maxsplit=1)[0].lower()


class Untold:
    """The gids of the records that have ended, and are not finished. `len()`: how many."""

    def __init__(self, records: Iterable[TransactionRecord] = ()) -> None:
        self._gids: dict[str, set[str]] = {}
        for record in records:
            self.note(record)

    def __len__(self) -> int:
        return sum(map(len, self._gids.values()))

    def at(self, url: str) -> int:
        """How many of them are to be told to the host of `url`."""
        return len(self._gids.get(host_of(url), ()))

    def note(self, record: TransactionRecord) -> None:
        """The table holds it now, or holds it like this."""
        if not record.notify:
            return
        host = host_of(record.notify)
        if record.ended and not record.finished:
            self._gids.setdefault(host, set()).add(record.gid)
        elif (gids := self._gids.get(host)) is not None:
            gids.discard(record.gid)
            if not gids:
                del self._gids[host]
