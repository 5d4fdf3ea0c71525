import asyncio

from coordinator.client import Branch, Client

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]


async def fill():
    branches = [
        Branch("airline", "offer", {"seat": "1A"}, "seat-1A"),
        Branch("airline", "offer", {"seat": "1B"}, "seat-1B"),
        Branch("hotel", "offer", {"night": "2027-05-01", "rooms": 3}),
        Branch("bank", "open", {"account": "alice", "balance": 200_000}),
        Branch("bank", "open", {"account": "bob", "balance": 100}),
    ]
    async with Client(REPLICAS) as client:
        print(await client.commit(branches, gid="fill"))


asyncio.run(fill())
