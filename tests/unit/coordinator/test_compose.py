"""From a configuration to real objects: what the log is told, and what is said when a file is missing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator.compose import log_config, notifier_of, run_replica
from coordinator.config import ClusterConfig, load
from coordinator.errors import ConfigError, ReplicaFailed
from raftlog.port import Member

NODES = """
[[nodes]]
name = "n1"
raft_address = "127.0.0.1:7001"
client_address = "127.0.0.1:8001"
data_dir = "n1"
"""


def configured(tmp_path: Path, cluster: str) -> ClusterConfig:
    file = tmp_path / "cluster.toml"
    file.write_text(f'[cluster]\nid = "demo"\n{cluster}\n{NODES}[raft]\nheartbeat_s = 0.05\n', encoding="utf-8")
    return load(file, {})


def test_the_log_is_told_what_the_file_says(tmp_path: Path) -> None:
    config = configured(tmp_path, 'secret = "sixteen bytes or more"')
    told = log_config(config, config.node("n1"))
    told.validate()
    assert (told.cluster, told.name, told.members) == ("demo", "n1", (Member("n1", "127.0.0.1:7001"),))
    assert told.security.secret == b"sixteen bytes or more"
    assert told.timing.heartbeat_s == 0.05


def test_a_secret_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"sixteen bytes or more\n")
    config = configured(tmp_path, 'secret_file = "secret"')
    assert log_config(config, config.node("n1")).security.secret == b"sixteen bytes or more"


@pytest.mark.parametrize(
    ("cluster", "named"),
    [
        ('secret_file = "nowhere"', "cluster.secret_file"),
        ('[cluster.tls]\nca_file = "a"\ncert_file = "b"\nkey_file = "c"', "cluster.tls.ca_file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_key(tmp_path: Path, cluster: str, named: str) -> None:
    config = configured(tmp_path, cluster)
    with pytest.raises(ConfigError) as refused:
        log_config(config, config.node("n1"))
    assert [mistake.key for mistake in refused.value.mistakes] == [named]


@pytest.mark.parametrize(("held", "said"), [(None, "No such file"), ("short", "24 to 64 random bytes")])
def test_a_secret_of_notices_that_cannot_be_used_is_named_with_its_key(
    tmp_path: Path, held: str | None, said: str
) -> None:
    if held is not None:
        (tmp_path / "notify").write_text(held, encoding="utf-8")
    config = configured(
        tmp_path, 'secret = "sixteen bytes or more"\n[notify]\nallow = ["http://a"]\nsecret_file = "notify"'
    )
    with pytest.raises(ConfigError, match=said) as refused:
        notifier_of(config)
    assert [mistake.key for mistake in refused.value.mistakes] == ["notify.secret_file"]
    assert "short" not in str(refused.value)


def test_without_a_url_that_is_allowed_nobody_is_notified(tmp_path: Path) -> None:
    assert notifier_of(configured(tmp_path, 'secret = "sixteen bytes or more"')) is None


async def test_a_secret_that_is_too_short_for_the_log_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"short")
    config = configured(tmp_path, 'secret_file = "secret"')
    with pytest.raises(ConfigError, match="too short: at least 16 bytes"):
        await run_replica(config, config.node("n1"), asyncio.Event())


async def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "n1").write_text("a file, not a directory", encoding="utf-8")
    config = configured(tmp_path, 'secret = "sixteen bytes or more"')
    with pytest.raises((ConfigError, ReplicaFailed), match="n1"):
        await run_replica(config, config.node("n1"), asyncio.Event())
