"""Redis as a participant: the barrier around the user's Lua, over a `redis.asyncio` client of the user's.

Needs redis: `pip install commitd[redis]`. One script holds the row of the branch and the user's keys; Redis runs one
script after the other, so nothing waits, and nothing comes in between.

Redis answers before a write is on the disk unless it is told otherwise, and then a power cut takes answers back: a try
that was answered is gone, and its confirm a contradiction. So `open` refuses a server that may forget, unless it is
said that this may be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeAlias

try:
    from redis.asyncio import Redis, RedisCluster
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import NoPermissionError, NoScriptError, ResponseError
    from redis.exceptions import TimeoutError as RedisTimeoutError
except ImportError as error:
    raise ImportError("the barrier on Redis needs redis: pip install 'commitd[redis]'") from error
from structlog import get_logger

from participant.barrier import Outcome, Row, Rule, State, Step, Verdict
from participant.barriers.limits import BarrierLimits, told
from participant.barriers.lua import PROBE, script
from participant.branch import REASON_CHARS_MAX
from participant.errors import ConfigError, ResourceBusy, ResourceUnreachable, StepError
from participant.rm.retention import wall_clock_ms

__all__ = ["Client", "RedisBarrier", "Value"]

Client: TypeAlias = "Redis | RedisCluster"
Value: TypeAlias = str | bytes | int | float

VERSION_MIN = 7
PROBES_MAX = 1_000  # keys that are looked at to find one on each primary of a cluster
_LOG = get_logger(__name__)
# In errors that come again as they were.
_IN_VAIN = ("compiling script", "CROSSSLOT", "The user executing the script", "Unknown Redis command")
_UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError)


class RedisBarrier:
    """One for a service; `open` makes it. The client stays the user's."""

    def __init__(self, client: Client, limits: BarrierLimits) -> None:
        """For `open`, which has looked at the server."""
        self._client = client
        self._limits = limits

    @classmethod
    async def open(cls, client: Client, limits: BarrierLimits | None = None, *, allow_loss: bool = False) -> Self:
        """Look at the server. Raises ConfigError if it may lose what it has answered, its version is too old, or it
        does not let this user put back what a step has written. Raises ResourceBusy, ResourceUnreachable: come again.

        In a cluster each primary is looked at. `allow_loss` makes what may be lost a warning in the log: for who wants
        that, and for servers whose provider shows no settings and vouches for them.
        """
        try:
            if isinstance(client, RedisCluster):
                await client.initialize()
            losses = await _losses(client)
            await _probe(client)
        except _UNREACHABLE as error:
            raise ResourceUnreachable(f"cannot open the barrier in Redis: {error or type(error).__name__}") from error
        if losses and not allow_loss:
            raise ConfigError(f"{'; '.join(losses)}. Or open the barrier with allow_loss=True, if that may be")
        for loss in losses:
            _LOG.warning("barrier.redis_may_lose", why=loss)
        return cls(client, limits or BarrierLimits())

    async def run(
        self, step: Step, lua: str, keys: Sequence[str] = (), arguments: Sequence[Value] = (), *, tag: str = ""
    ) -> Outcome:
        """Do the step: run `lua` with `KEYS` and `ARGV`, once and for all.

        What it returns is the result, and stays. If it calls `reject("why")`, what it has written is undone, and the no
        stays. If it raises an error, what it has written is undone, and StepError is raised; the step may be repeated.

        `keys` names all keys that it writes. In a cluster all of them have one hash tag, and `tag` is that tag; each
        step of a branch has the same. `lua` is constant text: values go into `arguments`.

        Raises BranchConflict, StepError, ResourceBusy (nothing was done; come again), ResourceUnreachable.
        """
        _check_tag(self._client, keys, tag)
        row_key = f"commitd:{{{tag}}}:{step.key}" if tag else f"commitd:{step.key}"
        own = (step.kind.value, step.digest, wall_clock_ms(), self._limits.retention_ms, REASON_CHARS_MAX)
        verdict, *rest = await self._evaluate(step, script(lua), [row_key, *keys], [*own, *arguments])
        match verdict:
            case b"failed":
                raise StepError(f"{step} was undone, because its Lua failed: {_text(rest[0])}")
            case b"half undone":
                raise _half_undone(step, row_key, _text(rest[0]))
            case b"must not refuse":
                raise StepError(
                    f"{step} was refused ({_text(rest[0])}), but nobody can take that no: mend it, and repeat"
                )
        row = _row(step, rest)
        if verdict == b"unchanged":
            return told(row.outcome(step, row.judge(step)), step)
        return row.outcome(step, Rule(Verdict(_text(verdict)), (row.state,)))

    async def _evaluate(self, step: Step, text: str, keys: list[str], arguments: list[Value]) -> list[Any]:
        rest = (len(keys), *keys, *arguments)
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        try:
            try:
                return list(await self._client.execute_command("EVALSHA", digest, *rest, NEVER_DECODE=True))
            except NoScriptError:
                return list(await self._client.execute_command("EVAL", text, *rest, NEVER_DECODE=True))
        except _UNREACHABLE as error:
            raise ResourceUnreachable(f"cannot do {step} in Redis: {error or type(error).__name__}") from error
        except ResponseError as error:
            if _is_in_vain(error):
                raise StepError(f"{step} cannot be done: {error}") from error
            raise ResourceBusy(f"Redis has not done {step}: {error}") from error


