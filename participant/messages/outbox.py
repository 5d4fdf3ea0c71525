"""Publish in a transaction: a message is delivered if and only if the branch commits whose action has published it.

    from participant.messages import outbox

    await outbox.publish(tx, "orders.created", {"order": 17}, key="17")

The message is a row in the participant's own database, written by the branch like any other row. So nothing but that
database's durability decides, and no broker is asked before the commit. `SQLITE`, `POSTGRESQL` and `MARIADB` are the
schemas of the tables; they go into the `schema` of the resource manager, or into your migrations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from participant.errors import ActionError, WireError
from participant.messages import tables
from participant.messages.message import check_key, check_subject, id_of, packed
from participant.messages.tables import MARIADB, POSTGRESQL, SQLITE
from participant.sql import Writable, branch_tx

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["MARIADB", "MESSAGES_MAX", "POSTGRESQL", "SQLITE", "Writable", "publish"]

MESSAGES_MAX = 1_000  # of one branch


async def publish(tx: Writable | AsyncSession, subject: str, body: Any, *, key: str = "") -> str:
    """Send `body`, a JSON value, to whoever reads `subject`, once the branch of `tx` has committed; the message's id.

    `tx` is what the action was given: with SQLAlchemy, its session. The row is written at once, not at the flush.

    Messages of one subject and one key are sent in order: those of one branch as published, and those of a branch that
    began after another one had committed behind it. Without a key there is no order.

    Raises ActionError if it cannot be sent: the branch votes no, unless the action catches it.
    """
    below = await branch_tx(tx)
    branch = getattr(below, "branch", None)
    if branch is None or not hasattr(below, "dialect"):
        raise ActionError(
            "messages are published by an action, with its tx or session, on SQLite, PostgreSQL or MariaDB"
        )
    try:
        check_subject(subject)
        check_key(key)
        text = packed(body)
    except WireError as error:
        raise ActionError(f"its message cannot be sent: {error}") from error
    number = branch.number()
    if number >= MESSAGES_MAX:
        raise ActionError(f"a branch publishes at most {MESSAGES_MAX} messages")
    await tables.insert(below, branch, (number, subject, key, text))
    return id_of(branch.key, number)
