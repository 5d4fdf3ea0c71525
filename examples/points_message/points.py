from participant import Participant, Reject
from participant.rm.sqlite import SQLite

SCHEMA = "CREATE TABLE IF NOT EXISTS points (customer TEXT NOT NULL PRIMARY KEY, points INTEGER NOT NULL)"
REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]

points = Participant("points", SQLite("points.db", schema=SCHEMA))


@points.action("credit")
async def credit(tx, body):
    match body:
        case {"customer": str(customer), "points": int(more)} if 0 <= more <= 1_000_000:
            await tx.execute(
                "INSERT INTO points VALUES (?, ?) ON CONFLICT DO UPDATE SET points = points + excluded.points",
                (customer, more),
            )
        case _:
            raise Reject("a customer and 0 to 1000000 points are wanted")


@points.view("/v1/points")
async def show(tx, _query):
    return dict(await tx.execute("SELECT customer, points FROM points"))


points.run(port=9002, replicas=REPLICAS)
