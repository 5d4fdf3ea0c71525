"""A small world, searched completely: one transaction, its leader, its participants, every message between them.

The rules are the real ones (`parts`); their state is taken apart into a `World` of plain tuples (`states`). What must
come about sooner or later (`successors`):

- a request or an answer that somebody waits for is delivered, in any order; the pending proposal is applied;
- the deadline passes; a participant in doubt asks, as soon as it likes.

What need not come about (`faults`), each as often as its budget allows:

- `crashes`: a participant keeps what is durable and breaks its connections; the leader loses its facts and perhaps its
  proposals, and the next one starts with what the ledger holds. If nothing was recorded, the client posts again, and
  the leader of that attempt may choose another path (`retry_paths`).
- `timeouts`: a reply is late or lost. A call is given up while its request or its answer is under way; a proposal is
  given up, and is applied later or never; a participant asks how its transaction ended, and the question or the answer
  is under way while everything else goes on, and arrives later or never.
- `copies`: a request, wanted or not, is under way a second time.
- `cuts`: the leader of an undecided record is cut off from the log and does not know it. What it has proposed last was
  in the log of its successor, or is lost with all that it proposes from here on; but it goes on asking and hearing the
  participants, its deadline passes, and it may tell its callers what follows from the record that it has.
- for nothing: a request for whose answer nobody (or only a cut-off leader) waits arrives; a branch gets tired of
  waiting, or another request is taken for this one, where the rules let them.

What bounds it: these budgets; attempts are counted to two; a branch has one slow inquiry under way, and the log one
proposal that was given up; the back-off is over at once. A participant crashes only while something is under way to
or from it, because nothing else would change. One leader is cut off at a time, and gives up none of its calls. One
that is cut off before there is a record, or after the decision, has nothing new to tell: it is a leader that crashed,
whose requests arrive late; and so is a cut-off leader from when it has told something.

Branches of one will are interchangeable, so a world is kept with its branches sorted. What can make no difference any
more is left out of it: a request that does nothing in any state that its branch can still come to, and, once the
transaction is decided, who was late.
"""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.ledger.commands import BY_INQUIRY, Command, Decide
from coordinator.ledger.records import Decision, Phase
from participant.branch import Ask
from participant.wire import BranchState, Verb
from tests.exhaustive.parts import Parts
from tests.exhaustive.states import (
    BLANK,
    CUT_OFF,
    FINISHED,
    LEADER,
    NO,
    NOBODY,
    READ_ONLY,
    YES,
    Answered,
    BranchWorld,
    Proposal,
    Request,
    Violation,
    World,
    added,
    cut_off,
    dismissed,
    removed,
    sorted_world,
    unheard,
    with_branch,
)

__all__ = [
    "FINISHED",
    "NO",
    "READ_ONLY",
    "YES",
    "BranchWorld",
    "Rules",
    "Violation",
    "World",
    "first_world",
    "sorted_world",
]

ASKS = "asks"


