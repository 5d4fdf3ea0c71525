"""`commitd failures`: its options, its output, and how it ends."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from coordinator.cli.exits import Exit
from coordinator.cli.main import app
from coordinator.failures.claims import CLAIMS

ONE = ["failures", "--seeds", "1", "--processes", "1", "--scenario", "nothing", "--protocol", "2pc"]


def test_one_cell_is_played_and_told_to_a_program() -> None:
    ran = CliRunner().invoke(app, [*ONE, "--json"])
    assert ran.exit_code == Exit.DONE
    (cell,) = json.loads(ran.stdout)["cells"]
    assert (cell["protocol"], cell["scenario"], cell["runs"], cell["as_claimed"]) == ("2pc", "nothing", 1, True)


def test_a_claim_that_fails_ends_with_1_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: whoever runs it in a pipeline notices."""
    (first, *_) = CLAIMS
    monkeypatch.setattr(
        "coordinator.failures.claims.CLAIMS",
        (replace(first, says="the moon is made of cheese", holds=lambda _: False),),
    )
    ran = CliRunner().invoke(app, ONE)
    assert ran.exit_code == Exit.FAILED
    assert "NOT AS CLAIMED" in ran.stdout
    assert "commitd: 2pc, nothing: not so that the moon is made of cheese" in ran.stderr


@pytest.mark.parametrize("option", ["--protocol", "--scenario"])
def test_what_is_not_there_is_refused_with_what_is(option: str) -> None:
    ran = CliRunner().invoke(app, ["failures", option, "4pc"])
    assert ran.exit_code == Exit.USAGE
    assert "'4pc' is none of" in " ".join(ran.stderr.replace("│", " ").split())


def test_a_page_is_drawn_of_what_was_played() -> None:
    ran = CliRunner().invoke(app, [*ONE, "--markdown"])
    assert ran.exit_code == Exit.DONE
    assert "| nothing | yes |" in ran.stdout
