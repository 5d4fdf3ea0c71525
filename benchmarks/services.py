"""The participants of the commit path's benchmark: the stock ones, and what a benchmark needs to know of them.

    python -m benchmarks.services bank --config bank-a.toml

`bank` is the stock bank on SQLite. `keys` keeps rows in the memory resource manager; its action `put` writes one row,
so that the branch is prepared, durable and committed like any other, and nothing but that. `keys-classic` is the same
without the capability to prevent, so that coordinators take the classic path; `keys-three-phase` has the secret for
transactions in three phases. `keys-doubtful` prepares, but whoever
commits there is asked to come again: killed after that, it leaves everything in doubt.

Two things differ from production. Finished branches are forgotten after RETENTION_S instead of a day, so that a run
of minutes pays for forgetting too. And `GET /v1/syncs` counts the forced writes of the process: every call of
`os.fdatasync` and `os.fsync`, and for SQLite, which makes its own, each commit that wrote frames to its write-ahead
log (one sync with `synchronous=FULL`) and for each checkpoint CHECKPOINT_SYNCS more.
"""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw

from participant import kit, logs
from participant.bank import bank_on_sqlite
from participant.config import ParticipantConfig, load
from participant.ids import BranchKey
from participant.kit import Participant
from participant.locks import Row
from participant.rm.memory import Memory, Transaction
from participant.rm.sqlite import manager
from participant.rm.sqlite.store import SqliteStore
from participant.service import ParticipantService
from participant.wire import Answer, BranchState, Capabilities

__all__ = ["CHECKPOINT_PAGES", "CHECKPOINT_SYNCS", "KINDS", "RETENTION_S", "Syncs"]

RETENTION_S = 60.0
OPEN_BRANCHES_MAX = 1_000_000
CHECKPOINT_PAGES = 1_000  # SQLite's own default (wal_autocheckpoint)
CHECKPOINT_SYNCS = 3  # the log, then the database; then the new header of the log with the next commit


class Syncs:
    """Forced writes of this process."""

    def __init__(self) -> None:
        self.count = 0

    def count_python(self) -> None:
        """Count what Python code forces from now on."""
        for name in ("fdatasync", "fsync"):
            setattr(os, name, self._counting(getattr(os, name)))

    def count_sqlite(self) -> None:
        """Count what the SQLite resource manager forces from now on."""
        syncs = self

        class CountedStore(SqliteStore):
            def open(self) -> list[tuple[BranchKey, frozenset[Row]]]:
                found = super().open()
                self._db.set_wal_hook(syncs.committed)  # in the place of the one that makes checkpoints by itself
                return found

        manager.SqliteStore = CountedStore  # type: ignore[attr-defined]

    def committed(self, db: apsw.Connection, _: str, pages: int) -> int:
        """The hook of SQLite's write-ahead log (sqlite3_wal_hook): frames were committed, `pages` are in the log."""
        self.count += 1
        if pages >= CHECKPOINT_PAGES:
            db.wal_checkpoint()
            self.count += CHECKPOINT_SYNCS
        return apsw.SQLITE_OK

    def _counting(self, force: Callable[[int], None]) -> Callable[[int], None]:
        def counted(fd: int) -> None:
            self.count += 1
            force(fd)

        return counted


class _Doubtful(Memory):
    """Prepares, and never commits."""

    def commit(self, key: BranchKey) -> asyncio.Future[Answer]:  # noqa: ARG002 - the signature is the base class's
        later: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        later.set_result(Answer(BranchState.UNKNOWN, "not now", retry=True))
        return later


class _WithoutPrevent(ParticipantService):
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), prevent=False)


async def _put(tx: Transaction, body: Any) -> None:
    await tx.put(body["key"], body["value"])


async def _get(tx: Transaction, body: Any) -> Any:
    return await tx.get(body["key"])


def _keys(config: ParticipantConfig, kind: type[Memory] = Memory, proof_secret: bytes | None = None) -> Participant:
    limits = replace(config.resource_limits, retention_s=RETENTION_S, branches_max=OPEN_BRANCHES_MAX)
    memory = kind(_file(config), limits=limits)
    keys = Participant(config.name, memory, limits=config.service_limits, proof_secret=proof_secret)
    keys.action("put")(_put)
    keys.action("get")(_get)
    return keys


def _keys_classic(config: ParticipantConfig) -> Participant:
    kit.ParticipantService = _WithoutPrevent  # type: ignore[attr-defined]
    return _keys(config)


def _keys_three_phase(config: ParticipantConfig) -> Participant:
    if config.proof_secret is None:
        raise SystemExit("a participant in three phases needs a proof_secret")
    return _keys(config, proof_secret=config.proof_secret.get_secret_value().encode())


def _keys_doubtful(config: ParticipantConfig) -> Participant:
    return _keys(config, _Doubtful)


def _bank(config: ParticipantConfig) -> Participant:
    limits = replace(config.resource_limits, retention_s=RETENTION_S)
    return bank_on_sqlite(config.name, _file(config), resource_limits=limits, service_limits=config.service_limits)


def _file(config: ParticipantConfig) -> Path:
    if config.data is None:
        raise SystemExit("a participant of a benchmark keeps its data in a file")
    return config.data


KINDS = {
    "bank": _bank,
    "keys": _keys,
    "keys-classic": _keys_classic,
    "keys-three-phase": _keys_three_phase,
    "keys-doubtful": _keys_doubtful,
}


def _serve() -> None:
    parser = ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--config", type=Path, required=True)
    chosen = parser.parse_args()
    config = load(chosen.config)
    logs.setup(sys.stderr, node=config.name)
    syncs = Syncs()
    syncs.count_python()
    syncs.count_sqlite()
    participant = KINDS[chosen.kind](config)

    async def counted(_tx: Any, _query: Any) -> dict[str, int]:
        return {"syncs": syncs.count}

    participant.view("/v1/syncs")(counted)
    participant.run(host=config.host, port=config.port, replicas=config.replicas)


if __name__ == "__main__":
    _serve()
