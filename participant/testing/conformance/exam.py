"""Trying promises one after the other, in bounded time, and the verdict on each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from participant.errors import CheckError
from participant.ids import BranchKey
from participant.testing.conformance.bench import Bench, Broken, NotApplicable, NotTried, Unclear
from participant.testing.conformance.talk import Exchange
from participant.wire import BRANCHES_PATH

__all__ = ["Outcome", "Promise", "Verdict", "examine", "examine_all"]

PROMISE_TIMEOUT_S = 120.0  # all requests of one promise, restarts included
STORY_MAX = 8  # exchanges that are shown before the one that broke a promise


@dataclass(frozen=True, slots=True)
class Promise:
    """`check` raises `Broken` if it is not kept; its name, in words, is the promise. `needs`: the capability with which
    a participant makes it; "" for what all of them promise.
    """

    check: Callable[[Bench], Awaitable[None]]
    needs: str = ""

    def __str__(self) -> str:
        return self.check.__name__.replace("_", " ")


class Outcome(StrEnum):
    KEPT = "kept"
    BROKEN = "broken"
    NOT_APPLICABLE = "not applicable"
    NOT_TRIED = "not tried"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`why`: what was expected, if the promise is broken; else why it was not tried, or could not be judged.

    `exchanges`: of a broken promise, what was said until then, the request that broke it last. `left`: branches that
    could not be ended.
    """

    promise: Promise
    outcome: Outcome
    why: str = ""
    exchanges: tuple[Exchange, ...] = ()
    left: tuple[BranchKey, ...] = ()

    @property
    def is_fine(self) -> bool:
        """Whether nothing speaks against the participant. What was not tried speaks neither way."""
        return self.outcome in (Outcome.KEPT, Outcome.NOT_APPLICABLE, Outcome.NOT_TRIED) and not self.left

    def __str__(self) -> str:
        lines = [f"{self.promise}: {self.outcome}"]
        for exchange in self.exchanges:
            lines += [f"  {exchange.curl()}", f"    {exchange.said()}"]
        if self.why:
            lines.append(f"  {'expected: ' if self.outcome is Outcome.BROKEN else ''}{self.why}")
        return "\n".join(lines)


async def examine(promise: Promise, bench: Bench) -> Verdict:
    """Try one promise. Its branches are ended afterwards, however it went."""
    bench.talk.exchanges.clear()
    outcome, why = Outcome.KEPT, ""
    exchanges: tuple[Exchange, ...] = ()
    try:
        async with asyncio.timeout(PROMISE_TIMEOUT_S):
            await bench.refresh()
            bench.talk.exchanges.clear()
            if promise.needs and not bench.can(promise.needs):
                raise NotApplicable(f"its capabilities do not say {promise.needs}")
            await promise.check(bench)
    except Broken as broken:
        outcome, why, exchanges = Outcome.BROKEN, broken.expected, _story(bench.talk.exchanges, broken.exchange)
    except NotApplicable as reason:
        outcome, why = Outcome.NOT_APPLICABLE, str(reason)
    except NotTried as reason:
        outcome, why = Outcome.NOT_TRIED, str(reason)
    except (Unclear, CheckError) as reason:
        outcome, why = Outcome.UNCLEAR, str(reason)
    except TimeoutError:
        outcome, why = Outcome.BROKEN, f"an end within {PROMISE_TIMEOUT_S:g} s"
        exchanges = _story(bench.talk.exchanges, None)
    finally:
        left = await bench.tidy()
    return Verdict(promise, outcome, why, exchanges, tuple(left))


async def examine_all(promises: Sequence[Promise], bench: Bench) -> AsyncIterator[Verdict]:
    """Try them in their order, and give each verdict as it is reached."""
    for promise in promises:
        yield await examine(promise, bench)


def _story(exchanges: Sequence[Exchange], last: Exchange | None) -> tuple[Exchange, ...]:
    """What led to an exchange, that one last: of what was said before, only what is about the same transaction."""
    if last is None:
        return tuple(exchanges[-1:])
    place = next((i for i, each in enumerate(exchanges) if each is last), len(exchanges))
    about = _transaction(last)
    before = [each for each in exchanges[:place] if (named := _transaction(each)) and named == (about or named)]
    return (*before[-STORY_MAX:], last)


def _transaction(exchange: Exchange) -> str:
    """The one that a URL names, "" if it names none."""
    _, _, rest = exchange.url.partition(f"{BRANCHES_PATH}/")
    return rest.partition("/")[0]
