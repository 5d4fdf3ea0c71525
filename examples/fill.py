import asyncio

from coordinator.client import Branch, Client

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]


async def fill():
    branches = [
        Branch("bank", "open", {"account": "alice", "balance": 2000}),
        Branch("shop", "stock", {"item": "mug", "pieces": 3}),
    ]
    async with Client(REPLICAS) as client:
        print(await client.commit(branches))


asyncio.run(fill())
