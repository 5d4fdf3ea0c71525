"""One transaction of each protocol, and where it can, one that is refused at its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from coordinator.client import Branch, Client, CommitProtocol, Tx, workflow
from participant import Participant

__all__ = ["OLD", "PARTICIPANTS", "PLAYS", "Play", "trip"]

OLD = "west"
"""One that cannot be prevented, as an XA database behind a face of its own: votes come before the decision."""
PARTICIPANTS = ("north", "south", "east", OLD)

Play: TypeAlias = Callable[[Client, Mapping[str, Participant], str], Awaitable[object]]
"""Has everything done under a gid, until somebody is told how it ended."""


def _body(gid: str, what: str, *, refuse: bool = False) -> dict[str, Any]:
    return {"tag": gid, "what": what, "refuse": refuse}


def _at_once(*names: str, refused: str = "", protocol: CommitProtocol = CommitProtocol.TWO_PHASE) -> Play:
    async def play(client: Client, _: Mapping[str, Participant], gid: str) -> object:
        branches = [Branch(name, "do", _body(gid, name, refuse=name == refused), name=name) for name in names]
        return await client.commit(branches, gid=gid, protocol=protocol)

    return play


def _saga(refused: str = "") -> Play:
    async def play(client: Client, _: Mapping[str, Participant], gid: str) -> object:
        saga = client.saga()
        for name in ("north", "south"):
            saga.step(name, "do", _body(gid, f"step at {name}"), undo="undo", name=name)
        saga.pivot("east", "do", _body(gid, "pivot", refuse=refused == "pivot"), name="pivot")
        saga.then("north", "do", _body(gid, "afterwards"), name="afterwards")
        return await saga.run(gid=gid)

    return play


def _tcc(refused: str = "") -> Play:
    async def play(client: Client, _: Mapping[str, Participant], gid: str) -> object:
        tcc = client.tcc()
        for name in ("north", "south"):
            body = _body(gid, name, refuse=name == refused)
            tcc.reserve(name, body, attempt="do", confirm="confirm", cancel="undo", name=name)
        return await tcc.run(gid=gid)

    return play


async def _message(client: Client, _: Mapping[str, Participant], gid: str) -> object:
    message = client.message()
    message.when("north", "do", _body(gid, "order"), name="order")
    for name in ("south", "east"):
        message.send(name, "do", _body(gid, f"news to {name}"), name=name)
    return await message.run(gid=gid)


async def _message_of_a_source(client: Client, participants: Mapping[str, Participant], gid: str) -> object:
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
    await tx.step("south", "do", _body(gid, "hotel"), undo="undo")
    if fails:
        raise ValueError("the weather is bad")
    await tx.message("south", "do", _body(gid, "mail"))
    await tx.pivot("east", "do", _body(gid, "payment"))
    return flight


def _workflow(*, fails: bool) -> Play:
    async def play(client: Client, _: Mapping[str, Participant], gid: str) -> object:
        await client.start("trip", {"gid": gid, "fails": fails}, gid=gid)
        return await client.wait(gid)

    return play


PLAYS: Mapping[str, Play] = {
    "2pc-classic": _at_once("north", OLD),
    "2pc-classic-refused": _at_once("north", OLD, refused=OLD),
    "2pc-staged": _at_once("north", "south"),
    "2pc-staged-refused": _at_once("north", "south", refused="south"),
    "one-phase": _at_once("north"),
    "3pc": _at_once("north", "south", "east", protocol=CommitProtocol.THREE_PHASE),
    "3pc-refused": _at_once("north", "south", "east", refused="south", protocol=CommitProtocol.THREE_PHASE),
    "tcc": _tcc(),
    "tcc-refused": _tcc(refused="south"),
    "saga": _saga(),
    "saga-refused": _saga(refused="pivot"),
    "message": _message,
    "message-of-a-source": _message_of_a_source,
    "workflow": _workflow(fails=False),
    "workflow-fails": _workflow(fails=True),
}
