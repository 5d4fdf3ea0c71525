import asyncio
import sys

from coordinator.client import OWN, Aborted, Client, Committed, Retry
from coordinator.errors import OutcomeUnknown

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]
PRICE_CENTS = 90_000


def trip_of(client, passenger, night):
    trip = client.saga(deadline_ms=60_000)
    flight = trip.step("airline", "book", {"passenger": passenger}, undo="cancel", takes={"seat": OWN})
    trip.step("hotel", "reserve", {"night": night, "rooms": 1}, undo="release", retry=Retry(attempts_max=3))
    trip.pivot("bank", "debit", {"account": passenger, "amount": PRICE_CENTS})
    trip.then("mail", "send", {"passenger": passenger}, takes={"seat": flight})
    return trip


async def travel(gid, passenger, night):
    async with Client(REPLICAS) as client:
        try:
            match await trip_of(client, passenger, night).run(gid=gid):
                case Committed():
                    print("committed")
                case Aborted(reason=reason, branch=branch):
                    print("aborted:", reason, f"({branch})")
        except OutcomeUnknown as unknown:
            print("not known yet:", unknown.gid)


asyncio.run(travel(*sys.argv[1:]))
