import asyncio
import sys

from coordinator.client import OWN, Aborted, Client, Committed, Retry
from coordinator.errors import OutcomeUnknown

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]
PRICE_CENTS = 90_000


async def travel(gid, passenger, night):
    room = {"night": night, "rooms": 1}
    payment = {"account": passenger, "amount": PRICE_CENTS}
    async with Client(REPLICAS) as client:
        trip = client.saga(deadline_ms=60_000)
        flight = trip.step("airline", "book", {"passenger": passenger}, undo="cancel", takes={"seat": OWN})
        trip.step("hotel", "reserve", room, undo="release", retry=Retry(attempts_max=3))
        trip.pivot("bank", "debit", payment)
        trip.then("mail", "send", {"passenger": passenger}, takes={"seat": flight})
        try:
            match await trip.run(gid=gid):
                case Committed():
                    print("committed")
                case Aborted(reason=reason, branch=branch):
                    print("aborted:", reason, f"({branch})")
        except OutcomeUnknown as unknown:
            print("not known yet:", unknown.gid)


asyncio.run(travel(*sys.argv[1:]))