class Rules(Parts):
    """What may happen next, and what comes of it."""

    def successors(self, world: World) -> Iterator[tuple[str, World]]:
        """Every next world that must come about sooner or later, and how."""
        if world.proposal is not None:
            yield f"{world.proposal[0]} is applied", self._proposal_applied(world, world.proposal)
        for i, branch in enumerate(world.branches):
            for request in dict.fromkeys(branch.requests):
                if request[2] == LEADER:
                    yield f"{_told(request)} reaches {branch.will}", self._request_delivered(world, i, request)
            for answer in dict.fromkeys(branch.answers):
                if answer[2] == LEADER:
                    yield f"{_told_answer(answer)} from {branch.will}", self._answered(world, i, answer)
            if branch.durable == BranchState.PREPARED:
                answered, decision = self._inquiry_answered(world)
                if decision is not None:
                    yield f"{branch.will} inquires", self.step(self._decision_heard(answered, i, decision))
        if world.driver and not world.late and world.phase in (None, Phase.PREPARING):
            yield "the deadline passes", self.step(world._replace(late=True, excused=True))

    def faults(self, world: World) -> Iterator[tuple[str, World]]:
        """Every next world that need not come about."""
        for i, branch in enumerate(world.branches):
            for request in dict.fromkeys(branch.requests):
                if request[2] != LEADER:
                    yield f"a late {_told(request)} reaches {branch.will}", self._request_delivered(world, i, request)
            for answer in dict.fromkeys(branch.answers):
                if answer[2] == CUT_OFF:
                    label = f"the cut-off leader hears {_told_answer(answer)} from {branch.will}"
                    yield label, self._answered_cut_off(world, i, answer)
            yield from self._inquiring_slowly(world, i)
            yield from self._expiring(world, i)
            if world.crashes and (branch.requests or branch.answers or branch.inquiry):
                yield f"{branch.will} crashes", self._participant_crashed(world, i)
        yield from self._failures_of_the_leader(world)
        if world.timeouts:
            yield from self._timeouts(world)
        if world.copies:
            yield from self._copies(world)

    def _failures_of_the_leader(self, world: World) -> Iterator[tuple[str, World]]:
        if world.crashes and world.driver:
            yield "the leader crashes", self._leader_crashed(world)
            if world.proposal is not None:
                yield "the leader crashes, its proposal survives", self._leader_crashed(self._survived(world))
        if world.cuts and world.driver and world.phase is Phase.PREPARING:
            yield "the leader is cut off", self._leader_cut_off(world, world)
            if world.proposal is not None:
                survived = self._survived(world)
                yield "the leader is cut off, its proposal survives", self._leader_cut_off(world, survived)
        if world.cut is not None and not world.cut.late:
            late = world._replace(cut=world.cut._replace(late=True), excused=True)
            yield "the deadline passes at the cut-off leader", self.step_cut_off(late)
        if world.stray is not None:
            yield f"a late {world.stray[0]} is applied", self.step(self._stray_applied(world, world.stray))
        if not world.driver and world.phase is None:
            for path in self.retry_paths or (self.path,):
                taken = f" ({path})" if self.retry_paths else ""
                yield f"the client posts again{taken}", self.step(world._replace(driver="plan", path=path))
        if not world.rival and self.takes_rival(world):
            yield "another request for the gid is taken for this one", world._replace(rival=True)

    def _timeouts(self, world: World) -> Iterator[tuple[str, World]]:
        left = world._replace(timeouts=world.timeouts - 1)
        if world.proposal is not None and world.stray is None:
            yield f"{world.proposal[0]} is given up", self.step(self._proposal_given_up(left, world.proposal))
        for i, branch in enumerate(world.branches):
            if branch.fact[1]:
                yield f"{branch.fact[0]} to {branch.will} is given up", self._call_given_up(left, i)
            if branch.durable == BranchState.PREPARED and not branch.inquiry:
                yield f"{branch.will} inquires slowly", with_branch(left, i, branch._replace(inquiry=ASKS))

    def _copies(self, world: World) -> Iterator[tuple[str, World]]:
        left = world._replace(copies=world.copies - 1)
        for i, branch in enumerate(world.branches):
            for verb, one_phase in dict.fromkeys(request[:2] for request in branch.requests):
                copied = branch._replace(requests=added(branch.requests, (verb, one_phase, NOBODY)))
                yield f"{_told((verb, one_phase, NOBODY))} to {branch.will} is doubled", with_branch(left, i, copied)

    # The log

    def _pending(self, world: World, proposal: Proposal) -> Command:
        return self.command(world, proposal, (b.named for b in world.branches))

    def _proposal_applied(self, world: World, proposal: Proposal) -> World:
        command = self._pending(world, proposal)
        return self.step(self.proposal_ended(self.applied(world, command), command))

    def _proposal_given_up(self, world: World, proposal: Proposal) -> World:
        strayed = world._replace(stray=proposal, branches=tuple(b._replace(strayed=b.named) for b in world.branches))
        return self.proposal_ended(strayed, self._pending(world, proposal))

    def _stray_applied(self, world: World, proposal: Proposal) -> World:
        command = self.command(world, proposal, (b.strayed for b in world.branches))
        branches = tuple(b._replace(strayed=False) for b in world.branches)
        return self.applied(world._replace(stray=None, branches=branches), command)

    def _survived(self, world: World) -> World:
        """All that the leader has proposed was in the log of its successor."""
        if world.stray is not None:
            world = self._stray_applied(world, world.stray)
        return world if world.proposal is None else self.applied(world, self._pending(world, world.proposal))

    # Calls

    def _request_delivered(self, world: World, i: int, request: Request) -> World:
        verb, one_phase, waiting = request
        branch = world.branches[i]
        durable, state, alarm = self.participated(branch.durable, branch.will, verb, one_phase)
        answers = added(branch.answers, (verb, state, waiting)) if waiting else branch.answers
        delivered = branch._replace(durable=durable, requests=removed(branch.requests, request), answers=answers)
        return _alarmed(with_branch(world, i, delivered), alarm)

    def _answered(self, world: World, i: int, answer: Answered) -> World:
        branch = world.branches[i]
        fact = self.folded(branch.fact, *answer[:2])
        return self.step(with_branch(world, i, branch._replace(fact=fact, answers=removed(branch.answers, answer))))

    def _answered_cut_off(self, world: World, i: int, answer: Answered) -> World:
        branch = world.branches[i]
        fact = self.folded(branch.cut_fact, *answer[:2])
        heard = branch._replace(cut_fact=fact, answers=removed(branch.answers, answer))
        return self.step_cut_off(with_branch(world, i, heard))

    def _call_given_up(self, world: World, i: int) -> World:
        branch = world.branches[i]
        verb = branch.fact[0]
        answers = tuple(answer for answer in branch.answers if (answer[0], answer[2]) != (verb, LEADER))
        requests = unheard(branch.requests, LEADER, verb)
        given_up = branch._replace(requests=requests, answers=answers, fact=self.folded(branch.fact, verb, ""))
        return self.step(with_branch(world, i, given_up))

    # Inquiries

    def _inquiry_answered(self, world: World) -> tuple[World, Decision | None]:
        """A replica looks up what it tells a participant; the leader has not looked yet."""
        decision, makes_durable = self.inquire(self.record(world))
        if makes_durable:
            world = self.applied(world, Decide("t", Decision.ABORT, BY_INQUIRY, 0))._replace(excused=True)
        return world, decision

    def _decision_heard(self, world: World, i: int, decision: Decision) -> World:
        branch = world.branches[i]
        verb = Verb.COMMIT if decision is Decision.COMMIT else Verb.ABORT
        durable, _, alarm = self.participated(branch.durable, branch.will, verb, False)
        return _alarmed(with_branch(world, i, branch._replace(durable=durable)), alarm)

    def _inquiring_slowly(self, world: World, i: int) -> Iterator[tuple[str, World]]:
        branch = world.branches[i]
        if branch.inquiry == ASKS:
            answered, decision = self._inquiry_answered(world)
            asked = answered.branches[i]._replace(inquiry=decision or "")
            yield f"the inquiry of {branch.will} is answered", self.step(with_branch(answered, i, asked))
        elif branch.inquiry:
            heard = with_branch(world, i, branch._replace(inquiry=""))
            yield f"{branch.will} hears {branch.inquiry}", self._decision_heard(heard, i, Decision(branch.inquiry))

    # Crashes, and a leader that is deposed without knowing

    def _participant_crashed(self, world: World, i: int) -> World:
        branch = world.branches[i]
        broken = [(verb, "", waiting) for verb, _, waiting in branch.requests if waiting]
        broken += [(verb, "", waiting) for verb, _, waiting in branch.answers]
        after = branch._replace(requests=(), answers=tuple(sorted(broken)), inquiry="")
        return with_branch(world, i, after)._replace(crashes=world.crashes - 1)

    def _leader_crashed(self, world: World) -> World:
        return self._taken_over(dismissed(world)._replace(crashes=world.crashes - 1))

    def _leader_cut_off(self, before: World, survived: World) -> World:
        """It knows the record as it was `before`; its successor has what `survived`."""
        cut = cut_off(before)
        left = survived._replace(cut=cut.cut, cuts=before.cuts - 1)
        branches = tuple(
            b._replace(cut_fact=c.cut_fact, requests=c.requests, answers=c.answers)
            for b, c in zip(left.branches, cut.branches, strict=True)
        )
        return self._taken_over(dismissed(left._replace(branches=branches)))

    def _taken_over(self, world: World) -> World:
        unfinished = self.takeover and world.phase is not None and world.phase not in FINISHED
        return self.step(world._replace(driver="takeover")) if unfinished else world

    # The participant's own clock

    def _expiring(self, world: World, i: int) -> Iterator[tuple[str, World]]:
        branch = world.branches[i]
        durable, _, _ = self.participated(branch.durable, branch.will, Ask.EXPIRE, False)
        if durable != branch.durable:
            yield f"{branch.will} is tired of waiting", with_branch(world, i, branch._replace(durable=durable))


def _alarmed(world: World, alarm: str) -> World:
    return world._replace(alarm=alarm) if alarm else world


def _told_answer(answer: Answered) -> str:
    return f"{answer[0]}: {answer[1] or 'unknown'}"


def _told(request: Request) -> str:
    return f"{request[0]} in one phase" if request[1] else request[0]


def first_world(
    rules: Rules, wills: tuple[str, ...], *, crashes: int, timeouts: int, copies: int = 0, cuts: int = 0
) -> World:
    """The client's request has arrived at the leader."""
    branches = tuple(
        BranchWorld(will, BranchState.UNKNOWN, False, False, False, BLANK, BLANK, (), (), "") for will in sorted(wills)
    )
    world = World(
        phase=None,
        tombstone=False,
        path=rules.path,
        proposal=None,
        proposal_fact=BLANK,
        stray=None,
        driver="plan",
        late=False,
        overdue=False,
        cut=None,
        crashes=crashes,
        timeouts=timeouts,
        copies=copies,
        cuts=cuts,
        rival=False,
        excused=False,
        told="",
        alarm="",
        branches=branches,
    )
    return sorted_world(rules.step(world))
