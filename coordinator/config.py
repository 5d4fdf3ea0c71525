"""The configuration of a cluster: one TOML file for all replicas, with `COMMITD_…` variables laid over it.

Owns: the keys, their defaults, and what is said about a wrong one. Must never do: open sockets or build objects
(`compose.py` does). Read once, frozen, passed down.

    [cluster]        id; shards; secret, secret_file or tls (how replicas prove to each other who they are)
    [[nodes]]        name, raft_address, client_address, data_dir, client_url?
    [participants]   name = "URL"
    [timing]         how long things may take
    [limits]         how much may be in flight
    [notify]         where applications may be told of their transactions (`notify_config`)
    [alarms]         when a person is told of a transaction that stays open
    [raft]           how patient the replicas are with each other

Every key is also a variable: `COMMITD_LIMITS__IN_FLIGHT_MAX=100`, `COMMITD_NODES__N1__DATA_DIR=/var/lib/commitd`
(a node by its name or position), `COMMITD_PARTICIPANTS__BANK_A=http://…` (`-` and `.` in a name are `_` there).
A variable that holds a whole section is JSON: `COMMITD_PARTICIPANTS='{"bank-a": "http://…"}'`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from coordinator.config_text import explain, overlay, strangers
from coordinator.errors import ConfigError, Mistake
from coordinator.notify_config import Notify
from coordinator.shards import SHARDS_MAX

__all__ = [
    "SECRET_BYTES_MIN",
    "Alarms",
    "Cluster",
    "ClusterConfig",
    "Limits",
    "Node",
    "Raft",
    "Timing",
    "Tls",
    "is_participant",
    "load",
    "shard_name",
]

NODES_MAX = 9
SECRET_BYTES_MIN = 16

_PORT_MAX = 65_535
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise ValueError("write host:port, for example 127.0.0.1:7001")
    if not 0 < int(port) <= _PORT_MAX:
        raise ValueError(f"{port} is not a port; use 1 to 65535")
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write a URL such as http://127.0.0.1:9001")
    if parts.query or parts.fragment or parts.username:
        raise ValueError("leave query, fragment and user out of the URL")
    try:
        is_port = parts.port != 0
    except ValueError:
        is_port = False
    if not is_port:
        raise ValueError("the port is not in 1 to 65535")
    return text.rstrip("/")


Name = Annotated[str, Field(pattern=_NAME)]
Address = Annotated[str, AfterValidator(_address)]
Url = Annotated[str, AfterValidator(_url)]
Shards = Annotated[int, Field(ge=1, le=SHARDS_MAX)]
Seconds = Annotated[float, Field(gt=0, le=86_400 * 365)]


def shard_name(shard: int, shards: int) -> str:
    """How a shard is called in the names of directories and Raft groups."""
    return f"shard-{shard}-of-{shards}"


def _around_port(text: str) -> tuple[str, int, str]:
    """What stands before the port of an address or a URL, the port, said or not, and what stands after it.

    Raises ValueError if it is none.
    """
    if "://" not in text:
        host, _, port = _address(text).rpartition(":")
        return f"{host}:", int(port), ""
    parts = urlsplit(_url(text))
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else str(parts.hostname)
    return f"{parts.scheme}://{host}:", parts.port or _DEFAULT_PORTS[parts.scheme], parts.path


def _after(text: str, shard: int) -> str:
    """Where so many shards later is."""
    before, port, after = _around_port(text)
    return f"{before}{port + shard}{after}"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Section):
    """Mutual TLS between replicas: a certificate names its node as DNS name, the authority signs all of them."""

    ca_file: Path
    cert_file: Path
    key_file: Path


class Cluster(_Section):
    """`id` keeps replicas of two clusters apart. `shards`: Raft groups, each with a replica on every node.
    `proof_secret`: shared with the participants, which prove decisions to each other with it (three phases)."""

    id: Name
    shards: Shards = 1
    secret: SecretStr | None = None
    secret_file: Path | None = None
    tls: Tls | None = None
    proof_secret: SecretStr | None = None

    @model_validator(mode="after")
    def _one_proof(self) -> Cluster:
        given = [key for key in ("secret", "secret_file", "tls") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of secret, secret_file and tls (there is {' and '.join(given) or 'none'})"
            )
        if self.secret is not None and len(self.secret.get_secret_value().encode()) < SECRET_BYTES_MIN:
            raise ValueError(f"the secret is too short: at least {SECRET_BYTES_MIN} bytes")
        if self.proof_secret is not None and len(self.proof_secret.get_secret_value().encode()) < SECRET_BYTES_MIN:
            raise ValueError(f"the proof_secret is too short: at least {SECRET_BYTES_MIN} bytes")
        return self

    def group(self, shard: int) -> str:
        """What the replicas of one shard call their Raft group: those of another shard, or sharding, are strangers."""
        return self.id if self.shards == 1 else f"{self.id}/{shard_name(shard, self.shards)}"


class Node(_Section):
    """One replica. `client_url` is what callers are told, if they cannot reach `http://client_address`."""

    name: Name
    raft_address: Address
    client_address: Address
    data_dir: Path
    client_url: Url | None = None

    @property
    def url(self) -> str:
        """Where callers reach this replica."""
        return self.client_url or f"http://{self.client_address}"

    def of_shard(self, shard: int, shards: int) -> Node:
        """This node's replica of one of several shards: ports that are `shard` higher, a directory of its own."""
        return self.model_copy(
            update={
                "raft_address": _after(self.raft_address, shard),
                "client_address": _after(self.client_address, shard),
                "client_url": None if self.client_url is None else _after(self.client_url, shard),
                "data_dir": self.data_dir / shard_name(shard, shards),
            }
        )


