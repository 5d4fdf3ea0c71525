"""What the benchmark of protocols asks for, and what it concludes from what it saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.clients import ClientCaller
from benchmarks.measuring import KINDS, Measured
from benchmarks.protocols import AGAINST, CLIENTS, FIGURES, PROTOCOLS, SHAPES, Case, Seen, cases, grown_per_s, over
from coordinator.client import Branch
from coordinator.client.outcomes import Aborted, Committed, Ended
from coordinator.ledger.records import Mode

BRANCHES = [Branch("keys-a", "put", {"key": "1", "value": 0}), Branch("keys-b", "put", {"key": "2", "value": 0})]


def _asked(protocol: str, ended: Ended, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Mapping[str, Any]]]:
    caller: Any = PROTOCOLS[protocol](["http://127.0.0.1:1"])
    asked: list[Mapping[str, Any]] = []

    async def commit(branches: Any, **_: Any) -> Ended:
        asked.extend(branch.to_map() for branch in branches)
        return ended

    monkeypatch.setattr(caller.client, "commit", commit)
    return caller, asked


@pytest.mark.parametrize(
    ("protocol", "modes"),
    [
        ("two-phase", [None, None]),
        ("tcc", [Mode.TCC, Mode.TCC]),
        ("saga", [Mode.SAGA, Mode.SAGA]),
        ("message", [Mode.PIVOT, Mode.FORWARD]),
    ],
)
async def test_each_protocol_does_the_same_work_in_its_own_way(
    protocol: str, modes: list[Mode | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows at the same participants. Red when a saga is asked for as a message."""
    caller, asked = _asked(protocol, Committed("1"), monkeypatch)
    assert await caller.commit(BRANCHES) == ""
    assert [form.get("step", {}).get("mode") for form in asked] == modes
    assert [(form["participant"], form["action"], form["body"]) for form in asked] == [
        (branch.participant, branch.action, branch.body) for branch in BRANCHES
    ]


async def test_what_is_not_committed_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every protocol: the answer goes through one place. Red when an abort counts as a transaction."""
    for protocol in PROTOCOLS:
        caller, _ = _asked(protocol, Aborted("1", "full", None), monkeypatch)
        assert isinstance(caller, ClientCaller)
        assert await caller.commit(BRANCHES) == "full"


def test_every_protocol_is_measured_beside_two_phase_commit_with_as_many_clients() -> None:
    """A ratio needs both in the same round. Red when one of the numbers of clients leaves two-phase commit out."""
    asked = cases()
    assert {case.protocol for case in asked} == PROTOCOLS.keys()
    assert all(Case(*AGAINST, clients) in asked for clients in CLIENTS)
    assert len(asked) == len(set(asked)) == len(CLIENTS) * len(SHAPES)


def _seen(per_s: float) -> Seen:
    return Seen(Measured(per_s, 1.0, 1.0, 1.0, dict.fromkeys(KINDS, 1.0), 0.1, 0.0, 0), log_bytes=per_s)


def test_a_ratio_is_taken_within_each_round() -> None:
    """So that a slow minute slows both down. Red when the medians are divided: 20 / 2 would be 10."""
    against, saga = Case(*AGAINST, 64), Case("saga", 5, 64)
    rounds = {saga: [_seen(n) for n in (8, 20, 40)], against: [_seen(n) for n in (1, 2, 10)]}
    assert over(rounds, saga, FIGURES["per_s"]) == over(rounds, saga, FIGURES["log_bytes"]) == 8


def test_a_journal_that_became_shorter_is_no_measurement() -> None:
    """A snapshot has thrown away what was to be counted. Red when the difference is taken as it is."""
    assert grown_per_s([(0.0, 500), (1.0, 100), (3.0, 500)]) == 200
    with pytest.raises(RuntimeError, match="shorter"):
        grown_per_s([(3.0, 500), (4.0, 10)])
