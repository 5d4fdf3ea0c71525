from participant import Participant, Reject
from participant.rm.sqlite import SQLite

SCHEMA = "CREATE TABLE IF NOT EXISTS stock (item TEXT NOT NULL PRIMARY KEY, pieces INTEGER NOT NULL)"
REPLICAS = ["http://127.0.0.1:8001", "http://127.0.0.1:8002", "http://127.0.0.1:8003"]

shop = Participant("shop", SQLite("shop.db", schema=SCHEMA))


@shop.action("stock")
async def stock(tx, body):
    await tx.execute(
        "INSERT INTO stock VALUES (?, ?) ON CONFLICT DO UPDATE SET pieces = pieces + excluded.pieces", wanted(body)
    )


@shop.action("reserve")
async def reserve(tx, body):
    item, pieces = wanted(body)
    left = await tx.fetch_value("SELECT pieces FROM stock WHERE item = ?", (item,))
    if left is None or left < pieces:
        raise Reject(f"not enough {item}: {left or 0} left")
    await tx.execute("UPDATE stock SET pieces = ? WHERE item = ?", (left - pieces, item))


def wanted(body):
    match body:
        case {"item": str(item), "pieces": int(pieces)} if 1 <= pieces <= 1000:
            return item, pieces
    raise Reject("an item and 1 to 1000 pieces are wanted")


@shop.view("/v1/stock")
async def show(tx, _query):
    return dict(await tx.execute("SELECT item, pieces FROM stock"))


shop.run(port=9002, replicas=REPLICAS)
