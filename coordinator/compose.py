"""The one place that builds real objects from a configuration: the log on a disk, participants over HTTP, the server.

Owns: the life of a replica's process, from recovery to the last connection. Must never do: read the environment or
the command line (`cli` does).
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from random import SystemRandom

import structlog

from coordinator.config import SECRET_BYTES_MIN, Cluster, ClusterConfig, Node, Tls, shard_name
from coordinator.driver.admission import Admission
from coordinator.driver.gate import GateLimits
from coordinator.driver.notices import SILENT
from coordinator.driver.replica import Replica, Tunables
from coordinator.errors import ConfigError, Mistake, ReplicaFailed
from coordinator.http.app import build_app, serving
from coordinator.http.context import Context, Placement
from coordinator.ledger.table import Ledger
from coordinator.participants.http import HttpParticipants
from coordinator.participants.notices import HttpNotifier
from coordinator.protocols.stuck import Thresholds
from coordinator.webhooks import secret_of
from coordinator.wire import GID_RANDOM_BITS, new_gid
from participant.proof import Seal
from raftlog.config import LogConfig, Security, Timing, split_address
from raftlog.disk import RealDisk
from raftlog.errors import ConfigError as LogConfigError
from raftlog.errors import LogError
from raftlog.node import RaftLog
from raftlog.port import Member

__all__ = ["log_config", "notifier_of", "refuse_resharded", "run_replica", "security_of"]

_SHARD = re.compile(r"shard-\d+-of-\d+")
_UNSHARDED = re.compile(r"(?:journal|snapshot)-.*")

_log = structlog.get_logger(__name__)


async def run_replica(config: ClusterConfig, node: Node, stop: asyncio.Event, shard: int = 0) -> None:
    """Run the replica of a shard on `node` until `stop` is set. Raises: ConfigError, ReplicaFailed."""
    chance = SystemRandom()
    ledger = Ledger()
    refuse_resharded(config, node)
    here = config.of_shard(shard)
    node = here.node(node.name)
    log = _build_log(here, node, shard, ledger, chance)
    participants = HttpParticipants(
        config.participants,
        timeout_s=config.timing.call_timeout_s,
        refresh_s=config.timing.capabilities_refresh_s,
        connections_max=config.limits.connections_per_participant_max,
    )
    notifier = notifier_of(config)
    replica = Replica(
        log,
        ledger,
        participants,
        wall_ms=lambda: time.time_ns() // 1_000_000,
        chance=chance,
        admission=_admission(config),
        tunables=_tunables(config),
        seal=_seal(config.cluster),
        notifier=notifier or SILENT,
    )
    context = Context(
        replica,
        config.cluster.id,
        node.name,
        {other.name: other.url for other in here.nodes},
        config.participants,
        config.limits.requests_per_connection_max,
        _placement(config, shard, chance),
    )
    await participants.start()
    try:
        await _start(replica, node)
        try:
            await _serve(context, node, log, stop, chance, config.timing.shutdown_s)
        finally:
            await replica.stop()
    finally:
        await participants.stop()
        if notifier is not None:
            await notifier.stop()


async def _start(replica: Replica, node: Node) -> None:
    try:
        await replica.start()
    except LogConfigError as error:
        raise ConfigError("cluster", (Mistake("nodes", str(error)),)) from error
    except LogError as error:
        raise ReplicaFailed(f"the log cannot be opened: {error}") from error
    except OSError as error:
        why = error.strerror or error
        raise ReplicaFailed(f"the log cannot listen on {node.raft_address}, or use {node.data_dir}: {why}") from error


async def _serve(
    context: Context, node: Node, log: RaftLog, stop: asyncio.Event, chance: SystemRandom, shutdown_s: float
) -> None:
    host, port = split_address(node.client_address)
    app = build_app(context, chance)
    try:
        async with serving(app, host, port, shutdown_s=shutdown_s):
            _log.info("replica.serves", url=node.url, raft_address=node.raft_address)
            await _until_stopped(log, stop)
            _log.info("replica.stops")
            context.replica.waiters.release_all()
    except OSError as error:
        raise ReplicaFailed(f"cannot listen on {node.client_address}: {error.strerror or error}") from error


async def _until_stopped(log: RaftLog, stop: asyncio.Event) -> None:
    """Return when asked to stop. Raises ReplicaFailed when the log has broken: the process must end and be restarted,
    because what the disk holds is unknown until it is read again."""
    asked = asyncio.ensure_future(stop.wait())
    broken = asyncio.ensure_future(log.stopped())
    try:
        await asyncio.wait((asked, broken), return_when=asyncio.FIRST_COMPLETED)
        if broken.done() and (error := broken.exception()) is not None:
            raise ReplicaFailed(f"the log has failed: {error}") from error
    finally:
        for waiting in (asked, broken):
            waiting.cancel()
        await asyncio.gather(asked, broken, return_exceptions=True)


def refuse_resharded(config: ClusterConfig, node: Node) -> None:
    """Raises ConfigError if the directory of `node` holds what was written when there were more shards, or fewer."""
    shards = config.cluster.shards
    ours = {shard_name(shard, shards) for shard in range(shards)} if shards > 1 else set()
    found = [entry.name for entry in node.data_dir.iterdir()] if node.data_dir.is_dir() else []
    alien = sorted(name for name in found if _SHARD.fullmatch(name) and name not in ours)
    unsharded = sorted(name for name in found if _UNSHARDED.fullmatch(name)) if shards > 1 else []
    for name in (*alien[:1], *unsharded[:1]):
        why = (
            f"{node.data_dir} holds {name}, the data of another number of shards than {shards}; the shards of a cluster"
            " cannot be changed once it has data"
        )
        raise ConfigError("cluster", (Mistake("cluster.shards", why),))


def _placement(config: ClusterConfig, shard: int, chance: SystemRandom) -> Placement | None:
    shards = config.cluster.shards
    if shards == 1:
        return None

    def draw() -> str:
        return new_gid(time.time_ns() // 1_000_000, chance.getrandbits(GID_RANDOM_BITS))

    urls = [{node.name: node.url for node in config.of_shard(each).nodes} for each in range(shards)]
    return Placement(shard, tuple(urls), draw)


def log_config(config: ClusterConfig, node: Node, shard: int = 0) -> LogConfig:
    """What the log needs of the configuration `of_shard`. Raises ConfigError."""
    raft = config.raft
    return LogConfig(
        cluster=config.cluster.group(shard),
        name=node.name,
        members=tuple(Member(other.name, other.raft_address) for other in config.nodes),
        security=security_of(config.cluster),
        timing=Timing(
            heartbeat_s=raft.heartbeat_s,
            election_min_s=raft.election_min_s,
            election_max_s=raft.election_max_s,
            lease_s=raft.lease_s,
            silence_s=raft.silence_s,
            redial_s=raft.redial_s,
        ),
        snapshot_entries=raft.snapshot_entries,
        snapshot_bytes=raft.snapshot_bytes,
    )


def _build_log(config: ClusterConfig, node: Node, shard: int, ledger: Ledger, chance: SystemRandom) -> RaftLog:
    try:
        return RaftLog(log_config(config, node, shard), ledger, RealDisk(node.data_dir), chance)
    except LogConfigError as error:
        raise ConfigError("cluster", (Mistake("raft", str(error)),)) from error
    except OSError as error:
        key = f"nodes.{node.name}.data_dir"
        raise ConfigError("cluster", (Mistake(key, f"{node.data_dir}: {error.strerror}"),)) from error


def security_of(cluster: Cluster) -> Security:
    """How replicas prove who they are; reads the files that are named. Raises ConfigError.

    `Cluster` has seen to it that exactly one of the three is given.
    """
    if cluster.tls is not None:
        return Security(
            tls_server=_tls(cluster.tls, ssl.Purpose.CLIENT_AUTH), tls_client=_tls(cluster.tls, ssl.Purpose.SERVER_AUTH)
        )
    if cluster.secret_file is not None:
        try:
            secret = cluster.secret_file.read_bytes().strip()
        except OSError as error:
            raise _mistaken("cluster.secret_file", f"{cluster.secret_file}: {error.strerror}") from error
        if len(secret) < SECRET_BYTES_MIN:
            raise _mistaken("cluster.secret_file", f"the secret is too short: at least {SECRET_BYTES_MIN} bytes")
        return Security(secret=secret)
    return Security(secret=cluster.secret.get_secret_value().encode() if cluster.secret is not None else None)


def _seal(cluster: Cluster) -> Seal | None:
    secret = cluster.proof_secret
    return None if secret is None else Seal(secret.get_secret_value().encode())


def notifier_of(config: ClusterConfig) -> HttpNotifier | None:
    """How applications are notified; reads the file that is named. None: they are not. Raises ConfigError."""
    notify = config.notify
    if not notify.allow:
        return None
    if notify.secret_file is not None:
        try:
            secret = secret_of(notify.secret_file.read_text(encoding="ascii"))
        except OSError as error:
            raise _mistaken("notify.secret_file", f"{notify.secret_file}: {error.strerror}") from error
        except ValueError as error:
            raise _mistaken("notify.secret_file", f"{notify.secret_file}: {error}") from error
    else:
        secret = secret_of("" if notify.secret is None else notify.secret.get_secret_value())
    return HttpNotifier(
        notify.allow, secret, timeout_s=config.timing.call_timeout_s, wall_s=lambda: time.time_ns() / 1e9
    )


def _tls(files: Tls, purpose: ssl.Purpose) -> ssl.SSLContext:
    for key in Tls.model_fields:  # `ssl` does not say which of them it cannot read
        path = getattr(files, key)
        try:
            path.read_bytes()
        except OSError as error:
            raise _mistaken(f"cluster.tls.{key}", f"{path}: {error.strerror}") from error
    try:
        context = ssl.create_default_context(purpose, cafile=files.ca_file)
        context.load_cert_chain(files.cert_file, files.key_file)
    except ssl.SSLError as error:
        raise _mistaken("cluster.tls", f"the files cannot be used: {error}") from error
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _mistaken(key: str, advice: str) -> ConfigError:
    return ConfigError("cluster", (Mistake(key, advice),))


def _admission(config: ClusterConfig) -> Admission:
    limits = config.limits
    return Admission(
        limits.in_flight_max,
        limits.open_max,
        limits.records_max,
        limits.waiters_max,
        limits.listeners_max,
        limits.untold_max,
        limits.untold_per_host_max,
    )


def _tunables(config: ClusterConfig) -> Tunables:
    timing = config.timing
    return Tunables(
        call_timeout_s=timing.call_timeout_s,
        propose_timeout_s=timing.propose_timeout_s,
        ride_along_s=timing.ride_along_s,
        retention_s=timing.retention_s,
        sweep_every_s=timing.sweep_every_s,
        gates=GateLimits(
            calls_max=config.limits.calls_per_participant_max,
            waiting_max=config.limits.waiting_per_participant_max,
            owed_max=config.limits.owed_per_participant_max,
        ),
        alarms=Thresholds(int(config.alarms.late_s * 1_000), config.alarms.refusals),
    )
