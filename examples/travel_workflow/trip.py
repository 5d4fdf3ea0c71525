import asyncio

from coordinator.client import OWN, Client, Worker, workflow
from coordinator.errors import StepRefused

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]
PRICE_CENTS = 90_000


@workflow
async def trip(tx, wish):
    passenger = wish["passenger"]
    seat = await tx.step("airline", "book", {"passenger": passenger}, undo="cancel", takes={"seat": OWN})
    night = await first_free(tx, wish["nights"])
    await tx.message("mail", "send", {"passenger": passenger, "seat": seat})
    await tx.pivot("bank", "debit", {"account": passenger, "amount": PRICE_CENTS})
    return {"seat": seat, "night": night}


async def first_free(tx, nights):
    for night in nights:
        try:
            await tx.step("hotel", "reserve", {"night": night, "rooms": 1}, undo="release")
        except StepRefused:
            continue
        return night
    raise LookupError("no room is left")


async def main():
    async with Client(REPLICAS) as client:
        await Worker(client, [trip]).run()


if __name__ == "__main__":
    asyncio.run(main())
