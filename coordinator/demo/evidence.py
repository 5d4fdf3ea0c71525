"""Collecting what the audit needs, from every replica and every bank, through the API that everybody has.

Must never do: judge it (`audit.py` does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence

import aiohttp

from coordinator.client import Client
from coordinator.demo.audit import Entry, Evidence
from coordinator.demo.cluster import Cluster
from coordinator.demo.errors import DemoError
from coordinator.demo.transfers import Account, Transfer
from coordinator.demo.workload import Heard
from coordinator.ledger.records import Phase
from coordinator.shards import shard_of
from coordinator.wire_queries import LIST_LIMIT_MAX
from participant.ids import BranchKey
from participant.wire import Answer, BranchState, Capabilities, Operation, Verb

__all__ = ["collect"]

SETTLE_TIMEOUT_S = 30.0  # how long what is decided may take to reach everybody
SETTLE_EVERY_S = 0.1
ASK_TIMEOUT_S = 20.0
OPERATIONS_MAX = Capabilities("").operations_max

_OPEN = (Phase.PREPARING, Phase.PRECOMMITTING, Phase.COMMITTING, Phase.ABORTING)
_FINISHED = frozenset({Phase.COMMITTED, Phase.ABORTED})


async def collect(cluster: Cluster, opening: Mapping[Account, int], heard: Sequence[Heard]) -> Evidence:
    """Wait until nothing is under way any more (or SETTLE_TIMEOUT_S have passed), then ask everybody.

    Raises: DemoError, Unavailable, if somebody who should be there does not answer.
    """
    cluster.check()
    answers = {said.transfer: said.outcome for said in heard}
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)) as http:
            in_doubt = await _settle(http, cluster)
            ledgers, strays = await _ledgers(cluster)
            branches = {
                name: await _branches(http, url, _keys_at(name, answers)) for name, url in cluster.banks.items()
            }
            balances: dict[Account, int] = {}
            for name, url in cluster.banks.items():
                balances |= await _balances(http, name, url)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise DemoError(f"a bank does not answer: {error or type(error).__name__}") from error
    return Evidence(opening, answers, ledgers, branches, balances, tuple(in_doubt), tuple(strays))


async def _settle(http: aiohttp.ClientSession, cluster: Cluster) -> list[str]:
    """The branches that are in doubt in the end: none, if all is well."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + SETTLE_TIMEOUT_S
    while True:
        in_doubt = [line for name, url in cluster.banks.items() for line in await _in_doubt(http, name, url)]
        for name, database in cluster.databases.items():  # past the bank: what is not its own would not be its to list
            in_doubt += [f"{xid} in the {database.kind} of {name}" for xid in await database.prepared()]
        busy = in_doubt or any([await _has_open(url) for _, _, url in _replicas(cluster)])
        if not busy or loop.time() >= ends_at:
            return in_doubt
        await asyncio.sleep(SETTLE_EVERY_S)


async def _has_open(url: str) -> bool:
    async with Client([url], timeout_s=ASK_TIMEOUT_S, routed=False) as client:
        async for _ in client.transactions(phases=_OPEN, page_size=1):
            return True
    return False


def _replicas(cluster: Cluster) -> Iterator[tuple[str, int, str]]:
    """Node, shard and URL of every replica."""
    for name in cluster.replicas:
        for shard in range(cluster.shards):
            yield name, shard, cluster.url(name, shard)


async def _ledgers(cluster: Cluster) -> tuple[dict[str, dict[str, Entry]], list[str]]:
    """Every record of every node, and those that are in a shard which they do not belong to."""
    ledgers: dict[str, dict[str, Entry]] = {name: {} for name in cluster.replicas}
    strays = []
    for name, shard, url in _replicas(cluster):
        entries = await _ledger(url)
        ledgers[name] |= entries
        strays += [
            f"{gid} is recorded in shard {shard} of {name}" for gid in entries if shard_of(gid, cluster.shards) != shard
        ]
    return ledgers, strays


async def _ledger(url: str) -> dict[str, Entry]:
    """Every record of one replica, behind a barrier of its log."""
    async with Client([url], timeout_s=ASK_TIMEOUT_S, routed=False) as client:
        views = client.transactions(page_size=LIST_LIMIT_MAX)
        return {view.gid: Entry(view.outcome, view.phase in _FINISHED) async for view in views}


def _keys_at(bank: str, transfers: Iterable[Transfer]) -> list[BranchKey]:
    keys = []
    for transfer in transfers:
        keys += [transfer.debit] if transfer.source.bank == bank else []
        keys += [transfer.credit] if transfer.target.bank == bank else []
    return keys


async def _branches(http: aiohttp.ClientSession, url: str, keys: Sequence[BranchKey]) -> dict[BranchKey, BranchState]:
    states: dict[BranchKey, BranchState] = {}
    for start in range(0, len(keys), OPERATIONS_MAX):
        some = keys[start : start + OPERATIONS_MAX]
        operations = [Operation(Verb.OUTCOME, key).to_map() for key in some]
        async with http.post(f"{url}/v1/branches", json={"operations": operations}, raise_for_status=True) as response:
            answers = (await response.json())["answers"]
        for key, answer in zip(some, answers, strict=True):
            states[key] = Answer.from_map(answer, str(key)).state
    return states


async def _balances(http: aiohttp.ClientSession, bank: str, url: str) -> dict[Account, int]:
    async with http.get(f"{url}/v1/accounts", raise_for_status=True) as response:
        held: dict[str, int] = (await response.json())["accounts"]
    return {Account(bank, name): cents for name, cents in held.items()}


async def _in_doubt(http: aiohttp.ClientSession, bank: str, url: str) -> list[str]:
    async with http.get(f"{url}/v1/in-doubt", raise_for_status=True) as response:
        branches = (await response.json())["branches"]
    return [f"{branch['gid']}/{branch['branch']} at {bank}" for branch in branches]
