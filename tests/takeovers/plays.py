"""One transaction of each protocol, and where it can, one that is refused at its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from coordinator.client import Branch, Client, CommitProtocol, Ended, Tx, workflow
from coordinator.ledger.records import Path
from participant import Participant

__all__ = ["OLD", "PARTICIPANTS", "PLAYS", "Play", "trip"]

OLD = "west"
"""One that cannot be prevented, as an XA database behind a face of its own: votes come before the decision."""
PARTICIPANTS = ("north", "south", "east", OLD)

Run: TypeAlias = Callable[[Client, Mapping[str, Participant], str], Awaitable[Ended]]
"""Has everything done under a gid, until somebody is told how it ended."""


class Play(NamedTuple):
    """What is done, by which path, and how it has to end."""

    run: Run
    path: Path
    is_committed: bool = True


_THREE = CommitProtocol.THREE_PHASE


def _body(gid: str, what: str, *, refuse: bool = False) -> dict[str, Any]:
    return {"tag": gid, "what": what, "refuse": refuse}


def _at_once(*names: str, refused: str = "", protocol: CommitProtocol = CommitProtocol.TWO_PHASE) -> Run:
    async def play(client: Client, _: Mapping[str, Participant], gid: str) -> Ended:
        branches = [Branch(name, "do", _body(gid, name, refuse=name == refused), name=name) for name in names]
        return await client.commit(branches, gid=gid, protocol=protocol)

    return play


def _saga(refused: str = "") -> Run:
    async def play(client: Client, _: Mapping[str, Participant], gid: str) -> Ended:
        saga = client.saga()
        for name in ("flight", "hotel"):  # all of it at one participant, whose lines show in which order
            saga.step("north", "do", _body(gid, name), undo="undo", name=name)
        saga.pivot("north", "do", _body(gid, "payment", refuse=refused == "payment"), name="payment")
        saga.then("north", "do", _body(gid, "mail"), name="mail")
        return await saga.run(gid=gid)

    return play


def _tcc(refused: str = "") -> Run:
    async def play(client: Client, _: Mapping[str, Participant], gid: str) -> Ended:
        tcc = client.tcc()
        for name in ("north", "south"):
            body = _body(gid, name, refuse=name == refused)
            tcc.reserve(name, body, attempt="do", confirm="confirm", cancel="undo", name=name)
        return await tcc.run(gid=gid)

    return play


async def _message(client: Client, _: Mapping[str, Participant], gid: str) -> Ended:
    message = client.message()
    message.when("north", "do", _body(gid, "order"), name="order")
    for name in ("south", "east"):
        message.send(name, "do", _body(gid, f"news to {name}"), name=name)
    return await message.run(gid=gid)


async def _message_of_a_source(client: Client, participants: Mapping[str, Participant], gid: str) -> Ended:
    message = client.message()
    source = message.source("north", name="order")
    message.send("south", "do", _body(gid, "news"), name="news", after=(source,))
    prepared = await message.prepare(gid=gid)
    await participants["north"].commit(gid, prepared.branch, "do", _body(gid, "order"))
    return await prepared.submit()


@workflow
async def trip(tx: Tx, wish: Any) -> Any:
    """Two steps, a pivot and a message; or two steps, and then it fails."""
    gid, fails = wish["gid"], wish["fails"]
    flight = await tx.step("north", "do", _body(gid, "flight"), undo="undo")
    await tx.step("north", "do", _body(gid, "hotel"), undo="undo")
    if fails:
        raise ValueError("the weather is bad")
    await tx.message("north", "do", _body(gid, "mail"))
    await tx.pivot("north", "do", _body(gid, "payment"))
    return flight


def _workflow(*, fails: bool) -> Run:
    async def play(client: Client, _: Mapping[str, Participant], gid: str) -> Ended:
        await client.start("trip", {"gid": gid, "fails": fails}, gid=gid)
        return await client.wait(gid)

    return play


PLAYS: Mapping[str, Play] = {
    "2pc-classic": Play(_at_once("north", OLD), Path.CLASSIC),
    "2pc-classic-refused": Play(_at_once("north", OLD, refused=OLD), Path.CLASSIC, is_committed=False),
    "2pc-staged": Play(_at_once("north", "south"), Path.STAGED),
    "2pc-staged-refused": Play(_at_once("north", "south", refused="south"), Path.STAGED, is_committed=False),
    "one-phase": Play(_at_once("north"), Path.ONE_PHASE),
    "3pc": Play(_at_once("north", "south", "east", protocol=_THREE), Path.THREE_PHASE),
    "3pc-refused": Play(
        _at_once("north", "south", "east", refused="south", protocol=_THREE), Path.THREE_PHASE, is_committed=False
    ),
    "tcc": Play(_tcc(), Path.STEPS),
    "tcc-refused": Play(_tcc(refused="south"), Path.STEPS, is_committed=False),
    "saga": Play(_saga(), Path.STEPS),
    "saga-refused": Play(_saga(refused="payment"), Path.STEPS, is_committed=False),
    "message": Play(_message, Path.STEPS),
    "message-of-a-source": Play(_message_of_a_source, Path.STEPS),
    "workflow": Play(_workflow(fails=False), Path.STEPS),
    "workflow-fails": Play(_workflow(fails=True), Path.STEPS, is_committed=False),
}
