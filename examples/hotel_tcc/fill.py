import asyncio

from coordinator.client import Branch, Client

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]


async def fill():
    branches = [
        Branch("north", "offer", {"kind": "double", "rooms": 4}),
        Branch("south", "offer", {"kind": "double", "rooms": 2}),
        Branch("bank", "open", {"account": "alice", "balance": 100_000}),
    ]
    async with Client(REPLICAS) as client:
        print(await client.commit(branches, gid="fill"))


asyncio.run(fill())