def _half_undone(step: Step, row_key: str, why: str) -> StepError:
    key = step.key
    _LOG.error("barrier.undo_failed", gid=key.gid, branch=key.branch, step=step.kind, row=row_key, why=why)
    return StepError(
        f"{step} failed, and Redis did not let it put back what it had written ({why}): its work may be half done, and "
        f"each later step is a contradiction. Put its keys right, and then delete {row_key}"
    )


def _check_tag(client: Client, keys: Sequence[str], tag: str) -> None:
    """Redis places a key by what stands in its first braces. Raises StepError."""
    if isinstance(client, RedisCluster) and not tag:
        raise StepError(
            "a cluster needs the `tag` that the keys of the step have, so that the barrier's row is with them"
        )
    if "{" in tag or "}" in tag:
        raise StepError(f"the tag is what stands between the braces of the keys, without them: {tag!r}")
    for key in keys if tag else ():
        begin = key.find("{")
        if begin < 0 or not key.startswith(f"{{{tag}}}", begin):
            raise StepError(f"key {key!r} has not the tag {tag!r}: call it something like {{{tag}}}:{key}")


def _row(step: Step, fields: list[bytes | None]) -> Row:
    state, digest, result, end_digest, end_result, reason, changed_at_ms = (field or b"" for field in fields)
    known = State(_text(state)) if state else State.NEW
    return Row(
        step.key,
        known,
        digest,
        result,
        end_digest,
        end_result,
        _text(reason),
        int(changed_at_ms) if changed_at_ms else 0,
    )


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _is_in_vain(error: ResponseError) -> bool:
    return isinstance(error, NoPermissionError) or any(words in str(error) for words in _IN_VAIN)


async def _losses(client: Client) -> list[str]:
    """Why it may lose what it has answered; a cluster, because one of its primaries may."""
    if not isinstance(client, RedisCluster):
        return await _losses_of(client, {})
    losses = []
    for node in client.get_primaries():
        losses += [f"{node.name}: {loss}" for loss in await _losses_of(client, {"target_nodes": node})]
    return losses


async def _losses_of(client: Client, where: Mapping[str, Any]) -> list[str]:
    version = str((await client.info("server", **where))["redis_version"])
    if int(version.partition(".")[0]) < VERSION_MIN:
        raise ConfigError(f"Redis {version} is too old: {VERSION_MIN} or newer is needed")
    try:
        settings: dict[Any, Any] = {}
        for pattern in ("append*", "no-appendfsync-on-rewrite", "maxmemory*"):
            settings |= await client.config_get(pattern, **where)
    except ResponseError:
        if not (await client.info("persistence", **where)).get("aof_enabled"):
            return ["Redis writes nothing to the disk that a power cut would leave: `appendonly yes`"]
        return ["Redis does not show its settings to this user: whether `appendfsync always` is set is unknown"]
    losses = []
    if settings["appendonly"] != "yes" or settings["appendfsync"] != "always":
        losses.append(
            f"a power cut would take answers back, because appendonly is {settings['appendonly']} and appendfsync is "
            f"{settings['appendfsync']}: set `appendonly yes` and `appendfsync always` in redis.conf"
        )
    if settings["no-appendfsync-on-rewrite"] != "no":
        losses.append(
            "a power cut would take back what was answered while Redis rewrites its file or saves, because "
            "no-appendfsync-on-rewrite is yes: set `no-appendfsync-on-rewrite no` in redis.conf"
        )
    if settings["maxmemory"] != "0" and settings["maxmemory-policy"] != "noeviction":
        losses.append(
            f"full memory would take answers back, because maxmemory-policy is {settings['maxmemory-policy']}: set "
            "`maxmemory-policy noeviction`"
        )
    return losses


async def _probe(client: Client) -> None:
    """Do to a key of our own what the barrier does to the user's, and leave nothing. Raises ConfigError, ResourceBusy.

    Where it may not, a step that fails would stay half done.
    """
    for key in _probe_keys(client):
        try:
            problem = _text(await client.execute_command("EVAL", PROBE, 1, key, NEVER_DECODE=True))
            is_in_vain = any(words in problem for words in _IN_VAIN)
        except ResponseError as error:
            problem, is_in_vain = str(error), _is_in_vain(error)
        if is_in_vain:
            raise ConfigError(
                f"the barrier could not take back what a step has written, because Redis does not let this user do so "
                f"to the key {key} ({problem}): allow it EVAL, EVALSHA, DUMP, RESTORE, COMMAND and all that reads and "
                "writes, and the keys commitd:*"
            )
        if problem:
            raise ResourceBusy(f"Redis cannot write now: {problem}")


def _probe_keys(client: Client) -> Sequence[str]:
    """A key on each primary that has a share of the keys worth the name."""
    if not isinstance(client, RedisCluster):
        return ["commitd:probe"]
    keys: dict[str, str] = {}
    for number in range(PROBES_MAX):
        key = f"commitd:{{{number}}}:probe"
        node = client.get_node_from_key(key)
        if node is not None:
            keys.setdefault(node.name, key)
    return list(keys.values())
