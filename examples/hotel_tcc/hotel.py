import sys

from participant import Participant, Reject
from participant.rm.sqlite import SQLite

SCHEMA = """
CREATE TABLE IF NOT EXISTS rooms (
    kind TEXT NOT NULL PRIMARY KEY, free INTEGER NOT NULL CHECK (free >= 0), held INTEGER NOT NULL CHECK (held >= 0)
)
"""
REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]

name, port = sys.argv[1], int(sys.argv[2])
hotel = Participant(name, SQLite(f"{name}.db", schema=SCHEMA))


@hotel.action("offer")
async def offer(tx, body):
    kind, rooms = wanted(body)
    await tx.execute("INSERT INTO rooms VALUES (?, ?, 0)", (kind, rooms))


@hotel.action("reserve")
async def reserve(tx, body):
    kind, rooms = wanted(body)
    free = await tx.fetch_value("SELECT free FROM rooms WHERE kind = ?", (kind,))
    if free is None or free < rooms:
        raise Reject(f"{name} has {free or 0} {kind} rooms")
    await tx.execute("UPDATE rooms SET free = free - ?, held = held + ? WHERE kind = ?", (rooms, rooms, kind))


@hotel.action("settle")
async def settle(tx, body):
    kind, rooms = wanted(body)
    await tx.execute("UPDATE rooms SET held = held - ? WHERE kind = ?", (rooms, kind))


@hotel.action("release")
async def release(tx, body):
    kind, rooms = wanted(body)
    await tx.execute("UPDATE rooms SET free = free + ?, held = held - ? WHERE kind = ?", (rooms, rooms, kind))


def wanted(body):
    match body:
        case {"kind": str(kind), "rooms": int(rooms)} if 1 <= rooms <= 1000:
            return kind, rooms
    raise Reject("a kind and 1 to 1000 rooms are wanted")


@hotel.view("/v1/rooms")
async def show(tx, _query):
    return {kind: {"free": free, "held": held} for kind, free, held in await tx.execute("SELECT * FROM rooms")}


hotel.run(port=port, replicas=REPLICAS)
