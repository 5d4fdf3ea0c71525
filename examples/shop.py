from participant import Participant, Reject
from participant.rm.sqlite import SQLite

SCHEMA = "CREATE TABLE IF NOT EXISTS stock (item TEXT NOT NULL PRIMARY KEY, pieces INTEGER NOT NULL)"
REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]

shop = Participant("shop", SQLite("shop.db", schema=SCHEMA))


@shop.action("stock")
async def stock(tx, body):
    await tx.execute("INSERT INTO stock VALUES (?, ?)", (body["item"], body["pieces"]))


@shop.action("reserve")
async def reserve(tx, body):
    left = await tx.fetch_value("SELECT pieces FROM stock WHERE item = ?", (body["item"],))
    if left is None or left < body["pieces"]:
        raise Reject(f"not enough {body['item']}: {left or 0} left")
    await tx.execute("UPDATE stock SET pieces = ? WHERE item = ?", (left - body["pieces"], body["item"]))


@shop.view("/v1/stock")
async def show(tx, _query):
    return dict(await tx.execute("SELECT item, pieces FROM stock"))


shop.run(port=9002, replicas=REPLICAS)
