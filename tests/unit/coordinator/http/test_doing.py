"""What can be seen of an open transaction by its gid: attempts, the last error, the next look, results of steps."""

from __future__ import annotations

import aiohttp
import pytest

from coordinator.cli.render import print_table, transaction_table
from coordinator.driver.doing import Attempt, Doing, doing_of
from coordinator.effects import Call, CallEnded
from coordinator.facts import Facts
from coordinator.http.views import transaction_view
from coordinator.ledger.records import BranchRecord, Mode, Path, Phase, Retry, StepRecord, TransactionRecord
from coordinator.wire import TransactionView
from participant.values import packed
from participant.wire import Answer, BranchState, Verb
from tests.support.application import Application
from tests.support.cluster import Cluster, cluster, recorded, request

RECORD = TransactionRecord("g", b"d", Path.CLASSIC, Phase.COMMITTED, (), 1_000, 1, 2, "votes", notify="http://shop/")


async def shown(made: Cluster, at: str, *, follow: bool = True) -> tuple[int, TransactionView | None]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{made.urls[at]}/v1/transactions/g", allow_redirects=follow) as got,
    ):
        return got.status, TransactionView.model_validate_json(await got.read()) if got.status == 200 else None


async def test_who_asks_for_an_open_transaction_sees_what_is_being_done_about_it() -> None:
    """Goal: at any replica, because a follower sends to the leader, who alone knows; of one that has ended, nothing."""
    async with cluster(serve=True) as made:
        made.clerks["bank-b"].hold(Verb.COMMIT)
        await made.replicas["n1"].transactions.begin(request("bank-a", "bank-b", gid="g"), 5.0)
        await made.clerks["bank-b"].arrived(Verb.COMMIT)
        await recorded(made.replicas["n2"], "g", lambda record: record.phase is Phase.COMMITTING)
        assert (await shown(made, "n2", follow=False))[0] == 307
        _, view = await shown(made, "n2")
        assert view is not None
        assert view.doing is not None
        (waits,) = [each for each in view.doing.attempts if each.under_way]
        assert (waits.branch, waits.asks, waits.times, waits.error) == ("b2", "commit", 1, None)
        assert waits.heard is BranchState.PREPARED
        made.clerks["bank-b"].release(Verb.COMMIT)
        await recorded(made.replicas["n2"], "g", lambda record: record.finished)
        status, view = await shown(made, "n2", follow=False)
        assert view is not None
        assert (status, view.doing) == (200, None)


async def test_the_last_error_and_the_next_look_are_shown_also_of_a_notice() -> None:
    application = Application()
    application.away = True
    async with cluster(serve=True, notifier=application) as made:
        asked = request("bank-a", "bank-b", gid="g").model_copy(update={"notify": "http://shop/"})
        await made.replicas["n1"].transactions.begin(asked, 5.0)
        await recorded(made.replicas["n1"], "g", lambda record: record.ended)
        await application.came(3)
        _, view = await shown(made, "n1")
        assert view is not None
        assert view.doing is not None
        last = view.doing.attempts[-1]
        assert (last.branch, last.asks, last.error) == (None, "ended", "http://shop answered 503")
        assert view.doing.next_ms is not None


def test_a_call_that_brought_nothing_says_why_until_one_does() -> None:
    facts = Facts(0.0)
    facts.note(Call("b:undo", Verb.COMMIT, one_phase=True))
    facts.fold(CallEnded("b:undo", Verb.COMMIT, None, "refused"), 1.0, 0.5)
    facts.note(Call("b:undo", Verb.COMMIT, one_phase=True))
    assert doing_of(facts, 2.5) == Doing((Attempt("b:undo", "commit", 2, True, None, "refused"),), 2.5)
    facts.fold(CallEnded("b:undo", Verb.COMMIT, Answer(BranchState.COMMITTED)), 2.0, 0.5)
    assert doing_of(facts, None).attempts == (Attempt("b:undo", "commit", 2, False, BranchState.COMMITTED, ""),)


def test_the_result_of_a_step_is_shown_as_long_as_it_is_kept() -> None:
    step = StepRecord(Mode.SAGA, (), None, "undo", (), Retry(1, 1, 1), done=True, result=packed({"seat": "1A"}, "r"))
    branches = (
        BranchRecord("a", "airline", "book", b"", step=step),
        BranchRecord("b", "airline", "book", b"", step=step._replace(result=b"")),
    )
    view = transaction_view(RECORD._replace(path=Path.STEPS, phase=Phase.PREPARING, branches=branches), is_alone=True)
    assert [branch.step.result for branch in view.branches if branch.step is not None] == [{"seat": "1A"}, None]


def test_people_read_of_each_question_that_is_open(capsys: pytest.CaptureFixture[str]) -> None:
    doing = Doing(
        (
            Attempt("b1", "commit", 1, False, BranchState.COMMITTED, ""),
            Attempt("b2", "commit", 1, True, None, ""),
            Attempt("b3", "commit", 4, True, None, "no answer"),
            Attempt("", "ended", 7, False, None, "answered [503]"),
        ),
        1.5,
    )
    print_table(transaction_table(transaction_view(RECORD, doing=doing)))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "notify http://shop/ (knows: nothing yet)" in lines
    assert lines[-3:] == [
        "asking b2 commit: under way",
        "asking b3 commit, 4 times: under way, in vain before: no answer",
        "asking application ended, 7 times: answered [503]; again in 1500 ms",
    ]
