from participant import Participant, Reject
from participant.rm.sqlite import SQLite

SCHEMA = "CREATE TABLE IF NOT EXISTS orders (number TEXT NOT NULL PRIMARY KEY, cents INTEGER NOT NULL)"
REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]

orders = Participant("orders", SQLite("orders.db", schema=SCHEMA))


@orders.action("place")
async def place(tx, body):
    match body:
        case {"number": str(number), "cents": int(cents)} if 1 <= cents <= 1_000_000:
            await tx.execute("INSERT INTO orders VALUES (?, ?)", (number, cents))
        case _:
            raise Reject("a number and 1 to 1000000 cents are wanted")


@orders.view("/v1/orders")
async def show(tx, _query):
    return dict(await tx.execute("SELECT number, cents FROM orders"))


orders.run(port=9001, replicas=REPLICAS)
