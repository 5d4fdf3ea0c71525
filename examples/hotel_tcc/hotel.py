import sys

from participant import Participant, Reject, reservations
from participant.rm.sqlite import SQLite

REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]

name, port = sys.argv[1], int(sys.argv[2])
hotel = Participant(name, SQLite(f"{name}.db", schema=reservations.SQLITE))


@hotel.action("offer")
async def offer(tx, body):
    await reservations.offer(tx, *wanted(body))


@hotel.action("reserve")
async def reserve(tx, body):
    await reservations.reserve(tx, *wanted(body))


@hotel.action("settle")
async def settle(tx, body):
    await reservations.settle(tx, *wanted(body))


@hotel.action("release")
async def release(tx, body):
    await reservations.release(tx, *wanted(body))


def wanted(body):
    match body:
        case {"kind": str(kind), "rooms": int(rooms)} if 1 <= rooms <= 1000:
            return f"{kind} rooms", rooms
    raise Reject("a kind and 1 to 1000 rooms are wanted")


@hotel.view("/v1/rooms")
async def show(tx, _query):
    return {kind: level._asdict() for kind, level in (await reservations.levels(tx)).items()}


hotel.run(port=port, replicas=REPLICAS)
