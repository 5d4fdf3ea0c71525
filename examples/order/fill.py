"""Open Alice's account at the bank, with 20.00."""

import asyncio

from coordinator.client import Branch, Client

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]


async def fill():
    async with Client(REPLICAS) as client:
        print(await client.commit([Branch("bank", "open", {"account": "alice", "balance": 2000})]))


asyncio.run(fill())
