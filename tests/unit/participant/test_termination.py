"""Which way a participant leans, and what follows from how its peers do."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from participant.termination import (
    COORDINATORS,
    RULES,
    Ask,
    Ballot,
    Ending,
    Leaning,
    Policy,
    Register,
    Silence,
    after_canvass,
    after_leaning,
    draw,
    majority,
    moved,
    next_ballot,
    on_silence,
)

PAGE = Path(__file__).parents[3] / "docs" / "internals" / "three-phases.md"
MARK = "<!-- drawn -->\n"

PREPARED, PRECOMMITTED, PREABORTED = Leaning
ONE, TWO = Ballot(1, 1), Ballot(1, 2)


def test_every_leaning_has_a_rule_for_everything_that_can_be_asked() -> None:
    assert {(rule.leaning, rule.ask) for rule in RULES} == set(itertools.product(Leaning, Ask))
    assert len(RULES) == len(Leaning) * len(Ask)


def test_the_coordinators_precommit_and_nothing_else() -> None:
    assert moved(Register(), Ask.PRECOMMIT, COORDINATORS) == Register(PRECOMMITTED, COORDINATORS, COORDINATORS)
    assert moved(Register(), Ask.PREABORT, COORDINATORS) is None
    assert moved(Register(), Ask.CANVASS, COORDINATORS) is None


def test_a_canvass_is_promised_and_changes_no_leaning() -> None:
    leaning = Register(PRECOMMITTED, COORDINATORS, COORDINATORS)
    assert moved(leaning, Ask.CANVASS, ONE) == Register(PRECOMMITTED, ONE, COORDINATORS)


@pytest.mark.parametrize("ask", Ask)
def test_a_promise_keeps_lower_ballots_out(ask: Ask) -> None:
    promised = Register(promised=TWO)
    assert moved(promised, ask, ONE) is None
    assert moved(promised, ask, TWO) is not None, "the same one may come again"
    assert moved(promised, Ask.PRECOMMIT, COORDINATORS) is None


def test_to_lean_is_to_promise() -> None:
    assert moved(Register(), Ask.PREABORT, TWO) == Register(PREABORTED, TWO, TWO)


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (64, 33)])
def test_no_two_majorities_avoid_each_other(count: int, needed: int) -> None:
    assert majority(count) == needed
    assert 2 * needed > count


def test_a_ballot_is_higher_than_what_was_promised_and_nobody_elses() -> None:
    assert next_ballot(Register(), 3) == Ballot(1, 3)
    assert next_ballot(Register(promised=Ballot(4, 9)), 1) == Ballot(5, 1) > Ballot(4, 9)


def test_who_has_heard_of_no_higher_ballot_goes_on_with_its_own() -> None:
    """Seen red in the simulator: a peer that was slower than its patience promised one ballot after the other, and each
    time too late."""
    assert next_ballot(Register(promised=Ballot(4, 1)), 1) == Ballot(4, 1)


def test_nobody_leans_two_ways_in_one_ballot() -> None:
    leaning = Register(PREABORTED, TWO, TWO)
    assert moved(leaning, Ask.PRECOMMIT, TWO) is None
    assert moved(leaning, Ask.PREABORT, TWO) == leaning
    assert moved(leaning, Ask.PRECOMMIT, Ballot(2, 1)) == Register(PRECOMMITTED, Ballot(2, 1), Ballot(2, 1))


def test_a_canvass_needs_a_majority_of_promises_for_its_own_ballot() -> None:
    mine, other = Register(promised=ONE), Register(promised=TWO)
    assert after_canvass(ONE, 3, [mine]) is None
    assert after_canvass(ONE, 3, [mine, other]) is None
    assert after_canvass(ONE, 3, [mine, mine]) is PREABORTED, "nobody leans any way"


def test_a_canvass_follows_whoever_leans_latest() -> None:
    """Not the most, and not those who lean to a commit."""
    by_coordinators = Register(PRECOMMITTED, Ballot(3, 1), COORDINATORS)
    later = Register(PREABORTED, Ballot(3, 1), Ballot(1, 2))
    assert after_canvass(Ballot(3, 1), 3, [by_coordinators, Register(promised=Ballot(3, 1))]) is PRECOMMITTED
    assert after_canvass(Ballot(3, 1), 3, [by_coordinators, by_coordinators, later]) is PREABORTED


def test_whoever_knows_the_end_is_believed_before_any_majority() -> None:
    assert after_canvass(ONE, 5, [Ending.COMMIT]) is Ending.COMMIT
    assert after_leaning(ONE, PREABORTED, 5, [Register(), Ending.ABORT]) is Ending.ABORT


def test_a_majority_in_the_same_ballot_is_an_end() -> None:
    agreed, before = Register(PRECOMMITTED, TWO, TWO), Register(PRECOMMITTED, TWO, ONE)
    assert after_leaning(TWO, PRECOMMITTED, 3, [agreed, agreed]) is Ending.COMMIT
    assert after_leaning(TWO, PRECOMMITTED, 3, [agreed, before]) is None
    assert after_leaning(TWO, PREABORTED, 3, [Register(PREABORTED, TWO, TWO)] * 2) is Ending.ABORT


def silence(
    register: Register,
    policy: Policy = Policy.QUORUM,
    *,
    is_deciding: bool = False,
    silent_s: float = 0.0,
    promised_s: float = 0.0,
) -> Silence:
    """Of the participant at place 1, whose patience is 5 s."""
    return on_silence(
        policy, register, 1, is_deciding=is_deciding, silent_s=silent_s, promised_s=promised_s, patience_s=5.0
    )


def test_on_silence_a_majority_is_sought() -> None:
    for register in (Register(), Register(PRECOMMITTED, COORDINATORS, COORDINATORS)):
        assert silence(register, silent_s=4.9) is Silence.WAIT
        assert silence(register, silent_s=5.0) is Silence.TERMINATE
        assert silence(register, is_deciding=True) is Silence.WAIT


@pytest.mark.parametrize("is_deciding", [False, True])
def test_a_termination_that_has_begun_goes_on(is_deciding: bool) -> None:
    """Because it keeps the coordinators from theirs. But somebody else's gets time, the more the higher it is."""
    assert silence(Register(promised=ONE), is_deciding=is_deciding) is Silence.TERMINATE
    for number, deference_s in ((1, 5.0), (2, 10.0), (5, 80.0), (9, 80.0)):
        others = Register(promised=Ballot(number, 2))
        assert silence(others, is_deciding=is_deciding, promised_s=deference_s - 0.1) is Silence.WAIT
        assert silence(others, is_deciding=is_deciding, promised_s=deference_s) is Silence.TERMINATE


