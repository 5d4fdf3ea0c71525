"""What the command line says of several shards. That their processes live and die is tested with real ones."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from coordinator.cli.groups import RESTART_MAX_S, RESTART_MIN_S, pause_s
from coordinator.cli.main import app
from coordinator.cli.render import cluster_table
from coordinator.shards import ReplicaView
from tests.unit.coordinator.test_shard_config import text

RUNNER = CliRunner()


def test_the_pause_before_a_restart_doubles_up_to_its_cap() -> None:
    """Goal: a child that dies at once is not started again and again, one that dies once is back soon."""
    assert [pause_s(deaths) for deaths in (1, 2, 3)] == [RESTART_MIN_S, 2 * RESTART_MIN_S, 4 * RESTART_MIN_S]
    assert pause_s(1_000_000) == RESTART_MAX_S


def test_a_check_tells_how_many_shards_there_are(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text(2, (7000, 8000)), encoding="utf-8")
    shown = RUNNER.invoke(app, ["config", "check", str(file)])
    assert shown.stdout == f"{file}: ok: cluster demo, 2 shards, 1 nodes, 0 participants\n"


def test_a_check_names_addresses_that_would_overlap(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text(2, (7000, 7001)), encoding="utf-8")
    shown = RUNNER.invoke(app, ["config", "check", str(file)])
    assert shown.exit_code == 1
    assert shown.stderr.startswith(f"commitd: {file}: nodes.0.client_address: shard 0 of nodes.0.client_address is at ")


def test_a_shard_that_is_not_configured_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text(2, (7000, 8000)), encoding="utf-8")
    shown = RUNNER.invoke(app, ["serve", "--config", str(file), "--node", "n1", "--shard", "2"])
    assert (shown.exit_code, shown.stderr) == (
        1,
        "commitd: --shard: 2: no such shard is configured; there are 2, the first one is 0\n",
    )


def test_the_parent_refuses_the_data_of_another_number_of_shards_before_it_starts_anybody(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text(2, (7000, 8000)), encoding="utf-8")
    (tmp_path / "n1/shard-2-of-3").mkdir(parents=True)
    shown = RUNNER.invoke(app, ["serve", "--config", str(file), "--node", "n1"])
    assert shown.exit_code == 1
    assert shown.stderr.startswith(f"commitd: {file}: cluster.shards: {tmp_path}/n1 holds shard-2-of-3, the data of ")


def test_the_shard_is_a_column_if_there_are_several() -> None:
    rows = [(shard, ReplicaView(name="n1", url=f"http://h:{shard}"), None) for shard in (1, 0)]
    headers = [[str(column.header) for column in cluster_table(some).columns] for some in (rows, rows[1:])]
    assert (headers[0][:2], headers[1][0]) == (["shard", "replica"], "replica")
    assert list(cluster_table(rows).columns[0].cells) == ["0", "1"]
