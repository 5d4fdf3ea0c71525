"""The columns of our table, as this release needs them and as a database has them.

Owns the comparison, and what to say of a table of another release. Must never do: alter one. That waits for every
branch that is prepared, and is for whoever upgrades.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from participant.errors import SchemaError

__all__ = ["check_columns", "lines_of"]


def check_columns(needed: Mapping[str, str], found: Sequence[tuple[str, str]], *, add: str, change: str) -> None:
    """Raises SchemaError, with the statements that mend the table if it is an earlier release's.

    `needed`: definitions by name, each beginning with its type. `found`: names and types, in their order. `add` and
    `change`: statements with places for a `name`, its `type` and its `definition`.
    """
    names = [name for name, _ in found]
    if names != list(needed)[: len(names)]:
        raise SchemaError(
            f"the table commitd_branch has the columns {', '.join(names)}, and this release needs "
            f"{', '.join(needed)}: use the release that has made it, or another database"
        )
    types = dict(found)
    statements = [
        (change if name in types else add).format(name=name, type=_type_of(definition), definition=definition)
        for name, definition in needed.items()
        if types.get(name) != _type_of(definition)
    ]
    if statements:
        raise SchemaError(
            "the table commitd_branch is an earlier release's; let its owner run, once, while no branch is prepared:\n"
            + "\n".join(statements)
        )


def lines_of(columns: Mapping[str, str]) -> str:
    """As in CREATE TABLE."""
    return "\n".join(f"    {name} {definition}," for name, definition in columns.items())


def _type_of(definition: str) -> str:
    return definition.partition(" ")[0].lower()
