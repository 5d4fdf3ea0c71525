"""Let Bob and Smith have the same. How much that takes is known only once both banks have answered."""

import asyncio

from coordinator.client import Client
from coordinator.errors import TransactionAborted, WorkFailed

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]


async def post(tx, bank, account, cents):
    balance = await tx.request(bank, "POST", "/postings", json={"account": account, "cents": cents})
    return balance["cents"]


async def level(client):
    async with client.transaction() as tx:
        bob = await post(tx, "north", "bob", 0)
        smith = await post(tx, "south", "smith", 0)
        cents = (bob - smith) // 2
        bob = await post(tx, "north", "bob", -cents)
        smith = await post(tx, "south", "smith", cents)
    return f"bob has {bob}, smith {smith}"


async def main():
    async with Client(REPLICAS) as client:
        try:
            print(await level(client))
        except (TransactionAborted, WorkFailed) as error:
            print(type(error).__name__, error)


asyncio.run(main())
