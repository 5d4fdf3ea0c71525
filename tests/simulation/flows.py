"""Workflows in the system world: the code that workers run, and the plans that tellers begin it with.

The code makes a transfer, step by step, as its plan says: it hands on what its steps have given, tries a refused one in
another way, waits in between, asks for two at once, and now and then fails. Whoever runs it tells the checkers what
it hears. All it asks for follows from the plan and from what it has heard, the time and the dice of `tx` among it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from coordinator.client.declaration import OWN, Retry
from coordinator.client.workflow import Tx, Workflow
from coordinator.errors import StepRefused
from coordinator.ledger.records import Mode
from tests.simulation.checkers.flows import REFUSED, Flows
from tests.simulation.checkers.steps import Steps
from tests.simulation.errands import RELUCTANT_PERCENT, WAYS, Leg, result_of

__all__ = ["NAME", "draw_plan", "transfer"]

NAME = "transfer"

_FAILS = 0.1
_BESIDE = 0.2  # two steps at once
_PAUSES_S = (0.0, 0.0, 0.0, 0.5, 3.0)
_MODES: Mapping[str, tuple[Mode, ...]] = {
    "debit": (Mode.SAGA, Mode.SAGA, Mode.TCC, Mode.TWO_PHASE, Mode.PIVOT),
    "credit": (Mode.SAGA, Mode.TCC, Mode.TWO_PHASE, Mode.FORWARD),
    "look": (Mode.TWO_PHASE,),
    "tell": (Mode.FORWARD,),
}
_OTHERS = (None, None, Mode.SAGA, Mode.TCC)  # how to try again, or not
_GIVING = (Mode.SAGA, Mode.TCC, Mode.PIVOT)


# What a teller asks for


def draw_plan(rng: Random, legs: list[Leg], able: list[str]) -> tuple[list[Leg], dict[str, Any]]:
    """A plan for the transfer, with some messages that move nothing; and its legs with the banks that take them.

    `able`: the banks that take steps. The plan has groups of what is asked for at once.
    """
    legs = legs + [(able[0], "tell", legs[0][2], 0)] * rng.choice((0, 0, 1))
    rng.shuffle(legs)
    modes: list[Mode] = []
    for _, action, _, _ in legs:
        modes.append(rng.choice([mode for mode in _MODES[action] if not (mode is Mode.PIVOT and mode in modes)]))
    legs = [
        leg if mode is Mode.TWO_PHASE else (rng.choice(able), *leg[1:]) for leg, mode in zip(legs, modes, strict=True)
    ]
    wishes = [_wish(rng, leg, mode, able) for leg, mode in zip(legs, modes, strict=True)]
    pivots = [wish for wish in wishes if wish["mode"] == Mode.PIVOT]
    groups: list[list[dict[str, Any]]] = []
    for wish in wishes:
        if wish["mode"] == Mode.PIVOT:
            continue
        if groups and len(groups[-1]) == 1 and rng.random() < _BESIDE:
            groups[-1].append(wish)
        else:
            groups.append([wish])
    groups += [[pivot] for pivot in pivots]
    fails_before = rng.randint(0, len(groups)) if rng.random() < _FAILS else None
    return legs, {"groups": groups, "pauses_s": [rng.choice(_PAUSES_S) for _ in groups], "fails_before": fails_before}


def _wish(rng: Random, leg: Leg, mode: Mode, able: list[str]) -> dict[str, Any]:
    bank, action, account, amount = leg
    other = rng.choice(_OTHERS) if action in ("debit", "credit") and mode is not Mode.FORWARD and bank in able else None
    return {
        "bank": bank,
        "leg": action,
        "mode": mode.value,
        "other": None if other is None else other.value,
        "account": account,
        "amount": amount,
        "attempts": rng.choice((1, 1, 3)),
        "base_ms": rng.choice((20, 200)),
        "moody": RELUCTANT_PERCENT if mode is Mode.FORWARD else rng.choice((0, 0, 10, 60)),
        "own": rng.random() < 0.5,
        "sources": rng.choice((0, 1, 1, 2)),
    }


# What a worker runs


def transfer(flows: Flows, steps: Steps, reached: Callable[[], object]) -> Workflow:
    """The workflow; `reached` hears of every moment at which the code has just heard something."""

    async def code(tx: Tx, plan: Any) -> Any:
        return await _Run(tx, flows, steps, reached).follow(plan)

    return Workflow(NAME, code)


class _Run:
    """One run of the code."""

    def __init__(self, tx: Tx, flows: Flows, steps: Steps, reached: Callable[[], object]) -> None:
        self._tx = tx
        self._flows = flows
        self._steps = steps
        self._reached = reached
        self._done: dict[str, Any] = {}  # what has had its effect before the decision: what it has given, if anything

    async def follow(self, plan: Any) -> list[str]:
        """Returns the names of what was done."""
        for place, (group, pause_s) in enumerate(zip(plan["groups"], plan["pauses_s"], strict=True)):
            if place == plan["fails_before"]:
                raise RuntimeError("the code fails")
            if pause_s:
                await self._tx.sleep(pause_s)
            await self._ask_for(group)
        if plan["fails_before"] == len(plan["groups"]):
            raise RuntimeError("the code fails at its end")
        result = sorted(self._done)
        self._flows.returns(self._tx.gid, result)
        return result

    async def _ask_for(self, group: list[dict[str, Any]]) -> None:
        """Raises: StepRefused, if something is refused that is not to be tried in another way, or in that way too."""
        if len(group) == 1:
            refusals = [await self._try(group[0])]
        else:
            refusals = await asyncio.gather(*(self._try(wish) for wish in group))
        for wish, refusal in zip(group, refusals, strict=True):
            if refusal is not None and wish["other"] is None:
                raise refusal
            if refusal is not None:
                await self._ask(wish, Mode(wish["other"]))

    async def _try(self, wish: dict[str, Any]) -> StepRefused | None:
        try:
            await self._ask(wish, Mode(wish["mode"]))
        except StepRefused as refusal:
            return refusal
        return None

    async def _ask(self, wish: dict[str, Any], mode: Mode) -> None:
        """Raises: StepRefused."""
        gid, name = self._tx.gid, f"s{self._tx.asked + 1}"
        given = {
            f"from_{source}": self._done[source] for source in sorted(self._done) if self._done[source] is not None
        }
        taken = dict(list(given.items())[: wish["sources"]])
        body = {"account": wish["account"], "amount": wish["amount"]}
        if wish["leg"] != "look":
            sources = [field.removeprefix("from_") for field in taken]
            body |= {field: wish[field] for field in ("own", "moody")} | {"gid": gid, "name": name, "sources": sources}
            body |= taken | {"at": self._tx.now().isoformat(), "dice": self._tx.random()}
        self._steps.asked(gid, name, mode, self._done, is_seen=wish["leg"] != "look")
        due = result_of(gid, name) if mode in _GIVING else None
        try:
            result = await self._call(wish, mode, body)
        except StepRefused:
            self._flows.hears(gid, name, REFUSED, due)
            self._reached()
            raise
        self._flows.hears(gid, name, result, due)
        if mode is not Mode.FORWARD:
            self._done[name] = result
        self._reached()

    async def _call(self, wish: dict[str, Any], mode: Mode, body: dict[str, Any]) -> Any:
        action, confirm, undo = WAYS[wish["leg"], mode]
        bank, tx = wish["bank"], self._tx
        retry = Retry(wish["attempts"], base_ms=wish["base_ms"], cap_ms=1_000)
        takes = {"own_result": OWN} if body.get("own") else {}
        match mode:
            case Mode.SAGA:
                return await tx.step(bank, action, body, undo=str(undo), takes=takes, retry=retry)
            case Mode.TCC:
                return await tx.reserve(
                    bank, body, attempt=action, confirm=str(confirm), cancel=str(undo), takes=takes, retry=retry
                )
            case Mode.PIVOT:
                return await tx.pivot(bank, action, body, retry=retry)
            case Mode.FORWARD:
                return await tx.message(bank, action, body, retry=retry)
        return await tx.prepare(bank, action, body)