class Timing(_Section):
    """Seconds. `retention_s`: how long a finished transaction can still be asked for."""

    call_timeout_s: Seconds = 5.0
    propose_timeout_s: Seconds = 10.0
    ride_along_s: Annotated[float, Field(ge=0, le=10)] = 0.05
    capabilities_refresh_s: Seconds = 30.0
    retention_s: Seconds = 3_600.0
    sweep_every_s: Seconds = 5.0
    shutdown_s: Seconds = 5.0


class Limits(_Section):
    """How much one leader takes on; past it, callers are told to come again (503)."""

    in_flight_max: Annotated[int, Field(ge=1, le=1_000_000)] = 4_096
    open_max: Annotated[int, Field(ge=1, le=10_000_000)] = 131_072
    records_max: Annotated[int, Field(ge=1, le=10_000_000)] = 1_000_000
    waiters_max: Annotated[int, Field(ge=1, le=1_000_000)] = 16_384
    listeners_max: Annotated[int, Field(ge=1, le=1_000_000)] = 4_096
    untold_max: Annotated[int, Field(ge=1, le=1_000_000)] = 16_384
    untold_per_host_max: Annotated[int, Field(ge=1, le=1_000_000)] = 4_096
    requests_per_connection_max: Annotated[int, Field(ge=1)] = 100_000
    connections_per_participant_max: Annotated[int, Field(ge=1, le=10_000)] = 128
    calls_per_participant_max: Annotated[int, Field(ge=1, le=100_000)] = 1_024
    waiting_per_participant_max: Annotated[int, Field(ge=1, le=1_000_000)] = 4_096
    owed_per_participant_max: Annotated[int, Field(ge=1, le=10_000_000)] = 131_072


class Alarms(_Section):
    """When an open transaction counts as stuck; see `coordinator.protocols.stuck`."""

    late_s: Seconds = 60.0
    refusals: Annotated[int, Field(ge=1, le=1_000)] = 5


class Raft(_Section):
    """Seconds; see `raftlog.config.Timing`."""

    heartbeat_s: Seconds = 0.1
    election_min_s: Seconds = 0.4
    election_max_s: Seconds = 0.8
    lease_s: Seconds = 1.0
    silence_s: Seconds = 1.5
    redial_s: Seconds = 0.1
    snapshot_entries: Annotated[int, Field(ge=4)] = 50_000
    snapshot_bytes: Annotated[int, Field(ge=4_096)] = 64 << 20

    @model_validator(mode="after")
    def _relations(self) -> Raft:
        rules = (
            (self.election_min_s > 3 * self.heartbeat_s, "election_min_s must be more than three times heartbeat_s"),
            (self.election_max_s > self.election_min_s, "election_max_s must be more than election_min_s"),
            (self.lease_s > 2 * self.heartbeat_s, "lease_s must be more than twice heartbeat_s"),
            (self.silence_s >= self.election_max_s, "silence_s must be at least election_max_s"),
        )
        broken = [advice for holds, advice in rules if not holds]
        if broken:
            raise ValueError("; ".join(broken))
        return self


class ClusterConfig(_Section):
    """Everything that the replicas of one cluster must agree on, and what each of them needs to know."""

    cluster: Cluster
    nodes: tuple[Node, ...]
    participants: dict[Name, Url] = Field(default_factory=dict)
    timing: Timing = Timing()
    limits: Limits = Limits()
    notify: Notify = Notify()
    alarms: Alarms = Alarms()
    raft: Raft = Raft()

    def node(self, name: str) -> Node:
        """The node called `name`. Raises ConfigError."""
        for node in self.nodes:
            if node.name == name:
                return node
        names = ", ".join(node.name for node in self.nodes)
        raise ConfigError("--node", (Mistake(name, f"no such node is configured; there are {names}"),))

    def of_shard(self, shard: int) -> ClusterConfig:
        """The same with the addresses and directories of one shard's replicas. Raises ConfigError."""
        shards = self.cluster.shards
        if not 0 <= shard < shards:
            why = f"no such shard is configured; there are {shards}, the first one is 0"
            raise ConfigError("--shard", (Mistake(str(shard), why),))
        if shards == 1:
            return self
        return self.model_copy(update={"nodes": tuple(node.of_shard(shard, shards) for node in self.nodes)})


