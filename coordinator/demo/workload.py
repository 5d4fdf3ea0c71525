"""The clients: each takes the next transfer, has it committed, and waits for an answer that it can rely on.

Owns: what the clients heard, and when. Must never do: conclude anything from silence. A transfer keeps its gid until
somebody says how it ended, so asking again is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from coordinator.client import Aborted, Branch, Client, Committed
from coordinator.demo.errors import DemoError
from coordinator.demo.transfers import Account, Transfer
from coordinator.errors import OutcomeUnknown, Unavailable
from coordinator.wire import BRANCHES_MAX, Outcome

__all__ = ["ASK_TIMEOUT_S", "ATTEMPT_TIMEOUT_S", "Heard", "Workload", "open_accounts"]

ATTEMPT_TIMEOUT_S = 1.0
ASK_TIMEOUT_S = 60.0  # how long a client asks for one transfer before it reports "deciding"


@dataclass(frozen=True, slots=True)
class Heard:
    """What a client was told of a transfer. DECIDING: nobody told it anything else for ASK_TIMEOUT_S."""

    transfer: Transfer
    outcome: Outcome
    reason: str
    begun_at_s: float
    ended_at_s: float


class Workload:
    """`transfers` by `clients` clients. `heard` grows in the order of the answers.

    None of them is begun before `allow` says so. `tell` is told each answer.
    """

    def __init__(
        self,
        transfers: Sequence[Transfer],
        urls: Sequence[str],
        clients: int,
        chance: Random,
        tell: Callable[[Heard], None],
    ) -> None:
        self.heard: list[Heard] = []
        self._transfers = transfers
        self._urls = tuple(urls)
        self._clients = clients
        self._chance = chance
        self._tell = tell
        self._allowed = 0
        self._news = asyncio.Condition()

    async def allow(self, transfers: int) -> None:
        """Let the clients begin that many of the transfers."""
        async with self._news:
            self._allowed = max(self._allowed, transfers)
            self._news.notify_all()

    async def answered(self, transfers: int) -> None:
        """Wait until that many have been answered."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.heard) >= transfers)

    async def run(self) -> None:
        """Until every transfer is answered."""
        queue = iter(enumerate(self._transfers))
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._client(queue), name=f"client {number}")

    async def _client(self, queue: Iterator[tuple[int, Transfer]]) -> None:
        async with Client(self._urls, attempt_timeout_s=ATTEMPT_TIMEOUT_S, chance=self._chance) as client:
            for position, transfer in queue:
                async with self._news:
                    while position >= self._allowed:
                        await self._news.wait()
                heard = await _transfer(client, transfer)
                self._tell(heard)
                async with self._news:
                    self.heard.append(heard)
                    self._news.notify_all()


async def open_accounts(urls: Sequence[str], opening: Mapping[Account, int], chance: Random) -> None:
    """Open every account, many in one transaction. Raises DemoError."""
    branches = [
        Branch(account.bank, "open", {"account": account.name, "balance": cents}) for account, cents in opening.items()
    ]
    async with Client(urls, attempt_timeout_s=ATTEMPT_TIMEOUT_S, chance=chance) as client:
        for start in range(0, len(branches), BRANCHES_MAX):
            ended = await client.commit(
                branches[start : start + BRANCHES_MAX], gid=f"open-{start}", timeout_s=ASK_TIMEOUT_S
            )
            if isinstance(ended, Aborted):
                raise DemoError(f"the accounts cannot be opened: {ended.reason}")
            await client.settled(ended.gid, timeout_s=ASK_TIMEOUT_S)  # transfers are to find them


async def _transfer(client: Client, transfer: Transfer) -> Heard:
    loop = asyncio.get_running_loop()
    begun_at_s = loop.time()
    outcome, reason = await _commit(client, transfer)
    return Heard(transfer, outcome, reason, begun_at_s, loop.time())


async def _commit(client: Client, transfer: Transfer) -> tuple[Outcome, str]:
    branches = [
        Branch(
            transfer.source.bank,
            "debit",
            {"account": transfer.source.name, "amount": transfer.cents},
            transfer.debit.branch,
        ),
        Branch(
            transfer.target.bank,
            "credit",
            {"account": transfer.target.name, "amount": transfer.cents},
            transfer.credit.branch,
        ),
    ]
    try:
        ended = await client.commit(branches, gid=transfer.gid, timeout_s=ASK_TIMEOUT_S)
    except (OutcomeUnknown, Unavailable) as error:
        return Outcome.DECIDING, str(error)
    match ended:
        case Committed():
            return Outcome.COMMITTED, ""
        case Aborted(reason=reason):
            return Outcome.ABORTED, reason
