"""A configuration with several shards: where each of them is, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator.compose import log_config, run_replica
from coordinator.config import ClusterConfig, load
from coordinator.errors import ConfigError
from raftlog.port import Member


def text(shards: int, *nodes: tuple[int, int], more: str = "") -> str:
    """A file; each node by its ports for replicas and for callers."""
    lines = ["[cluster]", 'id = "demo"', 'secret = "sixteen bytes or more"', f"shards = {shards}"]
    for number, (raft, client) in enumerate(nodes, 1):
        lines += ["[[nodes]]", f'name = "n{number}"', f'data_dir = "n{number}"', more]
        lines += [f'raft_address = "127.0.0.1:{raft}"', f'client_address = "127.0.0.1:{client}"']
    return "\n".join(lines) + "\n"


def read(tmp_path: Path, text_: str, **environment: str) -> ClusterConfig:
    file = tmp_path / "cluster.toml"
    file.write_text(text_, encoding="utf-8")
    return load(file, environment)


def mistakes(tmp_path: Path, text_: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text_, **environment)
    return [str(mistake) for mistake in refused.value.mistakes]


def test_every_shard_has_the_next_ports_and_a_directory_of_its_own(tmp_path: Path) -> None:
    config = read(tmp_path, text(3, (7000, 8000), more='client_url = "https://[::1]:9000/n1"'))
    node = config.of_shard(2).node("n1")
    assert (node.raft_address, node.client_address) == ("127.0.0.1:7002", "127.0.0.1:8002")
    assert node.data_dir == tmp_path / "n1/shard-2-of-3"
    assert node.url == "https://[::1]:9002/n1"
    told = log_config(config.of_shard(2), node, 2)
    assert (told.cluster, told.members) == ("demo/shard-2-of-3", (Member("n1", "127.0.0.1:7002"),))


def test_a_url_without_a_port_goes_on_from_that_of_its_scheme(tmp_path: Path) -> None:
    config = read(tmp_path, text(2, (7000, 8000), more='client_url = "https://n1.example"'))
    assert config.of_shard(1).node("n1").url == "https://n1.example:444"


@pytest.mark.parametrize(
    ("url", "after"),
    [
        ("http://h:", "http://h:81"),
        ("http://h:08000", "http://h:8001"),
        ("https://H.example/n1", "https://h.example:444/n1"),
    ],
)
def test_the_port_of_a_url_is_counted_on_however_it_is_written(tmp_path: Path, url: str, after: str) -> None:
    """Red when the port is cut off as it would be printed: `http://h::81`."""
    config = read(tmp_path, text(2, (7000, 8000), more=f'client_url = "{url}"'))
    assert config.of_shard(1).node("n1").url == after


def telling(*urls: str) -> str:
    """A file with 2 shards, and nodes that tell callers these URLs."""
    head, *nodes = text(2, *((7000 + 10 * n, 8000 + 10 * n) for n, _ in enumerate(urls))).split("[[nodes]]")
    return head + "".join(f'[[nodes]]{node}client_url = "{url}"\n' for node, url in zip(nodes, urls, strict=True))


def test_urls_that_would_overlap_are_named(tmp_path: Path) -> None:
    """Goal: no shard is told to be where another one is, also if a port is not said. Red when only addresses count."""
    second, third = mistakes(tmp_path, telling("http://lb:9000", "http://lb:9001", "http://lb:9002/"))
    assert second == (
        "nodes.1.client_url: shard 0 of nodes.1.client_url is at 'http://lb:9001', and so is shard 1 of "
        "nodes.0.client_url; each shard takes the next port"
    )
    assert third.startswith("nodes.2.client_url: shard 0 of nodes.2.client_url is at 'http://lb:9002'")
    (said,) = mistakes(tmp_path, telling("https://lb", "https://LB:444/", "https://other"))
    assert said.startswith(
        "nodes.1.client_url: shard 0 of nodes.1.client_url is at 'https://lb:444', and so is shard 1 "
    )


def test_urls_that_differ_in_scheme_host_or_path_do_not_overlap(tmp_path: Path) -> None:
    """Goal: a proxy may tell the nodes apart by path, and a URL may be at the address that it stands for."""
    urls = ("http://127.0.0.1:8000", "http://127.0.0.1:8001/n2", "https://127.0.0.1:8001")
    assert len(read(tmp_path, telling(*urls)).nodes) == 3


def test_shards_are_counted_alike_for_overlaps_and_for_the_cluster(tmp_path: Path) -> None:
    """Goal: what passes for a number is one everywhere. Red when overlaps are looked for as if 2.0 were 1."""
    lines = text(2, (7000, 7001)).replace("shards = 2", "shards = 2.0")
    (said,) = mistakes(tmp_path, lines)
    assert said.startswith("nodes.0.client_address: ")


def test_one_shard_is_as_if_there_were_none(tmp_path: Path) -> None:
    """Goal: a cluster of an earlier configuration keeps its addresses, directories and Raft group."""
    config = read(tmp_path, text(1, (7000, 8000)))
    assert config.of_shard(0) is config
    assert log_config(config, config.node("n1")).cluster == "demo"


def test_addresses_that_would_overlap_are_named(tmp_path: Path) -> None:
    one, other = mistakes(tmp_path, text(2, (7000, 7001), (8000, 9000), (8001, 9100)))
    assert one == (
        "nodes.0.client_address: shard 0 of nodes.0.client_address is at '127.0.0.1:7001', and so is shard 1 of "
        "nodes.0.raft_address; each shard takes the next port"
    )
    assert other.startswith("nodes.2.raft_address: shard 0 of nodes.2.raft_address is at '127.0.0.1:8001', and so is ")


def test_addresses_that_are_equal_are_named_once(tmp_path: Path) -> None:
    assert len(mistakes(tmp_path, text(2, (7000, 7000)))) == 1


def test_ports_must_be_left_for_every_shard(tmp_path: Path) -> None:
    more = 'client_url = "http://h:65535"'
    assert mistakes(tmp_path, text(4, (65533, 8000), more=more)) == [
        "nodes.0.raft_address: each of 4 shards takes the next port; begin at 65532 or below",
        "nodes.0.client_url: each of 4 shards takes the next port; begin at 65532 or below",
    ]
    assert read(tmp_path, text(4, (65532, 8000))).of_shard(3).node("n1").raft_address == "127.0.0.1:65535"


def test_overlaps_are_found_when_a_variable_says_how_many_shards_there_are(tmp_path: Path) -> None:
    (said,) = mistakes(tmp_path, text(1, (7000, 7001)), COMMITD_CLUSTER__SHARDS="2")
    assert said.startswith("nodes.0.client_address: ")


@pytest.mark.parametrize("shards", [0, 65])
def test_there_are_1_to_64_shards(tmp_path: Path, shards: int) -> None:
    (said,) = mistakes(tmp_path, text(shards, (7000, 8000)))
    assert said.startswith("cluster.shards: input should be ")


def test_a_shard_that_is_not_configured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--shard: 2: no such shard is configured; there are 2, the first one is 0"):
        read(tmp_path, text(2, (7000, 8000))).of_shard(2)


@pytest.mark.parametrize(
    ("shards", "held"),
    [(2, "journal-0000000001.wal"), (2, "snapshot-00000000000000000007"), (1, "shard-0-of-2"), (4, "shard-1-of-2")],
)
async def test_the_data_of_another_number_of_shards_is_refused(tmp_path: Path, shards: int, held: str) -> None:
    """Goal: a changed number is said at the start, and not found as transactions that nobody knows any more.

    Broken on purpose by leaving the check out: the replica starts with an empty directory beside its data. Seen red.
    """
    config = read(tmp_path, text(shards, (7000, 8000)))
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1" / held).mkdir()
    with pytest.raises(ConfigError, match=f"cluster.shards: .*/n1 holds {held}, the data of another number of shards"):
        await run_replica(config, config.node("n1"), asyncio.Event())
    assert [entry.name for entry in (tmp_path / "n1").iterdir()] == [held]