def is_participant(file: Path) -> bool:
    """Whether `file` looks like a participant's configuration, which has no sections of ours, but a name."""
    try:
        keys = tomllib.loads(file.read_text(encoding="utf-8")).keys()
    except (OSError, ValueError):
        return False  # `load` says what is wrong with it
    return "name" in keys and not keys & ClusterConfig.model_fields.keys()


def load(file: Path, environment: Mapping[str, str]) -> ClusterConfig:
    """The configuration in `file` with the `COMMITD_…` variables of `environment` laid over it.

    Relative paths are relative to the file. Raises ConfigError with one Mistake for each wrong key.
    """
    try:
        table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(file), (Mistake("file", f"cannot be read: {error.strerror}"),)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), (Mistake("file", f"is not TOML: {error}"),)) from error
    variables = overlay(table, environment, sections=ClusterConfig.model_fields)
    mistakes = (
        *_relations(table.get("nodes"), _shards_of(table.get("cluster"))),
        *strangers(environment, ClusterConfig.model_fields),
    )
    try:
        config = ClusterConfig.model_validate(table)
    except ValidationError as error:
        raise ConfigError(str(file), (*explain(error, ClusterConfig, variables), *mistakes)) from error
    if mistakes:
        raise ConfigError(str(file), mistakes)
    return _anchored(config, file.absolute().parent)


def _shards_of(cluster: Any) -> int:
    """How many shards there are to be, as far as that can be understood."""
    try:
        return TypeAdapter(Shards).validate_python(cluster["shards"])
    except (ValidationError, KeyError, TypeError):
        return 1


def _relations(nodes: Any, shards: int) -> tuple[Mistake, ...]:
    """What no node can tell by itself; said also when single keys are wrong, so that one look shows everything."""
    if not isinstance(nodes, list):
        return ()
    mistakes = []
    if not 0 < len(nodes) <= NODES_MAX:
        mistakes.append(Mistake("nodes", f"there are {len(nodes)}; configure 1 to {NODES_MAX}, three or five for most"))
    elif len(nodes) % 2 == 0:
        why = f"{len(nodes)} nodes survive no more failures than {len(nodes) - 1}; use an odd number of them"
        mistakes.append(Mistake("nodes", why))
    taken: dict[tuple[str, str], str] = {}
    for position, node in enumerate(node if isinstance(node, dict) else {} for node in nodes):
        for key in ("name", "raft_address", "client_address", "data_dir"):
            here, value = f"nodes.{position}.{key}", str(node.get(key, ""))
            kind = "address" if key.endswith("address") else key
            there = taken.setdefault((kind, value), here)
            if there != here and value:
                mistakes.append(Mistake(here, f"{value!r} is taken by {there}; each needs its own"))
    return (*mistakes, *_overlaps(nodes, shards)) if shards > 1 else tuple(mistakes)


def _overlaps(nodes: list[Any], shards: int) -> Iterator[Mistake]:
    """Addresses of shards after the first, which nobody wrote down: one mistake for each key that they come from."""
    listening: dict[str, str] = {}
    told: dict[str, str] = {}  # to callers: what answers there may be anything, such as a proxy
    written: set[str] = set()
    for position, node in enumerate(node if isinstance(node, dict) else {} for node in nodes):
        for key in ("raft_address", "client_address", "client_url"):
            here, taken = f"nodes.{position}.{key}", told if key == "client_url" else listening
            try:
                before, port, after = _around_port(str(node.get(key, "")))
            except ValueError:
                continue  # what is wrong with it is said elsewhere
            if port + shards - 1 > _PORT_MAX:
                yield Mistake(
                    here, f"each of {shards} shards takes the next port; begin at {_PORT_MAX + 1 - shards} or below"
                )
            places = {f"{before}{port + shard}{after}": f"shard {shard} of {here}" for shard in range(shards)}
            first, clash = next(iter(places)), next((place for place in places if place in taken), None)
            if clash is not None and first not in written:
                yield Mistake(
                    here, f"{places[clash]} is at {clash!r}, and so is {taken[clash]}; each shard takes the next port"
                )
            taken.update(places | taken)
            written.add(first)


def _anchored(config: ClusterConfig, base: Path) -> ClusterConfig:
    nodes = tuple(node.model_copy(update={"data_dir": base / node.data_dir}) for node in config.nodes)
    cluster = config.cluster
    if cluster.secret_file is not None:
        cluster = cluster.model_copy(update={"secret_file": base / cluster.secret_file})
    if cluster.tls is not None:
        files = {key: base / getattr(cluster.tls, key) for key in Tls.model_fields}
        cluster = cluster.model_copy(update={"tls": cluster.tls.model_copy(update=files)})
    notify = config.notify
    if notify.secret_file is not None:
        notify = notify.model_copy(update={"secret_file": base / notify.secret_file})
    return config.model_copy(update={"nodes": nodes, "cluster": cluster, "notify": notify})
