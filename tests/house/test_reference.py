"""The tables of `docs/reference/` say what the code says: each is read, and compared with what it describes."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from typer.core import TyperGroup

from coordinator import config, errors
from coordinator.cli.exits import Exit
from coordinator.cli.main import app
from coordinator.http.endpoints import ENDPOINTS
from coordinator.simulation.disk import SimDisk
from participant.config import ParticipantConfig
from participant.endpoints import Endpoints
from participant.rm.memory import Memory
from participant.service import ParticipantService
from participant.wire import STREAM_PATH
from tests.house.tree import PACKAGES, ROOT, code

SECTIONS: dict[str, type[BaseModel]] = {
    "cluster": config.Cluster,
    "cluster.tls": config.Tls,
    "nodes": config.Node,
    "timing": config.Timing,
    "limits": config.Limits,
    "alarms": config.Alarms,
    "notify": config.Notify,
    "raft": config.Raft,
    "participant": ParticipantConfig,
}
ABSENT = {"required": PydanticUndefined, "none": None}


def _text(page: str) -> str:
    return (ROOT / "docs/reference" / page).read_text(encoding="utf-8")


def _rows(text: str, head: str) -> list[list[str]]:
    """The rows of every table whose first column is headed so; cells without their quotes."""
    rows: list[list[str]] = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if cells and cells[0] == head:
            inside = True
        elif not cells:
            inside = False
        elif inside and not set(cells[0]) <= {"-"}:
            rows.append(cells)
    return rows


def _section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one. "" if there is no such heading."""
    _, _, rest = text.partition(f"{heading}\n")
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_stands_in_the_reference_with_its_default(section: str) -> None:
    """Goal: no key is missing, invented, or has another default. Seen red with each of the three."""
    rows = _rows(_section(_text("config.md"), f"### `{section}`"), "key")
    shown = {key: ABSENT[value] if value in ABSENT else tomllib.loads(f"x = {value}")["x"] for key, value, _ in rows}
    real = {
        key: list(field.default) if isinstance(field.default, tuple) else field.default
        for key, field in SECTIONS[section].model_fields.items()
    }
    assert shown == real


def _commands(group: TyperGroup, prefix: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, TyperGroup):
            found |= _commands(command, f"{prefix} {name}")
        else:
            options = (option for parameter in command.params for option in parameter.opts)
            found[f"{prefix} {name}"] = {option for option in options if option.startswith("--")} - {"--help"}
    return found


def test_every_command_stands_in_the_reference_with_its_options() -> None:
    """Goal: no command or option is missing or invented."""
    real = _commands(typer.main.get_command(app), "commitd")  # type: ignore[arg-type]
    text = _text("cli.md")
    named = re.findall(r"^## `(commitd .*)`$", text, re.MULTILINE)
    shown = {name: {row[0] for row in _rows(_section(text, f"## `{name}`"), "option")} for name in named}
    assert shown == real
    assert {int(row[0]) for row in _rows(text, "exit status")} == {exit_.value for exit_ in Exit}


def test_every_endpoint_and_error_stands_in_the_reference() -> None:
    """Goal: the API's two tables are whole."""
    text = _text("http.md")
    shown = {(row[0], row[1]) for row in _rows(text, "method")}
    assert shown == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    problems = {(int(row[0]), row[1]) for row in _rows(text.partition("## Errors")[2], "status")}
    assert problems == {(error.status, error.code) for error in errors.RequestError.__subclasses__()}


def test_every_path_of_a_participant_stands_in_the_reference() -> None:
    """Goal: so is the participant's."""
    memory = Memory(SimDisk())
    routes = Endpoints(ParticipantService("any", memory, {}), _Healthy(), memory, {}).routes
    shown = {(row[0], row[1]) for row in _rows(_text("participant-api.md"), "method")}
    assert shown == {(method, path) for path, methods in routes.items() for method in methods} | {("GET", STREAM_PATH)}


class _Healthy:
    def failure(self) -> str | None:
        return None


@pytest.mark.parametrize("row", _rows(_text("limits.md"), "name"), ids=lambda row: row[0])
def test_a_limit_has_the_value_that_the_reference_says(row: list[str]) -> None:
    """Goal: a limit that changes is changed on the page too."""
    module, _, name = row[0].rpartition(".")
    value: Any = getattr(import_module(module), name)
    assert f"{value:,g}" == row[1] or f"{value:,}" == row[1]


def test_every_limit_of_the_api_stands_in_the_reference() -> None:
    """Goal: what a caller may send is bounded nowhere else than on the page."""
    wire = import_module("coordinator.wire")
    real = {f"coordinator.wire.{name}" for name in dir(wire) if re.search(r"_(MAX|MIN)(_MS)?$", name)}
    assert real - {row[0] for row in _rows(_text("limits.md"), "name")} == {
        "coordinator.wire.WORKS_MAX",  # which is the participant's, and stands there under its name
    }


def test_every_event_that_operators_are_told_of_is_logged() -> None:
    """Goal: nobody waits for a line that is never written."""
    page = (ROOT / "docs/howto/operate.md").read_text(encoding="utf-8")
    events = {event for row in _rows(page, "event") for event in row[0].split("`, `")}
    written = "".join(file.read_text(encoding="utf-8") for file in code(*PACKAGES))
    assert events
    assert {event for event in events if not re.search(rf'\(\s*"{re.escape(event)}"', written)} == set()
