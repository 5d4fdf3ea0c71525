"""The command line against a served cluster: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from coordinator.cli.main import app
from coordinator.http import openapi
from participant.ids import BranchKey
from participant.wire import BranchState, Verb
from tests.support.background import Background, served
from tests.support.cluster import request

RUNNER = CliRunner()
NOWHERE = "http://127.0.0.1:1"
CLUSTER = """
[cluster]
id = "demo"
secret = "sixteen bytes or more"
[[nodes]]
name = "n1"
raft_address = "127.0.0.1:7001"
client_address = "127.0.0.1:8001"
data_dir = "n1"
"""


@pytest.fixture(scope="module")
def background() -> Iterator[Background]:
    """A cluster with one committed transaction, `paid`, and one that was aborted, `refused`."""
    with served() as running:
        leader = running.cluster.replicas["n1"]
        paid = request("bank-a", "bank-b", gid="paid").model_copy(update={"key": "order [4711]"})
        running.do(leader.transactions.begin(paid, 5.0))
        running.cluster.now_ms += 1
        running.cluster.clerks["bank-b"].refuse("no [money]")
        running.do(leader.transactions.begin(request("bank-a", "bank-b", gid="refused"), 5.0))
        yield running


def commitd(*arguments: str, url: str | None = None) -> Result:
    return RUNNER.invoke(app, arguments, env={"COMMITD_URL": url, "COLUMNS": "200"})


def at(background: Background, *arguments: str) -> Result:
    return commitd(*arguments, url=background.cluster.urls["n2"])


def test_transactions_are_listed_for_people_and_for_programs(background: Background) -> None:
    shown = at(background, "txn", "list")
    assert shown.exit_code == 0
    assert "no [money]" in shown.stdout
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["gid", "refused", "paid"]
    listed = json.loads(at(background, "txn", "list", "--json", "--phase", "committed").stdout)
    assert [view["gid"] for view in listed["transactions"]] == ["paid"]
    assert len(json.loads(at(background, "txn", "list", "--json", "--limit", "1").stdout)["transactions"]) == 1


def test_transactions_are_found_by_their_key(background: Background) -> None:
    assert [line.split()[0] for line in at(background, "txn", "list", "--key", "order [4711]").stdout.splitlines()] == [
        "gid",
        "paid",
    ]
    assert len(at(background, "txn", "list", "--key", "order").stdout.splitlines()) == 1
    assert "order [4711]" in at(background, "txn", "show", "paid").stdout


def test_a_transaction_is_watched_to_its_end(background: Background) -> None:
    assert at(background, "txn", "watch", "refused").stdout == "aborted     b1 ended, b2 ended\n"
    lines = at(background, "txn", "watch", "refused", "--json").stdout.splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["aborted"]
    assert at(background, "txn", "watch", "unheard-of").exit_code == 5


def test_one_transaction_is_shown(background: Background) -> None:
    shown = at(background, "txn", "show", "refused")
    assert shown.exit_code == 0
    assert "no [money] (branch b2)" in shown.stdout
    assert json.loads(at(background, "txn", "show", "paid", "--json").stdout)["outcome"] == "committed"


def test_an_unknown_transaction_is_status_5_and_one_line(background: Background) -> None:
    shown = at(background, "txn", "show", "unheard-of")
    assert shown.exit_code == 5
    assert shown.stderr == "commitd: no transaction 'unheard-of' is recorded\n"
    assert shown.stdout == ""


def test_a_resolution_that_contradicts_is_refused_with_status_1(background: Background) -> None:
    """What the participants hold is shown before, beside the result."""
    shown = at(background, "txn", "resolve", "paid", "--abort", "--reason", "x", "--operator", "ada", "--yes")
    assert shown.exit_code == 1
    *held, refused = shown.stderr.splitlines()
    assert [line.split()[-1] for line in held] == ["holds", "committed", "committed"]
    assert refused == "commitd: paid was decided before: commit, by votes"
    assert shown.stdout == ""


def test_who_has_no_name_must_say_one_before_anything_is_asked(
    background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user without an entry in the list of users. Seen red with the name looked for after the question."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)
    shown = at(background, "txn", "resolve", "paid", "--commit", "--reason", "x", "--yes")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "Invalid value for --operator: is needed" in shown.stderr
    assert "holds" not in shown.stderr


def test_a_resolution_that_repeats_the_record_is_fine(background: Background) -> None:
    shown = at(background, "txn", "resolve", "paid", "--commit", "--reason", "x", "--yes", "--json")
    assert (shown.exit_code, json.loads(shown.stdout)["decided_by"]) == (0, "votes")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--abort",), "--yes: is needed where nobody can be asked"),
        (("--yes",), "--commit or --abort: say which of both"),
        (("--commit", "--abort", "--yes"), "--commit or --abort: say which of both"),
    ],
)
def test_a_resolution_that_does_not_say_what_is_wanted_is_status_2(
    background: Background, arguments: tuple[str, ...], said: str
) -> None:
    shown = at(background, "txn", "resolve", "paid", "--reason", "x", *arguments)
    assert shown.exit_code == 2
    assert said in " ".join(shown.stderr.replace("│", " ").split())


def test_a_resolution_needs_a_reason(background: Background) -> None:
    shown = at(background, "txn", "resolve", "paid", "--commit", "--yes")
    assert shown.exit_code == 2
    assert "--reason" in shown.stderr


def test_damage_is_named_after_a_resolution_and_has_its_own_status(background: Background) -> None:
    """Somebody had committed a branch by hand. Seen by everybody who looks, until it is mended."""
    leader, clerks = background.cluster.replicas["n1"], background.cluster.clerks
    clerks["bank-b"].refuse("", times=0)
    clerks["bank-b"].hold(Verb.PREPARE)
    background.do(leader.transactions.begin(request("bank-a", "bank-b", gid="mishap"), 0.0))
    background.do(clerks["bank-b"].arrived(Verb.PREPARE))
    clerks["bank-a"].states[BranchKey("mishap", "b1")] = BranchState.COMMITTED
    resolved = at(
        background, "txn", "resolve", "mishap", "--abort", "--reason", "why [not]", "--operator", "ada", "--yes"
    )
    assert resolved.exit_code == 6
    for shown in (resolved, at(background, "txn", "show", "mishap")):
        assert "by deadline set by ada" in shown.stdout
        assert "why [not]" in shown.stdout
        assert "DAMAGE: branch b1 at bank-a says committed, but the transaction is aborted" in shown.stdout
    told = json.loads(at(background, "txn", "show", "mishap", "--json").stdout)
    assert [branch["damage"] is not None for branch in told["held"]] == [True, False]

    async def mended() -> None:
        clerks["bank-a"].states[BranchKey("mishap", "b1")] = BranchState.ABORTED
        clerks["bank-b"].release(Verb.PREPARE)

    background.do(mended())


def test_the_cluster_shows_every_replica(background: Background) -> None:
    shown = at(background, "cluster", "status")
    assert shown.exit_code == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["replica", "n1", "n2", "n3"]
    told = json.loads(at(background, "cluster", "status", "--json").stdout)
    assert [replica["status"]["leader"] for replica in told["replicas"]] == ["n1"] * 3


def test_several_urls_may_be_given_and_a_dead_one_is_passed_over(background: Background) -> None:
    both = f"{NOWHERE},{background.cluster.urls['n3']}"
    assert commitd("txn", "show", "paid", "--url", both).exit_code == 0


def test_nobody_there_is_status_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.cli.asking.TIMEOUT_S", 0.2)
    shown = commitd("txn", "show", "paid", "--url", NOWHERE)
    assert shown.exit_code == 3
    assert shown.stderr.startswith("commitd: no replica gave an answer in time: ")
    assert shown.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("txn", "list"),
        ("txn", "list", "--url", "h:1"),
        ("txn", "list", "--url", "http://h:99999"),
        ("serve", "--log-level", "loud"),
        ("txn", "list", "--limit", "0"),
    ],
)
def test_a_wrong_command_line_is_status_2(arguments: tuple[str, ...]) -> None:
    shown = commitd(*arguments)
    assert shown.exit_code == 2
    assert "Traceback" not in shown.output


def test_a_configuration_is_checked_and_every_mistake_is_a_line(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(CLUSTER, encoding="utf-8")
    shown = commitd("config", "check", str(file))
    assert (shown.exit_code, shown.stdout) == (0, f"{file}: ok: cluster demo, 1 nodes, 0 participants\n")
    file.write_text(CLUSTER.replace("id =", "idd =").replace("7001", "0"), encoding="utf-8")
    shown = commitd("config", "check", str(file))
    assert shown.exit_code == 1
    assert shown.stderr.splitlines() == [
        f"commitd: {file}: cluster.id: is missing; add it",
        f"commitd: {file}: cluster.idd: unknown key; did you mean id?",
        f"commitd: {file}: nodes.0.raft_address: 0 is not a port; use 1 to 65535",
    ]


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        ('secret_file = "nowhere"', "cluster.secret_file: {base}/nowhere: No such file or directory"),
        ('secret_file = "short"', "cluster.secret_file: the secret is too short: at least 16 bytes"),
        (
            'tls = {ca_file = "nowhere", cert_file = "nowhere", key_file = "nowhere"}',
            "cluster.tls.ca_file: {base}/nowhere: No such file or directory",
        ),
        (
            'tls = {ca_file = "short", cert_file = "short", key_file = "short"}',
            "cluster.tls: the files cannot be used: ",
        ),
    ],
)
def test_a_file_that_a_configuration_names_is_checked_too(tmp_path: Path, proof: str, said: str) -> None:
    """Goal: what `serve` would stumble over is found before."""
    (tmp_path / "short").write_text("short", encoding="utf-8")
    file = tmp_path / "cluster.toml"
    file.write_text(CLUSTER.replace('secret = "sixteen bytes or more"', proof), encoding="utf-8")
    shown = commitd("config", "check", str(file))
    assert shown.exit_code == 1
    assert shown.stderr.startswith(f"commitd: {file}: {said.format(base=tmp_path)}")
    assert shown.stderr.count("\n") == 1


def test_a_participants_configuration_is_checked_too(tmp_path: Path) -> None:
    file = tmp_path / "bank.toml"
    file.write_text('name = "bank-a"\ndata = "a.db"\n', encoding="utf-8")
    assert commitd("config", "check", str(file)).stdout == f"{file}: ok: participant bank-a\n"
    file.write_text('name = "bank-a"\ndata = "a.db"\nport = -1\n', encoding="utf-8")
    shown = commitd("config", "check", str(file))
    assert shown.exit_code == 1
    assert "port" in shown.stderr


@pytest.mark.parametrize(
    "arguments",
    [("serve", "--config", "nowhere.toml", "--node", "n1"), ("participant", "--config", "nowhere.toml")],
)
def test_a_process_without_its_configuration_says_so_in_one_line(arguments: tuple[str, ...]) -> None:
    shown = commitd(*arguments)
    assert shown.exit_code == 1
    assert shown.stderr.startswith("commitd: nowhere.toml: ")
    assert shown.stderr.count("\n") == 1


def test_a_node_that_is_not_configured_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(CLUSTER, encoding="utf-8")
    shown = commitd("serve", "--config", str(file), "--node", "n9")
    assert (shown.exit_code, shown.stderr) == (
        1,
        "commitd: --node: n9: no such node is configured; there are n1\n",
    )


def test_the_openapi_document_is_printed_and_written(tmp_path: Path) -> None:
    assert commitd("openapi").stdout == openapi.text()
    file = tmp_path / "openapi.json"
    assert commitd("openapi", "--output", str(file)).exit_code == 0
    assert file.read_text(encoding="utf-8") == openapi.text()


def test_help_tells_the_exit_statuses() -> None:
    shown = commitd("--help")
    assert shown.exit_code == 0
    assert "5 no such transaction" in " ".join(shown.stdout.split())
