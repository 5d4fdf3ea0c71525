import asyncio
import sys

from coordinator.client import Aborted, Client, Committed
from coordinator.errors import OutcomeUnknown

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]
ROOM_CENTS = 10_000


def tour_of(client, rooms):
    tour = client.tcc(deadline_ms=60_000)
    for hotel in ("north", "south"):
        wish = {"kind": "double", "rooms": rooms}
        tour.reserve(hotel, wish, attempt="reserve", confirm="settle", cancel="release")
    tour.prepare("bank", "debit", {"account": "alice", "amount": 2 * rooms * ROOM_CENTS})
    return tour


async def stay(gid, rooms):
    async with Client(REPLICAS) as client:
        try:
            match await tour_of(client, rooms).run(gid=gid):
                case Committed():
                    print("committed")
                case Aborted(reason=reason, branch=branch):
                    print("aborted:", reason, f"({branch})")
        except OutcomeUnknown as unknown:
            print("not known yet:", unknown.gid)


asyncio.run(stay(sys.argv[1], int(sys.argv[2])))
