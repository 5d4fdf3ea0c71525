"""A sweep: what is prepared in some databases, whether or not their participants live, and its end.

Owns the round: look, ask the coordinators about what is older than the grace, end it as they say. Must never do: end a
branch without their word, or touch what is not ours. A question makes the abort durable of a transaction that nobody
knows; a dry run only looks. What goes wrong with one branch or one database stops no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from structlog import get_logger

from participant.errors import AlreadyOwned, ConfigError, ParticipantError
from participant.foreign import FOREIGN_MAX_AGE_S, Seen, Sightings
from participant.ids import BranchKey, is_branch_id
from participant.outcomes import Outcome
from participant.rm.sqlite.sweep import SqliteSweep
from participant.rm.sweep import Database, Ender, InDoubt
from participant.wire import BranchState

__all__ = [
    "GRACE_S",
    "LOOK_TIMEOUT_S",
    "Asked",
    "Database",
    "Fate",
    "Found",
    "Sweep",
    "SweepSettings",
    "Swept",
    "databases_of",
]

GRACE_S = 30.0  # a participant that lives has asked twice by then
LOOK_TIMEOUT_S = 30.0  # then a database counts as not reached
QUESTIONS_AT_ONCE_MAX = 16

_LOG = get_logger(__name__)


class Fate(StrEnum):
    """What became of a prepared branch."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    YOUNG = "young"  # its participant may be about to end it
    DECIDING = "deciding"
    UNANSWERED = "unanswered"  # no coordinator could say
    OWNED = "owned"  # its participant runs, and nobody else may write to the database
    FAILED = "failed"
    WOULD_COMMIT = "would be committed"  # in a dry run
    WOULD_ABORT = "would be aborted"


ENDED = frozenset((Fate.COMMITTED, Fate.ABORTED))
_NOT_LEFT = ENDED | {Fate.YOUNG}
_WOULD = {Outcome.COMMITTED: Fate.WOULD_COMMIT, Outcome.ABORTED: Fate.WOULD_ABORT}


class Found(NamedTuple):
    """A prepared branch, for how long it had been prepared, and what became of it. `why`: for people."""

    key: BranchKey
    age_s: float
    fate: Fate
    why: str = ""

    @property
    def is_prepared(self) -> bool:
        """Whether it still is, as far as is known."""
        return self.fate not in ENDED

    @property
    def is_left(self) -> bool:
        """Whether it should have been ended."""
        return self.fate not in _NOT_LEFT


@dataclass(frozen=True, slots=True)
class Swept:
    """What a round found in one database. `foreign_old`: of what is foreign, that which is too old. `error`: it could
    not be swept."""

    database: str
    found: tuple[Found, ...] = ()
    foreign: tuple[Seen, ...] = ()
    foreign_old: tuple[Seen, ...] = ()
    error: str = ""

    @property
    def is_well(self) -> bool:
        """Whether nothing is left that a person must look at."""
        return not (self.error or self.foreign_old or any(each.is_left for each in self.found))


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """`grace_s`: younger branches are left to their participant. `foreign_max_age_s`: what is foreign may be so old."""

    grace_s: float = GRACE_S
    foreign_max_age_s: float = FOREIGN_MAX_AGE_S
    is_dry: bool = False


class Asked(Protocol):
    """Who knows how transactions ended (`participant.outcomes.HttpOutcomeSource`)."""

    async def inquire(self, key: BranchKey) -> Outcome | None: ...
    async def look(self, key: BranchKey) -> Outcome | None: ...