@pytest.mark.parametrize(
    ("leaning", "does"), [(PREPARED, Silence.ABORT), (PRECOMMITTED, Silence.COMMIT), (PREABORTED, Silence.ABORT)]
)
def test_the_textbook_acts_alone(leaning: Leaning, does: Silence) -> None:
    unsafe = Policy.UNSAFE_COMMIT_ON_SILENCE
    assert silence(Register(leaning), unsafe, silent_s=5.0) is does
    assert silence(Register(leaning), unsafe, silent_s=4.0) is Silence.WAIT
    assert silence(Register(leaning), unsafe, is_deciding=True) is Silence.WAIT


def test_the_documentation_shows_this_table() -> None:
    """Red whenever the table changes and the page does not; COMMITD_REWRITE=1 redraws it."""
    prose, _, drawn = PAGE.read_text(encoding="utf-8").partition(MARK)
    if os.environ.get("COMMITD_REWRITE"):
        PAGE.write_text(prose + MARK + draw(), encoding="utf-8")
        return
    assert drawn == draw()


def test_the_drawing_has_every_rule() -> None:
    drawn = draw()
    assert all(f"| {rule.leaning} | {rule.ask} | {rule.becomes} |" in drawn for rule in RULES)
    assert "prepared --> precommitted: precommit" in drawn
