import asyncio
import sys

from trip import REPLICAS, trip

from coordinator.client import Client
from coordinator.errors import OutcomeUnknown, TransactionAborted


async def book(gid, passenger, *nights):
    async with Client(REPLICAS) as client:
        wish = {"passenger": passenger, "nights": nights}
        try:
            run = await client.start(trip, wish, gid=gid, key=f"trips of {passenger}", deadline_ms=600_000)
            print(await run.result())
        except TransactionAborted as aborted:
            print("aborted:", aborted.reason)
        except OutcomeUnknown as unknown:
            print("not known yet:", unknown.gid)


asyncio.run(book(*sys.argv[1:]))
