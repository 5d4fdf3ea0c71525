"""The replicas of a cluster, and which of them is believed to lead."""

from __future__ import annotations

from coordinator.client.replicas import Replicas
from coordinator.client.session import Session


def test_many_who_learn_of_one_failure_turn_away_once() -> None:
    """One lost request may carry as many transactions as there are replicas: red when each of them turns."""
    replicas = Replicas(["http://n1", "http://n2", "http://n3"], Session(), lambda: None)
    failed = replicas.target
    for _ in range(3):
        replicas.turn_away(failed)
    assert replicas.target == "http://n2"
