"""Transactions of steps in the system world: what the banks do for them, and how a teller mixes them.

Each action leaves a row that says how often it has taken effect, and when it did last, in the same local transaction as
the money that it moves. What it is given of the results of others it compares with what they gave. Some actions only
begin their work, and hand the token on with which somebody else reports it. What is only told moves no money: it may be
told in the order of a key, be set aside, or be told anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from zlib import crc32

from coordinator.client.outcomes import Branch
from coordinator.ledger.records import Mode
from coordinator.protocols.modes import MODES
from participant.errors import Reject
from participant.resource import Action
from participant.rm.memory import Transaction
from tests.simulation.bank import INITIAL, Kind

__all__ = [
    "EFFECTS",
    "RELUCTANT_PERCENT",
    "WAYS",
    "Leg",
    "draw_errand",
    "errands",
    "result_of",
    "takes_steps",
]

EFFECTS = "effect of "
"""How the names of those rows begin; `gid/branch/what` follows, where what is "", "confirm" or "undo"."""

Leg = tuple[str, str, str, int]  # bank, action, account, amount

_MOODY_PERCENT = 40  # how often a moody step refuses before the decision
RELUCTANT_PERCENT = 8  # and behind it; so rarely five times in a row that nobody has to be told
_STUBBORN_PERCENT = 70  # a message that is set aside after so many refusals
_KEYS = 3
_REPORTED = 0.3
_HELD = "held of "


def takes_steps(kind: Kind) -> bool:
    """Whether a bank of this kind can take more than two-phase branches."""
    return kind.prevent and kind.one_phase


# What a bank does


async def _add(tx: Transaction, account: str, amount: int) -> int:
    balance = await tx.get(account)
    changed = (INITIAL if balance is None else int(balance)) + amount
    await tx.put(account, changed)
    return changed


async def _do(tx: Transaction, body: Any, what: str, now: float, refusals_percent: int) -> str:
    """Leave the row of this action; its result. Raises Reject as often as it is to be refused."""
    gid, name = body["gid"], body["name"]
    if crc32(f"{gid}/{name}/{what}/{now}".encode()) % 100 < refusals_percent:
        raise Reject("not in the mood")
    expected = {f"from_{source}": result_of(gid, source) for source in body["sources"]}
    is_reported = "token" in body
    unreported = is_reported and what == "undo" and "own_result" in body and body["own_result"] is None
    if what and body["own"] and not unreported:
        expected["own_result"] = result_of(gid, name)
    given = {field: body.get(field) for field in expected}
    if given != expected:
        raise AssertionError(f"{what or 'run'} of {name} of {gid} was given {given}, not {expected}")
    key = f"{EFFECTS}{gid}/{name}/{what}"
    before = await tx.get(key)
    await tx.put(key, [1 if before is None else before[0] + 1, now])
    return "only begun" if is_reported else result_of(gid, name)


def result_of(gid: str, name: str) -> str:
    """What a step gives, be it by its action or by a report."""
    return f"result of {name} of {gid}"


@dataclass(frozen=True, slots=True)
class _Deed:
    """An action: which of its two accounts it changes, by how many times the amount."""

    what: str
    account: int = 0
    held: int = 0

    async def do(self, tx: Transaction, body: Any, now: float) -> str:
        """Raises Reject."""
        refusals = RELUCTANT_PERCENT if self.what else body["moody"]
        result = await _do(tx, body, self.what, now, refusals)
        changes = ((body["account"], self.account), (_HELD + body["account"], self.held))
        for account, times in changes:
            if times:
                left = await _add(tx, account, times * body["amount"])
                if left < 0 and times < 0 and not self.what:
                    raise Reject("insufficient funds")
        return result


_DEEDS: Mapping[str, _Deed] = {
    "take": _Deed("", account=-1),
    "give": _Deed("", account=+1),
    "untake": _Deed("undo", account=+1),
    "ungive": _Deed("undo", account=-1),
    "reserve": _Deed("", account=-1, held=+1),
    "settle": _Deed("confirm", held=-1),
    "release": _Deed("undo", account=+1, held=-1),
    "announce": _Deed(""),
    "receive": _Deed("confirm", account=+1),
    "withdraw": _Deed("undo"),
    "tell": _Deed(""),
}


def errands(now: Callable[[], float], hand_on: Callable[[str], None]) -> dict[str, Action]:
    """The actions of a bank, by the clock of the world; `hand_on` takes the token of work that is begun."""

    def action(deed: _Deed) -> Action:
        async def act(tx: Transaction, body: Any) -> str:
            if "token" in body and not deed.what:
                hand_on(body["token"])
            return await deed.do(tx, body, now())

        return act

    return {name: action(deed) for name, deed in _DEEDS.items()}


WAYS: Mapping[tuple[str, Mode], tuple[str, str | None, str | None]] = {  # action, confirm, undo
    ("debit", Mode.TWO_PHASE): ("take", None, None),
    ("debit", Mode.TCC): ("reserve", "settle", "release"),
    ("debit", Mode.SAGA): ("take", None, "untake"),
    ("debit", Mode.PIVOT): ("take", None, None),
    ("credit", Mode.TWO_PHASE): ("give", None, None),
    ("credit", Mode.TCC): ("announce", "receive", "withdraw"),
    ("credit", Mode.SAGA): ("give", None, "ungive"),
    ("credit", Mode.FORWARD): ("give", None, None),
    ("look", Mode.TWO_PHASE): ("look", None, None),
    ("tell", Mode.FORWARD): ("tell", None, None),
}
_ORDER = (Mode.PIVOT, Mode.FORWARD)  # behind all others


# What a teller asks for


def draw_errand(rng: Random, gid: str, legs: list[Leg], able: list[str]) -> tuple[list[Leg], list[Branch]]:
    """The same transfer in steps of any mixture, with some that only tell; and its legs with the banks that take them.

    `able`: the banks that take steps.
    """
    legs = legs + [(able[0], "tell", legs[0][2], 0)] * rng.choice((0, 0, 1, 1, 2))
    modes: list[Mode] = []
    for _, action, _, _ in legs:
        choice = [mode for known, mode in WAYS if known == action and not (mode is Mode.PIVOT and mode in modes)]
        modes.append(rng.choice(choice))
    legs = [
        leg if mode is Mode.TWO_PHASE else (rng.choice(able), *leg[1:]) for leg, mode in zip(legs, modes, strict=True)
    ]
    order = list(range(len(legs)))
    rng.shuffle(order)
    order.sort(key=lambda place: _ORDER.index(modes[place]) if modes[place] in _ORDER else -1)
    branches: list[Branch] = []
    for place in order:
        branch = _branch(rng, gid, legs[place], modes[place], branches)
        if legs[place][1] == "tell":
            branch = _told(rng, branch)
        elif modes[place] in (Mode.TCC, Mode.SAGA) and Mode.TWO_PHASE not in modes and rng.random() < _REPORTED:
            branch = _with(branch, reported="token")
        branches.append(branch)
    return legs, branches


def _told(rng: Random, branch: Branch) -> Branch:
    """A message that is reported, or stands in line, or may be set aside, or both."""
    how = rng.choice(("reported", "ordered", "ordered", "mortal", "both"))
    if how == "reported":
        return _with(branch, reported="token")
    if how != "mortal":
        branch = _with(branch, order_key=f"line {rng.randrange(_KEYS)}")
    if how != "ordered":
        limit = rng.choice(({"attempts_max": 1}, {"attempts_max": 2}, {"age_max_ms": 2_000}))
        branch = _with(branch, dead_after=limit)
        if "attempts_max" in limit:
            branch = replace(branch, body={**branch.body, "moody": _STUBBORN_PERCENT})
    return branch


def _with(branch: Branch, **more: Any) -> Branch:
    """The same, with more in its step."""
    return replace(branch, step={**(branch.step or {}), **more})


def _branch(rng: Random, gid: str, leg: Leg, mode: Mode, earlier: list[Branch]) -> Branch:
    bank, kind, account, amount = leg
    action, confirm, undo = WAYS[kind, mode]
    name = f"s{len(earlier) + 1}"
    others = [other for other in earlier if _may_follow(mode, other)]
    after = rng.sample(others, min(len(others), rng.choice((0, 1, 1, 2))))
    step: dict[str, Any] = {"mode": mode.value, "after": [_name(other) for other in after]}
    sources = [_name(other) for other in after if mode is not Mode.TWO_PHASE and _gives(other) and rng.random() < 0.5]
    own = undo is not None and rng.random() < 0.5
    takes = {f"from_{source}": source for source in sources} | ({"own_result": name} if own else {})
    if takes:
        step["takes"] = takes
    step |= {field: given for field, given in (("confirm", confirm), ("undo", undo)) if given is not None}
    attempts = 1 if mode is Mode.TWO_PHASE else rng.choice((1, 1, 3))
    step["retry"] = {"attempts_max": attempts, "base_ms": rng.choice((20, 200)), "cap_ms": 1_000}
    body: dict[str, Any] = {"account": account, "amount": amount}
    if action != "look":
        moody = rng.choice((0, _MOODY_PERCENT)) if attempts > 1 else rng.choice((0, 0, 10))
        moody = RELUCTANT_PERCENT if mode is Mode.FORWARD else moody
        body |= {"gid": gid, "name": name, "sources": sources, "own": own, "moody": moody}
    return replace(Branch(bank, action, body), name=name, step=step)


def _may_follow(mode: Mode, other: Branch) -> bool:
    """Whether a branch may come after that one: what is before the decision, not after what is behind it; and none
    after what may be set aside."""
    other_mode = _mode(other)
    if "dead_after" in (other.step or {}):
        return False
    is_before = MODES[mode].before is not None
    return not is_before or (MODES[other_mode].before is not None and other_mode is not Mode.PIVOT)


def _gives(branch: Branch) -> bool:
    """Whether its result can be taken."""
    return _mode(branch) is not Mode.TWO_PHASE and MODES[_mode(branch)].before is not None


def _mode(branch: Branch) -> Mode:
    return Mode((branch.step or {})["mode"])


def _name(branch: Branch) -> str:
    return branch.name or ""
