from participant import Participant, Reject
from participant.rm.sqlite import SQLite

SCHEMA = "CREATE TABLE IF NOT EXISTS letters (number INTEGER PRIMARY KEY, passenger TEXT NOT NULL, seat TEXT NOT NULL)"
REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]

mail = Participant("mail", SQLite("mail.db", schema=SCHEMA))


@mail.action("send")
async def send(tx, body):
    match body:
        case {"passenger": str(passenger), "seat": str(seat)}:
            await tx.execute("INSERT INTO letters (passenger, seat) VALUES (?, ?)", (passenger, seat))
        case _:
            raise Reject("a passenger and a seat are wanted")


@mail.view("/v1/letters")
async def letters(tx, _query):
    rows = await tx.execute("SELECT passenger, seat FROM letters ORDER BY number")
    return [f"{passenger}: your seat is {seat}" for passenger, seat in rows]


mail.run(port=9004, replicas=REPLICAS)
