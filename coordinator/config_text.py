"""From variables to a configuration's table, and from a validation error to what a person should do.

Owns: the mapping of `COMMITD_A__B` to the key `a.b`, and the wording of mistakes. Must never do: know a key.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from coordinator.errors import Mistake

__all__ = ["PREFIX", "explain", "overlay", "strangers"]

PREFIX = "COMMITD_"
_NESTED = "__"


def overlay(table: dict[str, Any], environment: Mapping[str, str], *, sections: Collection[str]) -> dict[str, str]:
    """Lay the variables that name a key of one of `sections` over `table`, in place.

    Returns: the key of each variable that was used, mapped to the variable's name.
    """
    used: dict[str, str] = {}
    for variable, text in sorted(environment.items()):
        parts = variable.removeprefix(PREFIX).split(_NESTED)
        if not variable.startswith(PREFIX) or parts[0].lower() not in sections:
            continue
        used[_set(table, parts, text)] = variable
    return used


def strangers(environment: Mapping[str, str], sections: Collection[str]) -> tuple[Mistake, ...]:
    """One mistake for each variable that looks like a key, but of no section: it would be ignored."""
    mistakes = []
    for variable in sorted(environment):
        section, nested, _ = variable.removeprefix(PREFIX).partition(_NESTED)
        if variable.startswith(PREFIX) and nested and section.lower() not in sections:
            mistakes.append(Mistake(variable, f"no such section; {_near(section.lower(), sections, 'there are')}"))
    return tuple(mistakes)


def _set(table: dict[str, Any], parts: list[str], text: str) -> str:
    where: Any = table
    key: list[str] = []
    for part in parts[:-1]:
        found = _find(where, part)
        key.append(str(found))
        where = where.setdefault(found, {}) if isinstance(where, dict) else where[found]
        if not isinstance(where, dict | list):
            return ".".join(key)  # the file has a plain value here; validation says what is wrong with it
    last = _find(where, parts[-1])
    where[last] = _value(text)
    return ".".join([*key, str(last)])


def _find(where: Any, part: str) -> Any:
    """The key of a table, or the index of a list of named tables, that a variable's part means."""
    if isinstance(where, list):
        for index, item in enumerate(where):
            name = item.get("name") if isinstance(item, dict) else None
            if _plain(str(name)) == _plain(part):
                return index
        if part.isdecimal() and int(part) < len(where):
            return int(part)
        where.append({"name": part.lower()})
        return len(where) - 1
    return next((key for key in where if _plain(key) == _plain(part)), part.lower())


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _value(text: str) -> Any:
    if text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def explain(error: ValidationError, model: type[BaseModel], variables: Mapping[str, str]) -> tuple[Mistake, ...]:
    """One mistake for each wrong key, in the order of the keys."""
    mistakes = []
    for wrong in error.errors(include_url=False):
        location = [str(part) for part in wrong["loc"] if part != "[key]"]
        key = ".".join(location) or "file"
        variable = variables.get(key)
        advice = _advice(wrong["type"], wrong["msg"], wrong.get("input"), location, model)
        mistakes.append(Mistake(f"{key} (from {variable})" if variable else key, advice))
    return tuple(mistakes)


def _advice(kind: str, message: str, given: Any, location: list[str], model: type[BaseModel]) -> str:
    match kind:
        case "missing":
            return "is missing; add it"
        case "extra_forbidden":
            return f"unknown key; {_near(location[-1], _siblings(model, location), 'known here:')}"
        case "tuple_type":
            return f"write one [[{location[-1]}]] table for each"
        case "model_type" | "dict_type" if not location[-1].isdecimal():
            return f"write a table: [{'.'.join(location)}]"
        case "string_pattern_mismatch":
            return f"{given!r} is not a name; start with a letter or digit, then up to 63 of A-Z a-z 0-9 _ . : -"
        case "value_error":
            return message.removeprefix("Value error, ")
        case _:
            shown = f" (it is {given!r})" if isinstance(given, str | int | float | bool) else ""
            return f"{message[:1].lower()}{message[1:].replace('Input', 'input')}{shown}"


def _near(given: str, known: Collection[str], otherwise: str) -> str:
    close = difflib.get_close_matches(given, known, n=1)
    return f"did you mean {close[0]}?" if close else f"{otherwise} {', '.join(known)}"


def _siblings(model: type[BaseModel], location: list[str]) -> list[str]:
    """The keys of the section that an unknown key stands in."""
    section: type[BaseModel] = model
    for part in location[:-1]:
        field = section.model_fields.get(part)
        if field is None:
            continue  # the position in a list
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), section)
    return list(section.model_fields)
