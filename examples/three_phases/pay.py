"""Open an account at each of three banks, or pay from the first to the two others: python pay.py GID CENTS"""

import asyncio
import sys

from coordinator.client import Aborted, Branch, Client, CommitProtocol, Committed

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]


def opened():
    return [Branch(bank, "open", {"account": "alice", "balance": 100}) for bank in ("north", "south", "west")]


def paid(cents):
    return [
        Branch("north", "debit", {"account": "alice", "amount": 2 * cents}),
        Branch("south", "credit", {"account": "alice", "amount": cents}),
        Branch("west", "credit", {"account": "alice", "amount": cents}),
    ]


async def main(gid, cents):
    branches = paid(int(cents)) if int(cents) else opened()
    async with Client(REPLICAS, timeout_s=60) as client:
        match await client.commit(branches, gid=gid, deadline_ms=60_000, protocol=CommitProtocol.THREE_PHASE):
            case Committed():
                print("committed")
            case Aborted(reason=reason):
                print("aborted:", reason)


asyncio.run(main(*sys.argv[1:]))
