"""What SQL statement is about to run, by its words. For the rule that an action does not end its transaction."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import NamedTuple

from participant.errors import ActionError

__all__ = [
    "REMEMBERED_CHARS_MAX",
    "REMEMBERED_MAX",
    "Statement",
    "not_for_an_action",
    "remembered",
    "without_literals",
    "words_of",
]

REMEMBERED_MAX = 256  # statements whose look is remembered; a service runs the same few again and again
REMEMBERED_CHARS_MAX = 10_000  # in one of them

_BLANK = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|#[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_WORDS = re.compile(r"[a-z]+(?:\s+[a-z]+){0,2}", re.IGNORECASE)
_LITERALS = re.compile(
    r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`[^`]*`|--(?=\s|$)[^\n]*(?:\n|$)|\#[^\n]*(?:\n|$)|/\*(?![!M]).*?\*/""",
    re.DOTALL | re.VERBOSE,
)


class Statement(NamedTuple):
    """What its text tells of a statement: whether it `writes`, where each database says what that is in doubt; and
    whether it `soils` its session, in which it may leave what outlives the transaction."""

    writes: bool
    soils: bool


def remembered(look: Callable[[str], Statement]) -> Callable[[str], Statement]:
    """`look`, which looks once at what is run again and again. What it refuses is refused each time."""
    kept = lru_cache(REMEMBERED_MAX)(look)

    @wraps(look)
    def looked(sql: str) -> Statement:
        return kept(sql) if len(sql) <= REMEMBERED_CHARS_MAX else look(sql)

    return looked


def words_of(sql: str) -> str:
    """The first three words of a statement, or as many as there are, in small letters; comments are skipped.

    Where something else stands in the place of a word, its first character.
    """
    blank = _BLANK.match(sql)
    begin = blank.end() if blank else 0
    found = _WORDS.match(sql, begin)
    return " ".join(found[0].lower().split()) if found else sql[begin : begin + 1]


def without_literals(sql: str) -> str:
    """SQL (of MariaDB, where `--` is a comment only before a blank) with a space for each text, name and comment."""
    return _LITERALS.sub(" ", sql)


def not_for_an_action(words: str, instead: str) -> ActionError:
    """The error for a statement that would end the branch's transaction, or outlive it."""
    return ActionError(
        f"{words.upper()} is not for an action: the branch's transaction ends with its decision; {instead}"
    )
