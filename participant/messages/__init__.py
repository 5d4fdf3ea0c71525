"""Messages that are sent if and only if the transaction commits that has published them, and have their effect once.

    from participant.messages import outbox
    from participant.messages.redis import RedisStreams

    shop = Participant(
        "shop", SQLite("shop.db", schema=SCHEMA + outbox.SQLITE), broker=RedisStreams("redis://127.0.0.1:6379/0")
    )

    @shop.action("order")
    async def order(tx, body):
        ...
        await outbox.publish(tx, "orders.created", body, key=body["order"])

`outbox` writes a row in the branch's own transaction, `relay` forwards the rows that are committed, `inbox` handles
what arrives. `broker` is the port below both; its implementations are `redis` and `nats`.
"""

from __future__ import annotations

from participant.messages.broker import Broker, Delivery, Subscription
from participant.messages.message import Message

__all__ = ["Broker", "Delivery", "Message", "Subscription"]
