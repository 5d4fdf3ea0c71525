"""From Bob at North to Smith at South: `python transfer.py CENTS [TIMES]`."""

import asyncio
import sys
from collections import Counter

from coordinator.client import Aborted, Branch, Client, Committed
from coordinator.errors import OutcomeUnknown

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]


async def transfer(client, cents):
    branches = [
        Branch("north", "post", {"account": "bob", "cents": -cents}),
        Branch("south", "post", {"account": "smith", "cents": cents}),
    ]
    try:
        match await client.commit(branches, deadline_ms=20_000):
            case Committed(gid=gid):
                await client.settled(gid)  # whoever looks at the banks from now on sees it
                return "committed"
            case Aborted(reason=reason):
                return f"aborted: {reason}"
    except OutcomeUnknown as unknown:
        return f"not known yet: {unknown.gid}"


async def main(cents, times=1):
    async with Client(REPLICAS) as client:
        ends = Counter([await transfer(client, cents) for _ in range(times)])
    for end, number in ends.items():
        print(number, end)


asyncio.run(main(*map(int, sys.argv[1:])))
