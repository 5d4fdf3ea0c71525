import os

from participant import Participant, Reject
from participant.rm.sqlite import SQLite

SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (item TEXT NOT NULL PRIMARY KEY, pieces INTEGER NOT NULL);
INSERT OR IGNORE INTO stock VALUES ('mug', 10000);
"""
REPLICAS = os.environ["REPLICAS"].split(",")

shop = Participant("shop", SQLite(os.environ["SHOP_DB"], schema=SCHEMA))


@shop.action("reserve")
async def reserve(tx, body):
    match body:
        case {"item": str(item), "pieces": int(pieces)} if pieces > 0:
            left = await tx.fetch_value("SELECT pieces FROM stock WHERE item = ?", (item,))
            if left is None or left < pieces:
                raise Reject(f"not enough {item}: {left or 0} left")
            await tx.execute("UPDATE stock SET pieces = ? WHERE item = ?", (left - pieces, item))
        case _:
            raise Reject("an item and its pieces are wanted")


@shop.view("/v1/stock")
async def stock(tx, _query):
    return dict(await tx.execute("SELECT item, pieces FROM stock"))
