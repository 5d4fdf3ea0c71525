"""A stage for scripted stories: one transaction, its leader, its participants; the script says what happens next.

Ledger, `decide`, facts and the participant's table are the real ones. Nothing happens by itself: proposals wait to be
applied, requests wait to be delivered, time stands still. Every verb of the script returns what it brought about.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator.effects import Call, CallEnded, Event, Haste, ProposalEnded, Propose, Tell, TellEnded
from coordinator.facts import Expiry, Facts
from coordinator.ledger.commands import (
    BY_EXPIRY,
    BY_INQUIRY,
    BY_OPERATOR,
    BY_WORKFLOW,
    Begin,
    Command,
    Decide,
    Diverge,
    DropNotice,
    End,
    Extend,
    Heard,
    Notified,
    Precommit,
    Progress,
    encode,
)
from coordinator.ledger.records import (
    BranchRecord,
    Decision,
    Delivery,
    Mode,
    Path,
    Report,
    Reporting,
    Retry,
    StepRecord,
    TransactionRecord,
    WorkflowRecord,
)
from coordinator.ledger.table import Ledger, Rejected
from coordinator.ledger.workflows import StepState
from coordinator.protocols.letters import dead_letters, reason_of, wanted
from coordinator.protocols.modes import MODES, Does
from coordinator.protocols.protocol import decide
from coordinator.protocols.reports import Misreported, judge_report, token_of
from coordinator.protocols.two_phase import Plan, choose_path
from coordinator.protocols.workflow import answer_of, placed, return_of, step_name
from participant.branch import Ask, Branch, Verdict, judge
from participant.ids import BranchKey
from participant.values import packed
from participant.wire import Answer, BranchState, Capabilities, Verb

GID = "t"
NOBODY = 0  # terms begin at 1
DRAW = 0.5  # the middle of every back-off window
REASON = "no money"
_VOTES = {"yes": BranchState.PREPARED, "no": BranchState.ABORTED, "read-only": BranchState.READ_ONLY}
_ASKS = {Verb.PREPARE: Ask.PREPARE, Verb.ABORT: Ask.ABORT, Verb.PREVENT: Ask.PREVENT}
_OUTCOMES = {Decision.COMMIT: "committed", Decision.ABORT: "aborted"}


class Stage:
    """The verbs of the script are the public methods; their arguments are words."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ledger = Ledger()
        self._term = 1
        self._plan: Plan | None = None
        self._facts: Facts | None = None  # None: nobody drives
        self._wake_at: float | None = None
        self._implied: Decide | None = None  # what the driver may tell before the record holds it
        self._client_waits = False
        self._asked = 0  # the step that the code of a workflow waits for
        self._wills: dict[str, str] = {}
        self._branches: dict[str, Branch] = {}
        self._proposals: list[Command] = []
        self._requests: list[tuple[int, Call]] = []  # the term of the leader that waits for it, or NOBODY
        self._notices: list[tuple[int, Tell]] = []  # on their way to the application
        self._lines: list[str] = []

    def run(self, verb: str, arguments: list[str]) -> list[str]:
        """Perform one line of the script; what happened, line by line."""
        self._lines = []
        method: Callable[..., None] = getattr(self, verb.replace("-", "_"))
        method(*arguments)
        return self._lines or ["nothing happens"]

    # The verbs

    def post(self, *words: str) -> None:
        """post a=yes b=no [path=one-phase] [unable=b] [deadline=10s] [notify=yes]: a client posts it, perhaps again.

        The path is what this leader chooses, so it is no part of what was posted. Without one it is classic; with
        path=best it follows from what the banks can do, where `unable` cannot prevent.
        """
        options = dict(word.split("=") for word in words)
        notify = "http://shop" if options.pop("notify", "") else ""
        chosen, unable = options.pop("path", "classic"), options.pop("unable", "")
        deadline_ms = int(_seconds(options.pop("deadline", "10s")) * 1000)
        branches = tuple(BranchRecord(name, f"bank-{name}", "debit", b"") for name in options)
        if chosen == "best":
            able = {f"bank-{name}": Capabilities(f"bank-{name}", prevent=name != unable) for name in options}
            self._say(f"the path is {choose_path(branches, able)}")
        path = choose_path(branches, able) if chosen == "best" else Path(chosen)
        plan = Plan(GID, repr(sorted(options)).encode(), path, branches, deadline_ms, notify=notify)
        record = self._record
        if record is not None and not record.tombstone and record.digest != plan.digest:
            self._say("client hears: the gid names another transaction")
            return
        for name, will in options.items():
            self._wills[name] = will
            self._branches.setdefault(name, Branch(BranchKey(GID, name)))
        self._client_waits = True
        if record is not None:
            self._reply()
        elif self._facts is None:
            self._plan, self._facts = plan, Facts(self._now)
            self._drive()

    def steps(self, *words: str) -> None:
        """steps a=saga b=saga>a c=pivot d=forward [attempts=3] [deadline=10s]: a client posts a transaction of steps.

        `>` names those that a step comes after (`a=saga>b>c`), `@5s` says how long after the decision it begins, `!`
        that somebody is to report it, `?2` that it is set aside after so many refusals. A bank does what it is asked,
        unless it is told to `refuse`.
        """
        options = dict(word.split("=") for word in words)
        deadline_ms = int(_seconds(options.pop("deadline", "10s")) * 1000)
        retry = Retry(int(options.pop("attempts", "1")), 1_000, 1_000)
        branches = []
        for name, words_of_it in options.items():
            how, _, limit = words_of_it.partition("?")
            kind, *after = how.replace("!", "").split(">")
            reporting = Reporting("token", f"secret-{name}") if "!" in how else None
            mode, _, delay = kind.partition("@")
            delay_ms = int(_seconds(delay or "0s") * 1_000)
            rules = MODES[Mode(mode)]
            undo = "undo" if rules.on_abort is Does.UNDO else None
            confirm = "confirm" if rules.on_commit is Does.CONFIRM else None
            step = StepRecord(Mode(mode), tuple(after), confirm, undo, (), retry)
            delivery = Delivery("", int(limit)) if limit else None
            step = step._replace(not_before_ms=delay_ms, reporting=reporting, delivery=delivery)
            action = None if step.mode is Mode.SOURCE else "do"
            branches.append(BranchRecord(name, f"bank-{name}", action, b"", step=step))
        self._client_waits = True
        self._plan = Plan(GID, repr(words).encode(), Path.STEPS, tuple(branches), deadline_ms)
        self._facts = Facts(self._now)
        self._drive()

    def workflow(self, deadline: str = "10s") -> None:
        """workflow [20s]: a client begins a workflow, with this deadline, and has heard that it is recorded."""
        record = WorkflowRecord("book", b"")
        self._commit(Begin(GID, b"d", Path.STEPS, (), int(_seconds(deadline) * 1_000), 0, workflow=record))
        self._client_waits = True
        self._facts = Facts(self._now)
        self._drive()

    def asks(self, number: str, mode: str, attempts: str = "1") -> None:
        """asks 2 saga [3]: the code of the workflow asks for its second step, which may be begun three times."""
        rules = MODES[Mode(mode)]
        undo = "undo" if rules.on_abort is Does.UNDO else None
        confirm = "confirm" if rules.on_commit is Does.CONFIRM else None
        step = StepRecord(Mode(mode), (), confirm, undo, (), Retry(int(attempts), 1_000, 1_000))
        name = step_name(int(number))
        branch = BranchRecord(name, f"bank-{name}", "do", b"", step=step)
        record = self._begun
        known = record.workflow.asked[int(number) - 1 : int(number)] if record.workflow is not None else ()
        if known and known[0].digest != mode.encode():
            self._commit(Diverge(GID, f"step {number} was another one"))
            self._say("code hears: it has asked for something else before")
            return
        if not known and record.decision is None:
            self._commit(Extend(GID, int(number), mode.encode(), placed(record, branch), 0))
        self._asked = int(number)
        self._drive()
        self._tell()

    def returns(self, steps: str) -> None:
        """returns 2: the code has returned, after two steps."""
        self._commit(return_of(self._begun, int(steps), b""))
        self._drive()

    def raises(self) -> None:
        """The code has failed, and the leader hears of it."""
        if self._facts is not None:
            self._facts.expiry = Expiry(BY_WORKFLOW, REASON)
            self._drive()

    def refuse(self, *names: str) -> None:
        """refuse b b:undo: what these attempts ask for will be refused."""
        self._wills.update(dict.fromkeys(names, "no"))

    def report(self, name: str, *words: str) -> None:
        """report a [attempt=1] [token=wrong]: somebody reports that the work which a step has begun is done."""
        self._report(name, Report.DONE, *words)

    def decline(self, name: str, *words: str) -> None:
        """decline a [attempt=1]: somebody reports that it will not be done."""
        self._report(name, Report.REFUSED, *words)

    def _report(self, name: str, report: Report, *words: str) -> None:
        record, options = self._record, dict(word.split("=") for word in words)
        step = next((b.step for b in (record.branches if record else ()) if b.branch == name), None)
        if record is None or step is None:
            self._say(f"whoever reports hears: {'no record' if record is None else 'no step'}")
            return
        token = options.get("token") or token_of(GID, name, step, int(options.get("attempt", step.running)))
        judged = judge_report(record, name, token, report, packed(REASON if report is Report.REFUSED else None, "word"))
        if judged is None:
            self._say("it was reported so before")
        elif isinstance(judged, Misreported):
            self._say(f"whoever reports hears: {judged.why}")
        else:
            self._commit(judged)
            self._drive()

    def redeliver(self, name: str, who: str) -> None:
        """redeliver b ann: an operator has a dead letter delivered once more."""
        self._letter(name, Heard.REDELIVERED, who)

    def give_up(self, name: str, who: str) -> None:
        """give-up b ann: an operator drops a dead letter."""
        self._letter(name, Heard.DROPPED, who)

    def _letter(self, name: str, heard: Heard, who: str) -> None:
        record = self._record
        dead = [] if record is None else [b for b in dead_letters(record) if b.branch == name]
        if record is None or not dead:
            self._say(f"{who} hears: no dead letter")
            return
        self._commit(wanted(record, dead[0], heard, f"{heard} by {who}"))
        self._drive()

    def commit(self, name: str) -> None:
        """commit a: the sender commits its source by itself."""
        self._say(f"{name} is {self._participate(Call(name, Verb.COMMIT, one_phase=True)).state}")

    def submit(self) -> None:
        """The sender tells the leader that its source is done."""
        if self._facts is not None:
            self._facts.submitted = True
            self._drive()

    def apply(self) -> None:
        """The oldest proposal is applied."""
        command = self._proposals.pop(0)
        self._commit(command)
        self._ended(ProposalEnded(command))

    def lose(self) -> None:
        """The oldest proposal is lost; its proposer hears that it is unknown."""
        self._ended(ProposalEnded(self._proposals.pop(0)))

    def deliver(self, name: str, *words: str) -> None:
        """deliver a [prepare] [answer-lost]: the oldest request (of this verb) arrives, and its answer comes back."""
        lost = "answer-lost" in words
        term, call = self._request_to(name, *(word for word in words if word != "answer-lost"))
        answer = self._participate(call)
        self._say(f"{name} is {_state(answer)}")
        if term == self._term:
            self._ended(CallEnded(name, call.verb, None if lost else answer))

    def drop(self, name: str, *words: str) -> None:
        """drop a [prepare]: the oldest request (of this verb) is lost, and whoever sent it hears of nothing."""
        term, call = self._request_to(name, *words)
        if term == self._term:
            self._ended(CallEnded(name, call.verb, None))

    def duplicate(self, name: str, *words: str) -> None:
        """duplicate a [prepare]: the oldest request (of this verb) will arrive once more; nobody hears that answer."""
        self._requests.append((NOBODY, self._oldest_request_to(name, *words)[1]))

    def take(self, answer: str = "") -> None:
        """take [answer-lost]: the oldest notice arrives at the application, which takes it."""
        term, tell = self._notices.pop(0)
        self._say(f"application hears: {tell.notice}")
        if term == self._term:
            self._ended(TellEnded(tell.notice, "no answer" if answer else ""))

    def refuse_notice(self) -> None:
        """The oldest notice arrives at the application, which does not take it."""
        term, tell = self._notices.pop(0)
        if term == self._term:
            self._ended(TellEnded(tell.notice, "it answered 503"))

    def drop_notice(self, who: str) -> None:
        """drop-notice ann: an operator has the application told no more."""
        self._commit(DropNotice(GID, f"dropped by {who}"))
        self._drive()

    def wait(self, duration: str) -> None:
        """wait 10s: time passes."""
        self._now += _seconds(duration)
        self._drive()

    def crash(self, who: str, log: str = "") -> None:
        """crash a | crash leader [log-survives]: what is volatile is gone, and so are the connections.

        The requests of a dead leader are still under way. Its proposals are lost, unless they survive.
        """
        if who != "leader":
            broken = [call for term, call in self._requests if call.branch == who and term == self._term]
            self._requests = [request for request in self._requests if request[1].branch != who]
            for call in broken:
                self._ended(CallEnded(who, call.verb, None))
            return
        self._facts, self._plan, self._implied, self._client_waits = None, None, None, False
        self._wake_at = None
        self._term += 1
        for command in self._proposals if log else ():
            self._commit(command)
        self._proposals = []

    def takeover(self) -> None:
        """The next leader takes up what the ledger holds."""
        for _ in self._ledger.unfinished():
            self._facts = Facts(self._now)
            self._drive()

    def inquire(self, name: str, *words: str) -> None:
        """inquire a [answer-lost]: a participant in doubt asks a replica."""
        if self._record is None:
            self._commit(Decide(GID, Decision.ABORT, BY_INQUIRY, 0, reason="nobody has recorded it"))
        record = self._record
        decision = None if record is None else record.decision
        if "answer-lost" in words:
            self._say(f"{name} hears nothing")
        else:
            self._say(f"{name} hears: {_OUTCOMES[decision] if decision else 'deciding'}")
            if decision is not None:
                verb = Verb.COMMIT if decision is Decision.COMMIT else Verb.ABORT
                self._say(f"{name} is {self._participate(Call(name, verb)).state}")
        self._drive()

    def read(self, where: str = "leader") -> None:
        """read [follower]: somebody asks the leader, or another replica, how it ended."""
        record = self._record
        if record is None:
            self._say("reader hears: not found")
        elif record.decision is not None:
            self._say(f"reader hears: {_OUTCOMES[record.decision]}")
        elif not record.path.is_implied:
            self._say("reader hears: deciding")
        elif where == "follower":
            self._say("reader is sent to the leader")
        elif self._plan is None or self._implied is not None:
            self._say("reader waits for the record, and may have to ask again")
        else:
            self._say("reader hears: deciding")

    def resolve(self, decision: str, operator: str) -> None:
        """resolve abort ann: an operator decides."""
        self._commit(Decide(GID, Decision(decision), BY_OPERATOR + operator, 0, reason="by hand"))
        self._drive()

    def cancel(self, who: str) -> None:
        """cancel ann: a client, or an operator, does not want to wait any longer."""
        if self._facts is not None:
            self._facts.expiry = Expiry(BY_EXPIRY + who, "not wanted")
            self._drive()

    def show(self) -> None:
        """What is true."""
        record = self._record
        if record is None:
            self._say("no record")
        else:
            ended = ",".join(b.branch for b in record.branches if b.ended) or "none"
            decided = f", decided by {record.decided_by}" if record.decision else ""
            reason = f", reason: {record.reason}" if record.reason else ""
            told = f", the application knows: {record.notified or 'nothing'}" if record.notify else ""
            told += f" ({record.notice_dropped})" if record.notice_dropped else ""
            self._say(f"record: {record.phase}{decided}{reason}, ended: {ended}{told}")
            for letter in dead_letters(record):
                self._say(f"dead letter {letter.branch}: {reason_of(letter)}")
        for name, branch in self._branches.items():
            self._say(f"{name} is {branch.state}")

    # What happens then

    @property
    def _record(self) -> TransactionRecord | None:
        return self._ledger.get(GID)

    @property
    def _begun(self) -> TransactionRecord:
        record = self._record
        if record is None:
            raise ValueError("nothing is begun")
        return record

    def _tell(self) -> None:
        """What the code of a workflow hears of the step that it waits for, once the record says it."""
        if not self._asked or (told := answer_of(self._begun, self._asked)).state is StepState.PENDING:
            return
        self._say(f"code hears: step {self._asked} is {told.state}" + (f" ({told.reason})" if told.reason else ""))
        self._asked = 0

    def _say(self, line: str) -> None:
        self._lines.append(line)

    def _commit(self, command: Command) -> None:
        result = self._ledger.apply(0, encode(command, int(self._now * 1000)))
        name = type(command).__name__.lower()
        if isinstance(result, Rejected):
            self._say(f"{name} is rejected: {result.reason}")
        else:
            self._say(f"{name} is applied: {result.record.phase if result.record else 'forgotten'}")
        if self._asked:
            self._tell()

    def _ended(self, event: Event) -> None:
        if self._facts is not None:
            self._facts.fold(event, self._now, DRAW)
            self._drive()

    def _drive(self) -> None:
        self._reply()
        if self._facts is None:
            return
        if self._record is not None and self._record.decision is not None:
            self._facts.saw_decision(self._now)
        step = decide(self._plan, self._record, self._facts, self._now)
        for effect in step.effects:
            self._facts.note(effect)
            if isinstance(effect, Propose):
                self._proposals.append(effect.command)
                soon = " soon:" if effect.haste is Haste.SOON else ""
                self._say(f"n{self._term} proposes{soon} {_told(effect.command)}")
            elif isinstance(effect, Tell):
                self._notices.append((self._term, effect))
                self._say(f"n{self._term} tells the application: {effect.notice}")
            else:
                self._requests.append((self._term, effect))
                one_phase = " in one phase" if effect.one_phase else ""
                self._say(f"n{self._term} calls {effect.branch}: {effect.verb}{one_phase}")
        if step.implied is not None:
            self._implied = step.implied
            self._reply()
        if step.contradiction:
            self._say(f"ALARM: {step.contradiction}")
        if step.wake_at is not None and step.wake_at != self._wake_at:
            self._say(f"n{self._term} wakes at {step.wake_at:g}s")
        self._wake_at = step.wake_at
        if step.done:
            self._facts = None
            self._say(f"n{self._term} is done")

    def _reply(self) -> None:
        """What the record does not hold yet is told by implication."""
        record = self._record
        told: Decide | TransactionRecord | None = self._implied if record is None or not record.decision else record
        if self._client_waits and told is not None and told.decision is not None:
            self._client_waits = False
            implied = " (implied)" if told is self._implied else ""
            reason = f": {told.reason}" if told.decision is Decision.ABORT else ""
            self._say(f"client hears: {_OUTCOMES[told.decision]}{implied}{reason}")

    def _request_to(self, name: str, *verbs: str) -> tuple[int, Call]:
        request = self._oldest_request_to(name, *verbs)
        self._requests.remove(request)
        return request

    def _oldest_request_to(self, name: str, *verbs: str) -> tuple[int, Call]:
        to_branch = [request for request in self._requests if request[1].branch == name]
        return next(request for request in to_branch if not verbs or request[1].verb in verbs)

    def _participate(self, call: Call) -> Answer:
        branch = self._branches.get(call.branch) or Branch(BranchKey(GID, call.branch))
        will = self._wills.get(call.branch, "yes")
        commit = Ask.COMMIT_ONE_PHASE if call.one_phase else Ask.COMMIT
        ask = _ASKS.get(call.verb, commit)
        rule = judge(branch.state, ask)
        if rule.verdict in (Verdict.RUN, Verdict.EMPTY):
            state = _VOTES[will] if ask is Ask.PREPARE else rule.next[0]
            if ask is Ask.COMMIT_ONE_PHASE and will == "no":
                state = BranchState.ABORTED
            branch = branch.move(ask, state, at_ms=0, reason=REASON if will == "no" else "")
            self._branches[call.branch] = branch
        return branch.answer(rule.why)


def _state(answer: Answer) -> str:
    register = None if answer.three_phase is None else answer.three_phase.register
    return answer.state if register is None else f"{answer.state}, and {register.leaning}"


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def _told(command: Command) -> str:
    match command:
        case Begin(branches=branches):
            return f"begin {','.join(branch.branch for branch in branches)}"
        case Decide(decision=decision, by=by, reason=reason, done=done):
            why = f" ({reason})" if reason else ""
            return f"{decision} by {by}{why}" + (f", done: {','.join(done)}" if done else "")
        case End(branches=ended):
            return f"end {','.join(ended)}"
        case Precommit():
            return "precommit"
        case Notified(notice=notice):
            return f"that the application knows: {notice}"
        case Progress(branch=branch, attempt=attempt, heard=heard):
            return f"progress of {branch}: attempt {attempt} {heard}"
    raise ValueError(command)
