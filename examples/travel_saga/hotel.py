from participant import Participant, Reject
from participant.rm.sqlite import SQLite

SCHEMA = "CREATE TABLE IF NOT EXISTS nights (night TEXT NOT NULL PRIMARY KEY, rooms INTEGER NOT NULL)"
REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]

hotel = Participant("hotel", SQLite("hotel.db", schema=SCHEMA))


@hotel.action("offer")
async def offer(tx, body):
    night, rooms = wanted(body)
    await tx.execute("INSERT INTO nights VALUES (?, ?)", (night, rooms))


@hotel.action("reserve")
async def reserve(tx, body):
    night, rooms = wanted(body)
    left = await tx.fetch_value("SELECT rooms FROM nights WHERE night = ?", (night,))
    if left is None or left < rooms:
        raise Reject(f"no room is left on {night}")
    await tx.execute("UPDATE nights SET rooms = ? WHERE night = ?", (left - rooms, night))


@hotel.action("release")
async def release(tx, body):
    night, rooms = wanted(body)
    await tx.execute("UPDATE nights SET rooms = rooms + ? WHERE night = ?", (rooms, night))


def wanted(body):
    match body:
        case {"night": str(night), "rooms": int(rooms)} if 1 <= rooms <= 1000:
            return night, rooms
    raise Reject("a night and 1 to 1000 rooms are wanted")


@hotel.view("/v1/nights")
async def nights(tx, _query):
    return dict(await tx.execute("SELECT night, rooms FROM nights"))


hotel.run(port=9003, replicas=REPLICAS)
