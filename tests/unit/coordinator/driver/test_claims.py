"""Who runs what: one worker at a time, as long as it says so."""

from __future__ import annotations

from coordinator.driver.claims import LEASE_S, Claims


def test_a_claim_is_one_worker_s_until_it_has_said_nothing_for_a_lease() -> None:
    claims = Claims()
    assert claims.take("t", "a", 0.0)
    assert not claims.take("t", "b", LEASE_S - 0.1)
    assert claims.take("t", "a", LEASE_S - 0.1)
    assert not claims.take("t", "b", LEASE_S + 0.1)
    assert claims.worker_of("t", LEASE_S + 0.1) == "a"
    assert claims.worker_of("t", 2 * LEASE_S) is None
    assert claims.is_free("t", 2 * LEASE_S)
    assert claims.take("t", "b", 2 * LEASE_S)
    assert not claims.take("t", "a", 2 * LEASE_S)


def test_what_rests_is_not_offered_but_who_runs_it_may_go_on() -> None:
    claims = Claims()
    claims.rest("t", 10.0)
    assert not claims.is_free("t", 9.9)
    assert claims.worker_of("t", 9.9) is None
    assert claims.is_free("t", 10.0)
    assert claims.take("t", "a", 9.9)
    assert not claims.take("t", "b", 9.9)


def test_what_a_worker_does_not_name_any_more_it_has_let_go() -> None:
    claims = Claims()
    for gid, worker in (("1", "a"), ("2", "a"), ("3", "b")):
        claims.take(gid, worker, 0.0)
    assert claims.keep_only("a", {"2"})
    assert not claims.keep_only("a", {"2"})
    assert [claims.is_free(gid, 1.0) for gid in "123"] == [True, False, False]


def test_the_next_end_is_that_of_the_oldest_claim_that_holds() -> None:
    claims = Claims()
    assert claims.next_end(0.0) is None
    claims.take("1", "a", 0.0)
    claims.take("2", "b", 1.0)
    assert claims.next_end(0.5) == LEASE_S
    assert claims.next_end(LEASE_S) == LEASE_S + 1.0
    claims.drop("2")
    assert claims.next_end(LEASE_S) is None
    claims.clear()
    assert claims.is_free("1", 0.0)
