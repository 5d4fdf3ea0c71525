"""Configuration of one node of the log: frozen, validated once, passed down. Times are seconds, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from ssl import SSLContext

from raftlog.errors import ConfigError
from raftlog.port import Member

__all__ = ["LogConfig", "Security", "Timing", "split_address"]

MEMBERS_MAX = 9
NAME_BYTES_MAX = 64
SECRET_BYTES_MIN = 16


def split_address(address: str) -> tuple[str, int]:
    """`host:port` as a pair. Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ConfigError(f"{address!r} is not an address: write host:port with a port from 1 to 65535")
    return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient a node is. The defaults suit machines in one building.

    `heartbeat_s`: the leader's period. A follower that hears nothing for a time drawn from `election_min_s` to
    `election_max_s` stands for election. A leader that no majority answers for `lease_s` steps down.
    `silence_s`: a connection on which nothing arrives for so long is cut; an idle one is pinged at a third of it.
    `redial_s`: pause between attempts to reach a peer.
    """

    heartbeat_s: float = 0.1
    election_min_s: float = 0.4
    election_max_s: float = 0.8
    lease_s: float = 1.0
    silence_s: float = 1.5
    redial_s: float = 0.1

    def validate(self) -> None:
        """Raises ConfigError naming the field and the relation that does not hold."""
        if not self.heartbeat_s > 0:
            raise ConfigError("heartbeat_s must be positive")
        if not self.election_min_s > 3 * self.heartbeat_s:
            raise ConfigError("election_min_s must be more than three times heartbeat_s")
        if not self.election_max_s > self.election_min_s:
            raise ConfigError("election_max_s must be more than election_min_s")
        if not self.lease_s > 2 * self.heartbeat_s:
            raise ConfigError("lease_s must be more than twice heartbeat_s")
        if not self.silence_s >= self.election_max_s:
            raise ConfigError("silence_s must be at least election_max_s")
        if not self.redial_s > 0:
            raise ConfigError("redial_s must be positive")


@dataclass(frozen=True, slots=True)
class Security:
    """How peers prove who they are: a shared secret, or mutual TLS whose certificates name the nodes.

    `secret`: at least 16 bytes; every frame is authenticated with a key made from it for the connection.
    `tls_server` and `tls_client`: contexts that demand and verify the peer's certificate; the peer's node name
    must be one of its DNS names. Exactly one of the two ways is configured.
    """

    secret: bytes | None = field(default=None, repr=False)
    tls_server: SSLContext | None = None
    tls_client: SSLContext | None = None

    def validate(self) -> None:
        """Raises ConfigError."""
        with_tls = self.tls_server is not None and self.tls_client is not None
        if (self.tls_server is None) != (self.tls_client is None):
            raise ConfigError("mutual TLS needs both a server and a client context")
        if with_tls == (self.secret is not None):
            raise ConfigError("configure a shared secret or mutual TLS: one of them, not both")
        if self.secret is not None and len(self.secret) < SECRET_BYTES_MIN:
            raise ConfigError(f"the shared secret is shorter than {SECRET_BYTES_MIN} bytes")


@dataclass(frozen=True, slots=True)
class LogConfig:
    """One node. `members` names every replica, this one included, and is the same on every node at first start.

    A snapshot is taken after `snapshot_entries` entries or `snapshot_bytes` bytes of journal, whichever is first.
    """

    cluster: str
    name: str
    members: tuple[Member, ...]
    security: Security
    timing: Timing = Timing()
    snapshot_entries: int = 50_000
    snapshot_bytes: int = 64 << 20

    def validate(self) -> None:
        """Raises ConfigError naming what cannot work."""
        names = [member.name for member in self.members]
        if not self.cluster:
            raise ConfigError("the cluster has no name")
        if self.name not in names:
            raise ConfigError(f"{self.name!r} is not among the members {names}")
        if len(set(names)) != len(names):
            raise ConfigError(f"two members share a name: {names}")
        if len(names) > MEMBERS_MAX:
            raise ConfigError(f"{len(names)} members; at most {MEMBERS_MAX} make sense in one Raft group")
        for member in self.members:
            if not 0 < len(member.name.encode()) <= NAME_BYTES_MAX:
                raise ConfigError(f"member name {member.name!r} is not 1 to {NAME_BYTES_MAX} bytes long")
            split_address(member.address)
        if self.snapshot_entries < 4 or self.snapshot_bytes < 4_096:
            raise ConfigError("snapshot_entries must be at least 4 and snapshot_bytes at least 4096")
        self.timing.validate()
        self.security.validate()
