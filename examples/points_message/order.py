import asyncio
import sys

from coordinator.client import Aborted, Client, Committed
from coordinator.errors import OutcomeUnknown

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]
CENTS_FOR_A_POINT = 100


def message_of(client, number, customer, cents):
    message = client.message()
    message.when("orders", "place", {"number": number, "cents": cents})
    message.send("points", "credit", {"customer": customer, "points": cents // CENTS_FOR_A_POINT})
    return message


async def order(gid, customer, cents):
    async with Client(REPLICAS) as client:
        try:
            match await message_of(client, gid, customer, cents).run(gid=gid):
                case Committed():
                    print("committed")
                case Aborted(reason=reason):
                    print("aborted:", reason)
        except OutcomeUnknown as unknown:
            print("not known yet:", unknown.gid)


asyncio.run(order(sys.argv[1], sys.argv[2], int(sys.argv[3])))
