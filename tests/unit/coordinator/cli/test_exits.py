"""Every error has an exit status, and is said in lines that a person can act on."""

from __future__ import annotations

import pytest

from coordinator.cli.exits import Exit, exit_of, lines_of
from coordinator.errors import (
    ConfigError,
    Contradiction,
    CoordinatorError,
    Mistake,
    NotFound,
    OutcomeUnknown,
    ReplicaFailed,
    Unavailable,
)
from participant.errors import ConfigError as ParticipantConfigError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("f", ()), Exit.FAILED),
        (Contradiction("no"), Exit.FAILED),
        (ReplicaFailed("no"), Exit.FAILED),
        (ParticipantConfigError("no"), Exit.FAILED),
        (Unavailable("no"), Exit.UNREACHABLE),
        (OutcomeUnknown("g", "/h", "no"), Exit.UNKNOWN),
        (NotFound("no"), Exit.NOT_FOUND),
    ],
)
def test_an_error_ends_with_its_status(error: CoordinatorError, status: Exit) -> None:
    assert exit_of(error) is status


def test_a_configuration_is_told_mistake_by_mistake() -> None:
    mistakes = (Mistake("a.b", "is missing; add it"), Mistake("c", "unknown key"))
    assert lines_of(ConfigError("f.toml", mistakes)) == ["f.toml: a.b: is missing; add it", "f.toml: c: unknown key"]
    assert lines_of(ParticipantConfigError("x: is missing\ny: is wrong")) == ["x: is missing", "y: is wrong"]


def test_any_other_error_is_one_line() -> None:
    assert lines_of(ReplicaFailed("several\n  lines")) == ["several lines"]
