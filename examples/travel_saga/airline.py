from participant import Participant, Reject
from participant.rm.sqlite import SQLite

SCHEMA = "CREATE TABLE IF NOT EXISTS seats (seat TEXT NOT NULL PRIMARY KEY, passenger TEXT)"
REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]

airline = Participant("airline", SQLite("airline.db", schema=SCHEMA))


@airline.action("offer")
async def offer(tx, body):
    await tx.execute("INSERT INTO seats VALUES (?, NULL)", (text(body, "seat"),))


@airline.action("book")
async def book(tx, body):
    passenger = text(body, "passenger")
    seat = await tx.fetch_value("SELECT seat FROM seats WHERE passenger IS NULL ORDER BY seat LIMIT 1")
    if seat is None:
        raise Reject("no seat is left")
    await tx.execute("UPDATE seats SET passenger = ? WHERE seat = ?", (passenger, seat))
    return seat


@airline.action("cancel")
async def cancel(tx, body):
    await tx.execute("UPDATE seats SET passenger = NULL WHERE seat = ?", (text(body, "seat"),))


def text(body, field):
    match body:
        case {**fields} if isinstance(fields.get(field), str):
            return fields[field]
    raise Reject(f"{field}: must be text")


@airline.view("/v1/seats")
async def seats(tx, _query):
    return dict(await tx.execute("SELECT seat, passenger FROM seats"))


airline.run(port=9002, replicas=REPLICAS)