class Sweep:
    """Sweeps `databases`, by the names of their participants. `sources`: by the same names."""

    def __init__(
        self,
        databases: Mapping[str, Database],
        sources: Mapping[str, Asked],
        settings: SweepSettings,
        clock: Callable[[], float],
    ) -> None:
        self._databases = databases
        self._sources = sources
        self._settings = settings
        self._clock = clock
        self._sightings = {name: Sightings() for name in databases}

    async def round(self) -> list[Swept]:
        """Sweep every database once, all at the same time."""
        return list(await asyncio.gather(*(self._sweep(name, each) for name, each in self._databases.items())))

    async def _sweep(self, name: str, database: Database) -> Swept:
        try:
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    await database.open()
                    look = await database.look()
                found = await self._end(name, database, look.ours)
            finally:
                await database.close()
        except TimeoutError:
            return Swept(name, error=f"no answer within {LOOK_TIMEOUT_S:g} s")
        except ParticipantError as error:
            return Swept(name, error=str(error))
        except Exception as error:  # noqa: BLE001 - the border: a defect must not stop the others
            _LOG.exception("sweep.failed", database=name)
            return Swept(name, error=f"{type(error).__name__}: {error}")
        foreign = tuple(self._sightings[name].aged(look.foreign, self._clock()))
        old = tuple(each for each in foreign if each.age_s >= self._settings.foreign_max_age_s)
        return Swept(name, tuple(found), foreign, old)

    async def _end(self, name: str, database: Database, ours: Iterable[InDoubt]) -> list[Found]:
        """What became of each. Nobody owns the database while the coordinators are being asked."""
        places = asyncio.Semaphore(QUESTIONS_AT_ONCE_MAX)
        outcomes = await asyncio.gather(*(self._ask(name, each, places) for each in ours))
        found = [self._unended(each, outcome) for each, outcome in zip(ours, outcomes, strict=True)]
        due = [i for i, outcome in enumerate(outcomes) if outcome in _WOULD and not self._settings.is_dry]
        if not due:
            return found
        try:
            async with database.ending() as ender:
                for i in due:
                    found[i] = await _end_one(ender, found[i], outcomes[i])
        except AlreadyOwned:
            why = "its participant runs, owns the database, and asks by itself"
            found = [each._replace(fate=Fate.OWNED, why=why) if i in due else each for i, each in enumerate(found)]
        except ParticipantError as error:
            open_still = {i for i in due if found[i].is_prepared}
            found = [
                each._replace(fate=Fate.FAILED, why=str(error)) if i in open_still else each
                for i, each in enumerate(found)
            ]
        return found

    async def _ask(self, name: str, branch: InDoubt, places: asyncio.Semaphore) -> Outcome | None:
        if branch.age_s < self._settings.grace_s:
            return None
        source = self._sources[name]
        async with places:
            return await (source.look(branch.key) if self._settings.is_dry else source.inquire(branch.key))

    def _unended(self, branch: InDoubt, outcome: Outcome | None) -> Found:
        if branch.age_s < self._settings.grace_s:
            return Found(*branch, Fate.YOUNG)
        match outcome:
            case None:
                return Found(*branch, Fate.UNANSWERED)
            case Outcome.DECIDING:
                return Found(*branch, Fate.DECIDING)
        return Found(*branch, _WOULD[outcome])


async def _end_one(ender: Ender, branch: Found, outcome: Outcome | None) -> Found:
    is_commit = outcome is Outcome.COMMITTED
    try:
        answer = await (ender.commit(branch.key) if is_commit else ender.abort(branch.key))
    except ParticipantError as error:
        return branch._replace(fate=Fate.FAILED, why=str(error))
    if answer.state is (BranchState.COMMITTED if is_commit else BranchState.ABORTED) and not answer.retry:
        _LOG.info("branch.resolved", gid=branch.key.gid, branch=branch.key.branch, state=answer.state)
        return branch._replace(fate=Fate.COMMITTED if is_commit else Fate.ABORTED)
    why = f"its transaction is {outcome}, and it is {answer.state}: {answer.reason or 'nobody says why'}"
    return branch._replace(fate=Fate.FAILED, why=why)


def databases_of(named: Iterable[str]) -> dict[str, Database]:
    """Databases by the names of their participants, from `NAME=DATABASE`. Raises ConfigError, one line a mistake."""
    found: dict[str, Database] = {}
    mistakes = []
    for text in named:
        name, is_named, place = text.partition("=")
        if not is_named or not is_branch_id(name) or not place:
            mistakes.append("write each database as NAME=DATABASE, NAME as the coordinators call the participant")
        elif name in found:
            mistakes.append(f"{name}: is named twice")
        else:
            try:
                found[name] = _database(place)
            except ConfigError as error:
                mistakes.append(f"{name}: {error}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return found


def _database(place: str) -> Database:
    """Raises ConfigError, which does not hold the password that may be in `place`."""
    scheme, has_scheme, rest = place.partition(":")
    if not has_scheme or "/" in scheme:
        return SqliteSweep(place)
    try:
        match scheme:
            case "sqlite":
                return SqliteSweep(rest.removeprefix("//"))
            case "postgresql" | "postgres":
                from participant.rm.postgres.sweep import PostgresSweep  # needs an optional dependency

                return PostgresSweep(place)
            case "mariadb" | "mysql":
                from participant.rm.mariadb.sweep import MariaSweep  # the same

                return MariaSweep(place)
    except ImportError as error:
        extra = "postgres" if scheme.startswith("postgres") else "mariadb"
        raise ConfigError(f"{error.name} is not installed: pip install 'commitd[{extra}]'") from error
    except ValueError as error:
        raise ConfigError("the URL cannot be read") from error
    raise ConfigError(f"{scheme}: is unknown; known are postgresql://, mariadb://, and sqlite: or a path")
